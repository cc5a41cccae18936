//! Of what: a binding counts for nothing, its Secret for everything, whether or
//! not admission has seen it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::bindings::{self, CredentialBinding};
use harness::installation::NAMESPACE;
use harness::process::wait_until;
use harness::scene::ARGOCD;
use harness::targets::{SPOKE_AUDIENCE, identity};
use kube::Api;
use serde_json::{Value, json};
use shared::errors::Code;

use super::bench::{Ask, Bench, bound_token, pod, registry, repository, secrets, token};
use crate::api::Rest;
use crate::case::{Case, exclusive, shared};
use crate::scene::Scene;

const SOON: Duration = Duration::from_secs(60);
const WEBHOOKS: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/argocd-identity";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/argocd-identity/leases/\
                     argocd-identity-controller";

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(there_is_no_such_secret),
        shared!(what_the_credential_proxy_delivers_is_issued),
        shared!(what_cannot_be_delivered_is_not_issued),
        exclusive!(secrets_that_admission_has_not_seen),
        exclusive!(bindings_edited_by_hand),
    ]
}

async fn there_is_no_such_secret(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "missing").await?;
    let rest = &bench.rest;
    let mut plain: Value = serde_json::from_str(&repository(
        "identity-plain",
        &[("useWorkloadIdentity", "false")],
    ))?;
    rest.create(&secrets(ARGOCD), &plain).await?;
    // All of it right, but Argo CD does not look at it.
    plain["metadata"]["name"] = json!("identity-unlabelled");
    plain["metadata"]["labels"] = json!({ "example.test/not": "argocd" });
    plain["stringData"]["useWorkloadIdentity"] = json!("true");
    rest.create(&secrets(ARGOCD), &plain).await?;
    for binding in ["identity-absent", "identity-plain", "identity-unlabelled"] {
        let ask = Ask {
            binding: binding.to_owned(),
            ..bench.granted()
        };
        let message = bench.api.refuses(&ask, 404, Code::BindingNotFound).await?;
        ensure!(message.contains(binding), "{message}");
    }
    for name in ["identity-plain", "identity-unlabelled"] {
        rest.delete(&format!("{}/{name}", secrets(ARGOCD))).await?;
    }

    // A Secret that was there is not remembered either.
    let path = format!("{}/{}", secrets(ARGOCD), bench.name);
    rest.delete(&path).await?;
    let ask = bench.granted();
    bench.api.refuses(&ask, 404, Code::BindingNotFound).await?;
    let again: Value = serde_json::from_str(&repository(&bench.name, &[]))?;
    rest.create(&secrets(ARGOCD), &again).await?;
    bench.close().await
}

/// The identity API needs no key of the credential proxy.
async fn what_the_credential_proxy_delivers_is_issued(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "proxied").await?;
    let name = "identity-of-a-project";
    let changes = [("project", "team-a")];
    let stored: Value = serde_json::from_str(&repository(name, &changes))?;
    bench.rest.create(&secrets(ARGOCD), &stored).await?;
    let ask = Ask {
        binding: name.to_owned(),
        ..bench.granted()
    };
    let granted = bench.api.ask(&ask).await?.granted()?;
    let subject = "/ns/argocd/sa/argocd-project-team-a";
    ensure!(granted.subject.ends_with(subject), "{}", granted.subject);
    let path = format!("{}/{name}", secrets(ARGOCD));
    bench.rest.delete(&path).await?;
    bench.close().await
}

async fn what_cannot_be_delivered_is_not_issued(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "undelivered").await?;
    let rest = &bench.rest;
    let name = "identity-x509";
    let changes = [("workloadIdentityCredential", "SpiffeCertificate")];
    let stored: Value = serde_json::from_str(&repository(name, &changes))?;
    rest.create(&secrets(ARGOCD), &stored).await?;
    let ask = Ask {
        binding: name.to_owned(),
        ..bench.granted()
    };
    let code = Code::CertificateNotUsable;
    let message = bench.api.refuses(&ask, 409, code).await?;
    ensure!(message.contains(name), "{message}");
    rest.delete(&format!("{}/{name}", secrets(ARGOCD))).await?;
    bench.close().await
}

