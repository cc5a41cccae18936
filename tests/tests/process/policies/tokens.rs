//! Of which service accounts the control plane has tokens made, and for whom:
//! asked with its own credentials, past its identity API.

use anyhow::{Context as _, Result, ensure};
use harness::installation::NAMESPACE;
use harness::scene::ARGOCD;
use serde_json::{Value, json};
use shared::binding::{is_mintable, is_usual_api_server_audience};

use super::bench::{control_plane, refused};
use crate::api::Rest;
use crate::case::{Case, shared};
use crate::identity::bench::{accounts, repository, secrets, service_accounts};
use crate::scene::Scene;

const AUDIENCE: &str = "registry.example.test";
/// What the policy says.
const ACCOUNT: &str = "has tokens made of argocd-project-";
const ONE: &str = "exactly one audience";
const OWN: &str = "this cluster's API server would take";
const LIFE: &str = "one day at most";
const BOUND: &str = "binds its tokens to the Secrets";

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(tokens_of_accounts_for_that_purpose_only),
        shared!(tokens_that_this_cluster_does_not_take),
    ]
}

/// Asks as the control plane, for a token bound to a Secret of the trial's own.
struct Bench {
    admin: Rest,
    ours: Rest,
    spec: Value,
    secret: String,
}

impl Bench {
    async fn new(scene: &Scene, name: &str) -> Result<Self> {
        let admin = scene.rest()?;
        accounts(&admin, ARGOCD).await?;
        let stored: Value = serde_json::from_str(&repository(name, &[]))?;
        let stored = admin.create(&secrets(ARGOCD), &stored).await?.object;
        Ok(Self {
            ours: Rest::new(control_plane(scene).await?),
            admin,
            spec: json!({
                "audiences": [AUDIENCE],
                "expirationSeconds": 600,
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "name": name,
                    "uid": stored["metadata"]["uid"],
                },
            }),
            secret: format!("{}/{name}", secrets(ARGOCD)),
        })
    }

    async fn account(&self, name: &str) -> Result<()> {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": name },
        });
        self.admin
            .create(&service_accounts(ARGOCD), &object)
            .await
            .map(drop)
    }

    /// Asks for a token that differs in one field; `null` leaves it out.
    async fn ask(
        &self,
        account: &str,
        field: &str,
        value: Value,
    ) -> Result<harness::admission::Answer<Value>> {
        let mut spec = self.spec.clone();
        spec[field] = value;
        if spec[field].is_null() {
            spec.as_object_mut().context("no spec")?.remove(field);
        }
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": spec,
        });
        let path = format!("{}/{account}/token", service_accounts(ARGOCD));
        self.ours.create(&path, &request).await
    }

    async fn given(&self, account: &str, field: &str, value: Value) -> Result<()> {
        let made = self.ask(account, field, value.clone()).await;
        let made = made.with_context(|| format!("{account}, {field}: {value}"))?;
        let token = made.object["status"]["token"].as_str();
        ensure!(token.is_some_and(|token| token.starts_with("eyJ")));
        Ok(())
    }
}

async fn tokens_of_accounts_for_that_purpose_only(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "policies-token-accounts").await?;
    let audience = || json!([AUDIENCE]);
    for account in [
        "argocd-project-policies",
        "argocd-cluster-policies.a",
        "argocd-global-cluster",
    ] {
        bench.account(account).await?;
        ensure!(is_mintable(account), "{account}");
        bench.given(account, "audiences", audience()).await?;
    }
    for account in [
        "argocd-policies",
        "argocd-projects-policies",
        "argocd-global-policies",
        "policies-argocd-project-a",
    ] {
        bench.account(account).await?;
    }
    for account in [
        "argocd-policies",
        "argocd-projects-policies",
        "argocd-global-policies",
        "policies-argocd-project-a",
        "argocd-repo-server",
        "argocd-server",
        "default",
    ] {
        ensure!(!is_mintable(account), "{account}");
        let made = bench.ask(account, "audiences", audience()).await;
        refused(made, (403, ACCOUNT), &account)?;
    }
    // Whoever else has the right to it is none of this policy's business.
    let path = format!("{}/argocd-server/token", service_accounts(ARGOCD));
    let request = crate::identity::bench::token_request(None, None);
    bench.admin.create(&path, &request).await?;
    bench.admin.delete(&bench.secret).await.map(drop)
}

async fn tokens_that_this_cluster_does_not_take(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "policies-token-audiences").await?;
    let account = "argocd-project-policies-audiences";
    bench.account(account).await?;
    for audience in [AUDIENCE, "api://AzureADTokenExchange", "sts.amazonaws.com"] {
        ensure!(!is_usual_api_server_audience(audience), "{audience}");
        bench.given(account, "audiences", json!([audience])).await?;
    }
    for audience in [
        "https://kubernetes.default.svc",
        "https://kubernetes.default.svc.cluster.local",
        "https://kubernetes.default.svc:443/",
        "HTTPS://Kubernetes.Default.SVC.",
        "kubernetes.default",
        "kubernetes",
        "kubernetes.svc.default",
        "k3s",
        "https://container.googleapis.com/v1/projects/p/locations/l/clusters/c",
        "https://oidc.eks.eu-west-1.amazonaws.com/id/ABC",
        "https://a-b.hcp.westeurope.azmk8s.io:443",
        "https://westeurope.oic.prod-aks.azure.com/t/i/",
    ] {
        ensure!(is_usual_api_server_audience(audience), "{audience}");
        let made = bench.ask(account, "audiences", json!([audience])).await;
        refused(made, (403, OWN), &audience)?;
    }
    for (field, value, words) in [
        // Without any, the API server puts its own there, of which it has two.
        ("audiences", json!(null), ONE),
        ("audiences", json!([]), ONE),
        ("audiences", json!([AUDIENCE, "another"]), ONE),
        ("audiences", json!([" "]), ONE),
        ("expirationSeconds", json!(86401), LIFE),
        ("boundObjectRef", json!(null), BOUND),
    ] {
        let made = bench.ask(account, field, value.clone()).await;
        refused(made, (403, words), &(field, value))?;
    }
    let day = json!(86400);
    bench.given(account, "expirationSeconds", day).await?;
    // Elsewhere there is no right at all.
    let path = format!("{}/default/token", service_accounts(NAMESPACE));
    let request = crate::identity::bench::token_request(Some(AUDIENCE), None);
    let made = bench.ours.create(&path, &request).await;
    refused(made, (403, "cannot"), &path)?;
    bench.admin.delete(&bench.secret).await.map(drop)
}
