//! The manifests as they ship, applied; but for the webhooks' address, which is on loopback here.

use std::fs;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::{NAMESPACE, Plan};
use crate::binaries::workspace;
use crate::control_plane::{self, Authority};

/// The files that a kustomization lists, in its order.
fn manifests(kustomization: &str) -> Result<Vec<(String, String)>> {
    let folder = workspace().join("manifests").join(kustomization);
    let path = folder.join("kustomization.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let list: Value = serde_saphyr::from_str(&text).context("parse kustomization.yaml")?;
    let files = list["resources"]
        .as_array()
        .context("kustomization.yaml has no resources")?;
    files
        .iter()
        .filter_map(Value::as_str)
        .map(|file| {
            let path = folder.join(file);
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok((file.to_owned(), text))
        })
        .collect()
}

/// Everything but the webhooks, which would answer before there is a server.
pub(super) async fn apply_all(admin: &Client, argocd_namespaces: &[&str]) -> Result<()> {
    for part in ["base", "components/issuer"] {
        for (file, yaml) in manifests(part)? {
            if file.contains("webhook") {
                continue;
            }
            control_plane::apply(admin, NAMESPACE, &yaml)
                .await
                .with_context(|| format!("apply manifests/{part}/{file}"))?;
        }
    }
    for namespace in argocd_namespaces {
        for (file, yaml) in manifests("components/argocd-namespace")? {
            control_plane::apply(admin, namespace, &yaml)
                .await
                .with_context(|| format!("apply {file} in namespace {namespace}"))?;
        }
    }
    Ok(())
}

/// Applies the webhook configuration with the loopback URL in place of the Service.
pub(super) async fn switch_on(admin: &Client, plan: &Plan, authority: &Authority) -> Result<()> {
    for (file, yaml) in manifests("base")? {
        if !file.contains("webhook") {
            continue;
        }
        for mut object in control_plane::documents(&yaml)? {
            point_to(&mut object, &plan.admission_url(), authority.pem())?;
            let text = serde_json::to_string(&object).context("write the webhook configuration")?;
            control_plane::apply(admin, NAMESPACE, &text)
                .await
                .with_context(|| format!("apply manifests/base/{file}"))?;
        }
    }
    Ok(())
}

fn point_to(object: &mut DynamicObject, url: &str, authority: &str) -> Result<()> {
    let webhooks = object.data["webhooks"]
        .as_array_mut()
        .context("no webhooks")?;
    for webhook in webhooks {
        let path = webhook["clientConfig"]["service"]["path"]
            .as_str()
            .context("a webhook without service.path")?;
        let url = format!("{url}{path}");
        webhook["clientConfig"] = json!({ "url": url, "caBundle": STANDARD.encode(authority) });
    }
    Ok(())
}