async fn secrets_that_admission_has_not_seen(scene: &mut Scene) -> Result<()> {
    let bench = Bench::new(scene, "unseen").await?;
    without_admission(&bench.rest, async {
        let rest = &bench.rest;
        for (name, changes, code) in [
            (
                "identity-unseen-host",
                (
                    "workloadIdentityRegistryAuthURL",
                    "https://thief.example.test/oauth2/federation/robot/token",
                ),
                Code::HostNotAllowed,
            ),
            (
                "identity-unseen-http",
                (
                    "workloadIdentityRegistryAuthURL",
                    "http://identity-unseen-http.example.test/oauth2/federation/robot/token",
                ),
                Code::AuthUrlInvalid,
            ),
            (
                "identity-unseen-user",
                ("workloadIdentityRegistryUsername", ""),
                Code::UsernameMissing,
            ),
            (
                "identity-unseen-provider",
                ("workloadIdentityProvider", "trust-me"),
                Code::UnknownProvider,
            ),
            (
                "identity-unseen-project",
                ("project", "../argocd"),
                Code::InvalidProject,
            ),
            (
                "identity-unseen-shared",
                ("workloadIdentityDelivery", "docker-config"),
                Code::DeliveryRefused,
            ),
        ] {
            let mut changes = vec![changes];
            if code == Code::DeliveryRefused {
                changes.push(("project", "team-a"));
            }
            let stored: Value = serde_json::from_str(&repository(name, &changes))?;
            rest.create(&secrets(ARGOCD), &stored).await?;
            let ask = Ask {
                binding: name.to_owned(),
                ..bench.granted()
            };
            let message = bench.api.refuses(&ask, 409, code).await?;
            ensure!(message.contains(name), "{message}");
            rest.delete(&format!("{}/{name}", secrets(ARGOCD))).await?;
        }
        // A Secret that was good, and whose binding stays as it was then.
        let path = format!("{}/{}", secrets(ARGOCD), bench.name);
        let exchange = "workloadIdentityRegistryAuthURL";
        let bad = json!({ "stringData": { exchange: "https://thief.example.test/token" } });
        rest.merge(&path, &bad).await?;
        let ask = bench.granted();
        bench.api.refuses(&ask, 409, Code::HostNotAllowed).await?;
        let good: Value = serde_json::from_str(&repository(&bench.name, &[]))?;
        rest.merge(&path, &json!({ "stringData": good["stringData"] }))
            .await?;
        Ok(())
    })
    .await?;
    bench.close().await
}

/// Does something while the webhook for Secrets is off.
async fn without_admission(rest: &Rest, work: impl Future<Output = Result<()>>) -> Result<()> {
    let stored = rest.read(WEBHOOKS).await?;
    let all = stored["webhooks"].as_array().context("no webhooks")?;
    let others: Vec<_> = all
        .iter()
        .filter(|webhook| webhook["name"] != "secrets.workload-identity.dev")
        .collect();
    ensure!(others.len() + 1 == all.len(), "{stored}");
    rest.merge(WEBHOOKS, &json!({ "webhooks": others })).await?;
    let outcome = async {
        seen(rest, false).await?;
        work.await
    }
    .await;
    rest.merge(WEBHOOKS, &json!({ "webhooks": all })).await?;
    seen(rest, true).await?;
    outcome
}

/// Waits until Secrets are shown to the webhook, or no longer are.
async fn seen(rest: &Rest, expected: bool) -> Result<()> {
    let bad = repository("identity-probe", &[("workloadIdentityProvider", "none")]);
    let bad: Value = serde_json::from_str(&bad)?;
    let bad = &bad;
    wait_until("the API server to follow", SOON, || async move {
        let is_refused = rest.try_create(&secrets(ARGOCD), bad).await.is_err();
        ensure!(is_refused == expected, "refused: {is_refused}");
        Ok(())
    })
    .await
}

