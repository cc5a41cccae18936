//! AWS: the agent's exchange by the real SDKs, against a scripted AWS and against moto.

mod endpoints;
mod errors;
mod moto;
mod registry;

use std::time::Duration;

use agent::docker_config::BasicCredential;
use agent::exchange::ecr::Ecr;
use agent::exchange::{Credential, Exchange as _};
use agent::identity::IdentityToken;
use agent::refresh::{Failure, Fresh};
use harness::aws::{Aws, Provider, Role, Trust};
use harness::upstreams::{Issuer, Server, Upstreams};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret as _;
use shared::binding::ExchangeKind;
use shared::registry::RegistryHost;

const AUDIENCE: &str = "sts.amazonaws.com";
const REGISTRY: &str = "123456789012.dkr.ecr.us-west-2.amazonaws.com";
const STS: &str = "sts.us-west-2.amazonaws.com";
const API: &str = "api.ecr.us-west-2.amazonaws.com";
const PUBLIC: &str = "public.ecr.aws";
const PUBLIC_STS: &str = "sts.us-east-1.amazonaws.com";
const PUBLIC_API: &str = "api.ecr-public.us-east-1.amazonaws.com";

/// A world with an AWS that trusts its issuer.
struct World {
    upstreams: Upstreams,
    issuer: Issuer,
    aws: Aws,
    hosts: Vec<&'static str>,
    _server: Server,
}

impl World {
    async fn new(hosts: &[&'static str]) -> Self {
        let upstreams = Upstreams::new().unwrap();
        let issuer = Issuer::start(&upstreams).await.unwrap();
        let aws = Aws::new(None).unwrap();
        aws.trust(Provider {
            issuer: Issuer::url(),
            client_ids: vec![AUDIENCE.into()],
            keys: Some(issuer.keys().clone()),
        });
        let server = upstreams.serve(hosts, aws.routes()).await.unwrap();
        Self {
            upstreams,
            issuer,
            aws,
            hosts: hosts.to_vec(),
            _server: server,
        }
    }

    async fn usual() -> Self {
        Self::new(&[STS, API, REGISTRY, PUBLIC_STS, PUBLIC_API]).await
    }

    /// A role of `project` that trusts the project's service account and its SPIFFE ID.
    fn role(&self, project: &str) -> Role {
        let trust = [service_account(project), spiffe_id(project)].map(|subject| Trust {
            issuer: Issuer::url(),
            subject,
            audience: AUDIENCE.into(),
        });
        let role = Role {
            arn: arn(project),
            trust: trust.into(),
            authorizes: true,
            authorizes_public: true,
            repositories: vec![format!("{REGISTRY}/{project}/*")],
        };
        self.aws.add_role(role.clone());
        role
    }

    fn token(&self, subject: &str) -> IdentityToken {
        let life = Duration::from_secs(3600);
        self.issuer.token(subject, AUDIENCE, life).unwrap()
    }

    /// Every host of the world is on loopback, and listed for that.
    fn allowed(&self) -> String {
        let listed = self.hosts.iter().map(|host| format!("{host};private"));
        listed.collect::<Vec<_>>().join(",")
    }

    async fn exchange(
        &self,
        ecr: &Ecr,
        token: &IdentityToken,
    ) -> Result<Fresh<Credential>, Failure> {
        self.exchange_within(&self.allowed(), ecr, token).await
    }

    async fn exchange_within(
        &self,
        allowed: &str,
        ecr: &Ecr,
        token: &IdentityToken,
    ) -> Result<Fresh<Credential>, Failure> {
        let kind = if ecr.is_public {
            ExchangeKind::EcrPublic
        } else {
            ExchangeKind::Ecr
        };
        let outlet = self.upstreams.outlet(kind, ecr.host.as_str(), allowed);
        ecr.exchange(&outlet.unwrap(), token).await
    }

    async fn password(&self, project: &str) -> String {
        let token = self.token(&service_account(project));
        let fresh = self
            .exchange(&ecr(REGISTRY, project), &token)
            .await
            .unwrap();
        basic(fresh).secret.expose_secret().to_owned()
    }
}

fn arn(project: &str) -> String {
    format!("arn:aws:iam::123456789012:role/argocd-project-{project}")
}

fn service_account(project: &str) -> String {
    format!("system:serviceaccount:argocd:argocd-project-{project}")
}

fn spiffe_id(project: &str) -> String {
    format!("spiffe://example.org/ns/argocd/sa/argocd-project-{project}")
}

fn ecr(host: &str, project: &str) -> Ecr {
    Ecr {
        host: RegistryHost::parse(host).unwrap(),
        is_public: host == PUBLIC,
        role_arn: arn(project),
        token_url: None,
    }
}

fn basic(fresh: Fresh<Credential>) -> BasicCredential {
    match fresh.credential {
        Credential::Basic(basic) => basic,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn both_kinds_of_identity_become_a_password_of_twelve_hours() {
    let world = World::usual().await;
    world.role("production");
    for subject in [service_account("production"), spiffe_id("production")] {
        for host in [REGISTRY, PUBLIC] {
            let token = world.token(&subject);
            let fresh = world
                .exchange(&ecr(host, "production"), &token)
                .await
                .unwrap();
            let left = fresh.expires_at.duration_since(Timestamp::now());
            assert!(
                left > SignedDuration::from_hours(11) && left <= SignedDuration::from_hours(12)
            );
            assert_eq!(basic(fresh).username, "AWS");
        }
    }
    let sessions: Vec<_> = world
        .aws
        .requests()
        .into_iter()
        .map(|it| it.session)
        .collect();
    assert_eq!(
        sessions,
        vec![Some("argocd-project-production".to_owned()); 8]
    );
}

#[tokio::test]
async fn each_project_gets_a_password_of_its_own() {
    let world = World::usual().await;
    world.role("production");
    world.role("staging");
    let (production, staging) = (
        world.password("production").await,
        world.password("staging").await,
    );
    assert_ne!(production, staging);
    let token = world.token(&service_account("staging"));
    let stolen = world.exchange(&ecr(REGISTRY, "production"), &token).await;
    assert_eq!(
        stolen.unwrap_err().error.code.as_str(),
        "assume-role-denied"
    );
}
