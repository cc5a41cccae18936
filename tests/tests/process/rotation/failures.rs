//! Every way in which Quay refuses has its own name on the binding, with the
//! robot and Quay's own words beside it.

use anyhow::{Context as _, Result, ensure};
use harness::process::wait_until;
use harness::quay::{Endpoint, Failure, Federation, Robot};
use harness::targets::{ROBOT, identity};
use http::StatusCode;
use shared::errors::Code;

use super::LIFE;
use super::tenant::{LIMIT, Tenant};
use crate::case::{Case, shared};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(each_refusal_has_its_name).with_argocd(),
        shared!(tokens_never_go_to_a_loopback_address).with_argocd(),
    ]
}

const BINDING: &str = "failures";

/// The robot that a Secret names, what happens then, and how that is told.
struct Refusal {
    robot: &'static str,
    is: Is,
    code: Code,
    words: &'static str,
}

/// What is wrong.
enum Is {
    /// There is no such robot.
    Unknown,
    /// Its federation is not set up.
    NotFederated,
    /// Its federation trusts another issuer, or another subject.
    Federated(&'static str, &'static str),
    /// The endpoint answers with this status.
    Answering(StatusCode),
}

const OTHER_ISSUER: &str = "https://other.example.test";

const REFUSALS: [Refusal; 10] = [
    Refusal {
        robot: "prod+ghost",
        is: Is::Unknown,
        code: Code::RobotNotFound,
        words: "Could not find robot with specified username",
    },
    Refusal {
        robot: "ghost",
        is: Is::Unknown,
        code: Code::RobotNotFound,
        words: "Invalid robot",
    },
    Refusal {
        robot: "prod+plain",
        is: Is::NotFederated,
        code: Code::FederationMissing,
        words: "Robot does not have federated login configured",
    },
    Refusal {
        robot: "prod+elsewhere",
        is: Is::Federated(OTHER_ISSUER, "argocd-global"),
        code: Code::IssuerNotConfigured,
        words: "not configured for this robot",
    },
    Refusal {
        robot: "prod+another",
        is: Is::Federated("", "argocd-project-another"),
        code: Code::RobotSubjectMismatch,
        words: "Token does not match robot",
    },
    Refusal {
        // Quay's answer to keys that it cannot read or use.
        robot: "prod+keys",
        is: Is::Answering(StatusCode::INTERNAL_SERVER_ERROR),
        code: Code::UnsupportedAlgorithm,
        words: "500",
    },
    Refusal {
        robot: "prod+denied",
        is: Is::Answering(StatusCode::FORBIDDEN),
        code: Code::ExchangeRejected,
        words: "403",
    },
    Refusal {
        robot: "prod+moved",
        is: Is::Answering(StatusCode::NOT_FOUND),
        code: Code::ExchangeUnreadable,
        words: "404",
    },
    Refusal {
        robot: "prod+busy",
        is: Is::Answering(StatusCode::TOO_MANY_REQUESTS),
        code: Code::ExchangeThrottled,
        words: "429",
    },
    Refusal {
        robot: "prod+down",
        is: Is::Answering(StatusCode::BAD_GATEWAY),
        code: Code::ExchangeUnreachable,
        words: "502",
    },
];

async fn each_refusal_has_its_name(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, BINDING, LIFE).await?;
    let mut values = tenant.repository();
    values.insert("workloadIdentityRegistryUsername", REFUSALS[0].robot.into());
    tenant.create(BINDING, "repository", &values).await?;
    for refusal in &REFUSALS {
        refusal.arrange(scene, &tenant);
        choose(&tenant, refusal.robot).await?;
        let words = [
            refusal.robot,
            refusal.words,
            refusal.code.remedy(),
            tenant.quay.host(),
        ];
        let told = tenant.refused_with(BINDING, refusal.code, &words);
        let status = told.await?.status.context("no status")?;
        for condition in &status.conditions {
            ensure!(!condition.message.contains("eyJ"), "{}", condition.message);
        }
        let node = status.nodes.first().context("no node")?;
        let error = node.error.as_ref().context("the node tells no error")?;
        ensure!(
            error.code == refusal.code.as_str() && node.expires_at.is_none() && node.rotations == 0,
            "{node:?}"
        );
        ensure!(
            tenant.login()?.is_none(),
            "{}: there is a login",
            refusal.robot
        );
        tenant.quay.heal(Endpoint::Federation);
    }

    // A corrected Secret is taken in at once, whatever was before.
    choose(&tenant, ROBOT).await?;
    tenant.ready(BINDING).await?;
    ensure!(tenant.login()?.is_some(), "it is Ready without a login");

    // Nobody listens there any more.
    tenant.quay.close();
    choose(&tenant, "prod+gone").await?;
    tenant
        .refused_with(BINDING, Code::ExchangeUnreachable, &["Connection refused"])
        .await?;
    tenant.delete(BINDING).await
}

/// Has the Secret name that robot, and waits until its binding does.
async fn choose(tenant: &Tenant, robot: &str) -> Result<()> {
    let values = [("workloadIdentityRegistryUsername", Some(robot))];
    tenant.change(BINDING, &values).await?;
    let what = format!("binding {BINDING} with robot {robot}");
    wait_until(&what, LIMIT, || async {
        let found = tenant.bindings.get(BINDING).await?.spec.exchange.username;
        ensure!(found.as_deref() == Some(robot), "it has {found:?}");
        Ok(())
    })
    .await
}

impl Refusal {
    fn arrange(&self, scene: &Scene, tenant: &Tenant) {
        let federation = match &self.is {
            Is::Unknown => return,
            Is::Answering(status) => {
                let failure = Failure {
                    status: Some(*status),
                    ..Failure::default()
                };
                return tenant.quay.fail(Endpoint::Federation, failure);
            }
            Is::NotFederated => None,
            Is::Federated(issuer, account) => Some(Federation {
                issuer: match *issuer {
                    "" => scene.around.plan.issuer_url(),
                    other => other.to_owned(),
                },
                subject: identity(account),
            }),
        };
        tenant.quay.add_robot(Robot {
            name: self.robot.to_owned(),
            federation,
            pull: Vec::new(),
            push: Vec::new(),
            password: None,
        });
    }
}

/// The registry's own host needs no place in the allow-list, but an address of
/// the node itself does.
async fn tokens_never_go_to_a_loopback_address(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "loopback", LIFE).await?;
    let host = format!("localhost:{}", tenant.quay.address().port());
    let mut values = tenant.repository();
    values.insert("url", format!("oci://{host}/prod/charts"));
    values.insert(
        "workloadIdentityRegistryAuthURL",
        format!("https://{host}/oauth2/federation/robot/token"),
    );
    tenant.create("loopback", "repository", &values).await?;
    tenant.refused("loopback", Code::AddressRefused).await?;
    ensure!(
        tenant.quay.requests().is_empty(),
        "{:?}",
        tenant.quay.requests()
    );
    tenant.delete("loopback").await
}
