//! The guide to IAM roles for service accounts and Amazon ECR.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use harness::aws::{Api, Aws, Fault, Provider, Role, Trust};
use harness::chart::Chart;
use harness::hosts;
use harness::registry::Registry;
use harness::scene::ARGOCD;
use harness::upstreams::{Server, Trusted};
use serde_json::{Value, json};
use shared::errors::Code;

use crate::case::{Case, shared};
use crate::desk::{self, Desk, document, vacant};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(one_project).with_argocd(),
        shared!(several_projects).with_argocd(),
        shared!(regions).with_argocd(),
        shared!(troubleshooting).with_argocd(),
    ]
}

const SECRETS: &str = include_str!("ecr.yaml");
const OBJECTS: &str = include_str!("ecr-objects.yaml");
const AUDIENCE: &str = "sts.amazonaws.com";

/// The account of the guide, with its OIDC provider.
struct Account {
    aws: Aws,
    issuer: String,
    registry: Registry,
    _server: Server,
}

impl Account {
    /// "Configure EKS OIDC provider": the cluster's issuer.
    async fn open(scene: &Scene, name: &str) -> Result<Self> {
        let folder = scene.folder.join(name);
        let registry = Registry::open(scene.peers.registry(), &folder).await?;
        let aws = Aws::new(Some(registry.url()))?;
        let Trusted { issuer, keys } = desk::cluster(scene).await?;
        aws.trust(Provider {
            issuer: issuer.clone(),
            client_ids: vec![AUDIENCE.into()],
            keys: Some(keys),
        });
        let authority = &scene.around.targets.authority;
        let at = SocketAddr::from(vacant(hosts::AWS_ADDRESS).await?);
        Ok(Self {
            _server: aws.serve(authority, &hosts::AWS, at).await?,
            issuer,
            registry,
            aws,
        })
    }

    /// "Create IAM role with trust policy", which pulls what is below `repositories`.
    fn role(&self, project: &str, repositories: &[&str]) -> Role {
        let role = Role {
            arn: arn(project),
            trust: vec![self.trust(&format!("argocd-project-{project}"))],
            authorizes: true,
            authorizes_public: false,
            repositories: repositories.iter().map(|it| (*it).to_owned()).collect(),
        };
        self.aws.add_role(role.clone());
        role
    }

    fn trust(&self, account: &str) -> Trust {
        Trust {
            issuer: self.issuer.clone(),
            subject: format!("system:serviceaccount:{ARGOCD}:{account}"),
            audience: AUDIENCE.into(),
        }
    }

    /// Puts a chart into the registry.
    fn publish(&self, scene: &Scene, name: &str, path: &str) -> Result<()> {
        let chart = Chart {
            name,
            version: "1.0.0",
            message: "from the guide",
        };
        let (helm, url) = (scene.peers.helm(), self.registry.url());
        chart.push_in_the_open(helm, &scene.folder.join("guide-charts"), &url, path)
    }

    /// The roles that content of the registry was served to.
    fn served(&self) -> BTreeSet<String> {
        let requests = self.aws.requests().into_iter();
        requests
            .filter(|it| it.api == Api::Registry && it.status < 400)
            .filter_map(|it| it.role)
            .collect()
    }

    /// Hosts of an API that gave something.
    fn asked(&self, api: Api) -> BTreeSet<String> {
        let requests = self.aws.requests().into_iter();
        requests
            .filter(|it| it.api == api && it.status < 400)
            .map(|it| it.host)
            .collect()
    }
}

fn arn(project: &str) -> String {
    format!("arn:aws:iam::123456789012:role/argocd-project-{project}")
}

/// "Configuration steps".
async fn one_project(scene: &Scene) -> Result<()> {
    let mut desk = Desk::open(scene).await?;
    let account = Account::open(scene, "guide-ecr").await?;
    account.role("production", &[&format!("{}/charts/*", hosts::ECR)]);
    account.publish(scene, "my-chart", "charts")?;
    desk.namespace("guide-ecr").await?;
    desk.project("production").await?;
    desk.apply(OBJECTS, &["argocd-project-production"]).await?;
    desk.apply(SECRETS, &["my-ecr-repo"]).await?;
    let binding = desk.ready("my-ecr-repo").await?;
    let subject = "system:serviceaccount:argocd:argocd-project-production";
    ensure!(binding.spec.identity.subject == subject);

    let mut application = serde_json::to_value(document(OBJECTS, "my-app")?)?;
    application["metadata"]["name"] = json!("my-ecr-app");
    application["spec"]["destination"]["namespace"] = json!("guide-ecr");
    desk.application(application).await?;
    ensure!(account.served() == [arn("production")].into());
    // "Region detection".
    let sts = account.asked(Api::Sts);
    ensure!(
        sts == ["sts.us-west-2.amazonaws.com".to_owned()].into(),
        "{sts:?}"
    );
    desk.close().await
}

