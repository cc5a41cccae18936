//! Whether the API server goes by what was applied: webhooks and policies are in force some time after they are stored.
//!
//! Webhooks come by a watch, policies are compiled once a second. Whoever creates a Secret before that gets one that
//! nobody has completed and nobody has checked, and only a slow machine would hide it.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use kube::Client;
use serde_json::{Value, json};
use shared::layout::VOLUME_NAME;

use super::NAMESPACE;
use crate::admission;
use crate::process::wait_until;
use crate::targets::secret_in;

/// On a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "are-the-webhooks-in-force";
/// A component of Argo CD that gets credentials, as pods are labelled and containers named.
const CONSUMER: &str = "argocd-repo-server";
/// What the policy on tokens says, the last one of the manifests: those before it are in force, too.
const POLICY: &str = "serviceaccount-token.workload-identity.dev";

/// Waits until webhooks and policies decide about what is written in a namespace of Argo CD's, by asking the API server
/// what it would do. `admin` has all rights.
///
/// # Errors
/// At the limit, with what it does instead.
pub(crate) async fn wait(admin: &Client, argocd_namespace: &str) -> Result<()> {
    wait_until("the webhooks to be in force", LIMIT, || {
        webhooks(admin, argocd_namespace)
    })
    .await?;
    wait_until("the policies to be in force", LIMIT, || {
        policies(admin, argocd_namespace)
    })
    .await
}

/// Waits until pods of Argo CD in a namespace get the credential volume: a label comes by a watch, too, and a pod that
/// was made before stays without.
///
/// # Errors
/// At the limit, with the pod that would be made.
pub(crate) async fn wait_for_opt_in(admin: &Client, namespace: &str) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": NAME, "labels": { "app.kubernetes.io/name": CONSUMER } },
        "spec": { "containers": [{ "name": CONSUMER, "image": "example.test/argocd" }] },
    });
    let pod = &pod;
    let url = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
    let url = url.as_str();
    wait_until("a pod to be injected", LIMIT, || async move {
        let made = admission::send(admin, "POST", url, "application/json", pod).await?;
        let made: Value = made.object;
        let mut volumes = made["spec"]["volumes"].as_array().into_iter().flatten();
        ensure!(volumes.any(|it| it["name"] == VOLUME_NAME), "{made}");
        Ok(())
    })
    .await
}

/// A Secret that admission completes, not to be kept.
async fn webhooks(admin: &Client, namespace: &str) -> Result<()> {
    let values = [
        ("name", NAME),
        ("server", "https://nowhere.example.test"),
        ("config", "{}"),
        ("useWorkloadIdentity", "true"),
        ("workloadIdentityAudience", NAME),
    ];
    let secret: Value = serde_json::from_str(&secret_in(namespace, NAME, "cluster", &values))?;
    let url = format!("/api/v1/namespaces/{namespace}/secrets?dryRun=All");
    let made = admission::send::<_, Value>(admin, "POST", &url, "application/json", &secret).await;
    match made {
        // A completed Secret is warned about, too: what is stored is not what was written.
        Ok(answer) if !answer.warnings.is_empty() => Ok(()),
        Ok(_) => bail!("nobody says anything about {secret}"),
        Err(error) if is_refusal(&error, "workload-identity.dev") => Ok(()),
        Err(error) => Err(error),
    }
}

/// A token that the control plane may not have made, asked for in its name.
async fn policies(admin: &Client, namespace: &str) -> Result<()> {
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": { "audiences": [NAME], "expirationSeconds": 600 },
    });
    let request = http::Request::post(format!(
        "/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    ))
    .header("content-type", "application/json")
    .header(
        "impersonate-user",
        format!("system:serviceaccount:{NAMESPACE}:argocd-identity"),
    )
    .body(serde_json::to_vec(&request)?)?;
    match admin.request::<Value>(request).await {
        Ok(_) => bail!("the control plane gets tokens of any service account"),
        Err(error) => {
            let error = anyhow::Error::new(error);
            ensure!(is_refusal(&error, POLICY), error);
            Ok(())
        }
    }
}

/// Whether the API server refused it in the words of somebody with this name.
fn is_refusal(error: &anyhow::Error, name: &str) -> bool {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => status.message.contains(name),
        _ => false,
    }
}