async fn bindings_edited_by_hand(scene: &mut Scene) -> Result<()> {
    let scene = &*scene;
    let bench = Bench::new(scene, "edited").await?;
    let (name, rest) = (bench.name.as_str(), &bench.rest);
    let bindings = &bindings::api(bench.admin.clone(), ARGOCD);
    let original = wait_until("the binding", SOON, || async move {
        Ok(bindings.get(name).await?)
    })
    .await?;
    without_controller(scene, rest, forge(scene, &bench, bindings, &original)).await?;

    // Back again, the controller puts it right, or makes it anew.
    let original = &original;
    wait_until("the binding as the Secret has it", SOON, || async move {
        let found = bindings.get(name).await?;
        ensure!(found.spec == original.spec, "{:?}", found.spec);
        Ok(())
    })
    .await?;
    rest.delete(&binding("identity-forged")).await?;
    bench.close().await
}

/// Edits a binding as only the control plane may, and asks for what it says.
async fn forge(
    scene: &Scene,
    bench: &Bench,
    bindings: &Api<CredentialBinding>,
    original: &CredentialBinding,
) -> Result<()> {
    let (name, rest) = (bench.name.as_str(), &bench.rest);
    let stolen = token(rest, (NAMESPACE, "argocd-identity"), None, None).await?;
    let stolen = Rest::new(scene.around.control_plane.client_with_token(&stolen)?);
    let subject = identity("argocd-application-controller");
    let forged = json!({ "spec": {
        "target": { "address": "thief.example.test/charts" },
        "identity": {
            "subject": subject,
            "audience": SPOKE_AUDIENCE,
            "serviceAccount": "argocd-application-controller",
        },
        "exchange": { "authUrl": "https://thief.example.test/token" },
        "consumers": ["default"],
    }});
    stolen.merge(&binding(name), &forged).await?;
    let forged = bindings.get(name).await?;
    ensure!(forged.spec.identity.subject == subject, "{forged:?}");

    let given = bench.api.ask(&bench.granted()).await?.granted()?;
    ensure!(given.subject == identity("argocd-global"), "{given:?}");
    ensure!(given.audience == registry(name), "{given:?}");
    let other = pod(rest, ARGOCD, "identity-edited-2", "default", name).await?;
    let other = Ask {
        pod: bound_token(rest, &other).await?,
        ..bench.granted()
    };
    bench.api.refuses(&other, 403, Code::NotAConsumer).await?;
    // It was like that all the time.
    let still = bindings.get(name).await?;
    ensure!(still.spec == forged.spec, "{still:?}");

    // A binding without a Secret is nothing, a Secret without a binding enough.
    let orphan = json!({
        "apiVersion": "workload-identity.dev/v1alpha1",
        "kind": "CredentialBinding",
        "metadata": { "name": "identity-forged" },
        "spec": original.spec,
    });
    stolen.create(&binding(""), &orphan).await?;
    let ask = Ask {
        binding: "identity-forged".to_owned(),
        ..bench.granted()
    };
    bench.api.refuses(&ask, 404, Code::BindingNotFound).await?;
    rest.delete(&binding(name)).await?;
    bench.api.ask(&bench.granted()).await?.granted().map(drop)
}

/// Path of a binding, or of all.
fn binding(name: &str) -> String {
    let all =
        format!("/apis/workload-identity.dev/v1alpha1/namespaces/{ARGOCD}/credentialbindings");
    match name {
        "" => all,
        name => format!("{all}/{name}"),
    }
}

/// Does something while another process seems to lead: the controller stands
/// still, and the identity API answers as ever.
async fn without_controller(
    scene: &Scene,
    rest: &Rest,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    let held = json!({ "spec": { "holderIdentity": "trial", "leaseDurationSeconds": 600 } });
    rest.merge(LEASE, &held).await?;
    let outcome = async {
        leads(scene, "0").await?;
        work.await
    }
    .await;
    let free = json!({ "spec": { "holderIdentity": null } });
    rest.merge(LEASE, &free).await?;
    leads(scene, "1").await?;
    outcome
}

/// Waits until the control plane says that it leads, or that it does not.
async fn leads(scene: &Scene, expected: &str) -> Result<()> {
    let url = format!("{}/metrics", scene.installation.plan.metrics_url());
    let (url, line) = (
        &url,
        format!("argocd_identity_controller_leading {expected}"),
    );
    let line = &line;
    wait_until("the change of the leader", SOON, || async move {
        let text = reqwest::get(url).await?.text().await?;
        ensure!(text.lines().any(|found| found == line), "{text}");
        Ok(())
    })
    .await
}