/// "Multi-project setup": two roles on one registry host.
async fn several_projects(scene: &Scene) -> Result<()> {
    let mut desk = Desk::open(scene).await?;
    let account = Account::open(scene, "guide-ecr-several").await?;
    desk.namespace("guide-ecr-several").await?;
    let teams = [
        ("production", "prod-charts", "prod-ecr"),
        ("staging", "staging-charts", "staging-ecr"),
    ];
    for (project, folder, secret) in teams {
        account.role(project, &[&format!("{}/{folder}/*", hosts::ECR)]);
        account.publish(scene, project, folder)?;
        desk.project(project).await?;
        desk.apply(OBJECTS, &[&format!("argocd-project-{project}")])
            .await?;
        desk.apply(SECRETS, &[secret]).await?;
        desk.ready(secret).await?;
    }
    for (project, folder, _) in teams {
        let name = format!("guide-ecr-{project}");
        desk.application(application(&name, project, folder, project))
            .await?;
    }
    let before = account.aws.requests().len();
    let stranger = application("guide-ecr-stranger", "staging", "prod-charts", "production");
    desk.refused(stranger).await?;
    let requests = account.aws.requests().split_off(before);
    let read = requests.iter().find(|it| {
        it.api == Api::Registry && it.status < 400 && it.path.starts_with("/v2/prod-charts/")
    });
    ensure!(read.is_none(), "{read:?}");
    let served = account.served();
    ensure!(
        served == [arn("production"), arn("staging")].into(),
        "{served:?}"
    );
    desk.close().await
}

/// An Application of a project with a chart from a folder of the registry.
fn application(name: &str, project: &str, folder: &str, chart: &str) -> Value {
    let repository = format!("{}/{folder}", hosts::ECR);
    desk::application(name, project, &repository, chart, "guide-ecr-several")
}

/// "AWS GovCloud and China regions": each asks the token service that its Secret names.
async fn regions(scene: &Scene) -> Result<()> {
    let mut desk = Desk::open(scene).await?;
    let account = Account::open(scene, "guide-ecr-regions").await?;
    let mut role = account.role("production", &["*"]);
    role.trust.push(account.trust("argocd-global"));
    account.aws.add_role(role);
    desk.apply(OBJECTS, &["argocd-project-production"]).await?;
    let global = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {
            "name": "argocd-global",
            "annotations": { "eks.amazonaws.com/role-arn": arn("production") },
        },
    });
    desk.apply_object(&global).await?;
    for (secret, region) in [
        ("govcloud-ecr", "us-gov-west-1.amazonaws.com"),
        ("beijing-ecr", "cn-north-1.amazonaws.com.cn"),
        ("ningxia-ecr", "cn-northwest-1.amazonaws.com.cn"),
    ] {
        desk.apply(SECRETS, &[secret]).await?;
        desk.ready(secret).await?;
        for (api, host) in [
            (Api::Sts, format!("sts.{region}")),
            (Api::Ecr, format!("api.ecr.{region}")),
        ] {
            let asked = account.asked(api);
            ensure!(asked.contains(&host), "{secret}: {asked:?}");
        }
    }
    desk.close().await
}

/// "Troubleshooting", heading by heading.
async fn troubleshooting(scene: &Scene) -> Result<()> {
    const SECRET: &str = "my-ecr-repo";
    let mut desk = Desk::open(scene).await?;
    let account = Account::open(scene, "guide-ecr-trouble").await?;

    // "service account missing eks.amazonaws.com/role-arn annotation".
    let mut bare = serde_json::to_value(document(OBJECTS, "argocd-project-production")?)?;
    let annotations = bare["metadata"]["annotations"].take();
    desk.apply_object(&bare).await?;
    desk.apply(SECRETS, &[SECRET]).await?;
    let words = desk
        .degraded(SECRET, Code::ServiceAccountAnnotationMissing)
        .await?;
    ensure!(words.contains("eks.amazonaws.com/role-arn"), "{words}");

    // "failed to assume role: AccessDenied": the trust policy has another subject.
    let mut role = account.role("production", &["*"]);
    let trust = role.trust.clone();
    role.trust = vec![account.trust("argocd-project-another")];
    account.aws.add_role(role.clone());
    let path = format!("/api/v1/namespaces/{ARGOCD}/serviceaccounts/argocd-project-production");
    let annotated = json!({ "metadata": { "annotations": annotations } });
    scene.rest()?.merge(&path, &annotated).await?;
    let words = desk.degraded(SECRET, Code::AssumeRoleDenied).await?;
    ensure!(
        words.contains("failed to assume role: AccessDenied"),
        "{words}"
    );

    // "failed to get ECR authorization token: AccessDeniedException": no policy is attached.
    role.trust = trust;
    role.authorizes = false;
    account.aws.add_role(role.clone());
    let words = desk.degraded(SECRET, Code::EcrDenied).await?;
    ensure!(words.contains("AccessDeniedException"), "{words}");

    // "no ECR authorization data returned".
    role.authorizes = true;
    account.aws.set_empty_handed(true);
    account.aws.add_role(role);
    let words = desk.degraded(SECRET, Code::NoAuthorizationData).await?;
    ensure!(
        words.contains("no ECR authorization data returned"),
        "{words}"
    );

    // "failed to create AWS session": the way to AWS is cut, until somebody mends it.
    let gone = Fault {
        status: 503,
        code: None,
        message: "no route".into(),
        retry_after: None,
    };
    account.aws.fail(Api::Sts, gone);
    account.aws.set_empty_handed(false);
    desk.degraded(SECRET, Code::ExchangeUnreachable).await?;
    account.aws.heal(Api::Sts);
    desk.ready(SECRET).await?;
    desk.close().await
}
