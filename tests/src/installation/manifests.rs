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

#[cfg(test)]
mod tests {
    use super::*;

    fn objects() -> Vec<DynamicObject> {
        let files = manifests("base").unwrap();
        let documents = files
            .iter()
            .map(|(_, yaml)| control_plane::documents(yaml).unwrap());
        documents.flatten().collect()
    }

    fn of_kind<'a>(
        objects: &'a [DynamicObject],
        kind: &'a str,
    ) -> impl Iterator<Item = &'a DynamicObject> {
        let is_kind = move |object: &&DynamicObject| {
            let types = object.types.as_ref();
            types.is_some_and(|types| types.kind == kind)
        };
        objects.iter().filter(is_kind)
    }

    /// What GKE asks for outside kube-system, or no pod of that class is made.
    #[test]
    fn every_critical_priority_class_has_a_quota_that_lets_it_in() {
        let objects = objects();
        let workloads = ["Deployment", "DaemonSet"].map(|kind| of_kind(&objects, kind));
        let classes: Vec<_> = workloads
            .into_iter()
            .flatten()
            .filter_map(|it| it.data["spec"]["template"]["spec"]["priorityClassName"].as_str())
            .collect();
        assert!(!classes.is_empty());
        for class in classes {
            let lets_in = |quota: &DynamicObject| {
                let terms = quota.data["spec"]["scopeSelector"]["matchExpressions"].as_array();
                let is_this = |term: &Value| {
                    let values = term["values"].as_array();
                    term["scopeName"] == "PriorityClass"
                        && term["operator"] == "In"
                        && values.is_some_and(|values| values.contains(&json!(class)))
                };
                quota.metadata.namespace.as_deref() == Some(NAMESPACE)
                    && quota.data["spec"]["hard"]["pods"].is_string()
                    && terms.is_some_and(|terms| terms.iter().any(is_this))
            };
            assert!(
                of_kind(&objects, "ResourceQuota").any(lets_in),
                "{class} has no quota"
            );
        }
    }

    /// The API server refuses what admission refuses, whoever writes the binding.
    #[test]
    fn the_bindings_schema_has_the_bounds_of_the_contract() {
        use shared::bounds;
        let objects = objects();
        let mut definitions = of_kind(&objects, "CustomResourceDefinition");
        let schema = definitions.next().unwrap();
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        let spec = schema.data.pointer(spec).unwrap();
        for (path, longest) in [
            ("target/properties/address", bounds::ADDRESS),
            ("project", bounds::OBJECT_NAME),
            ("identity/properties/subject", bounds::SUBJECT),
            ("identity/properties/audience", bounds::AUDIENCE),
            ("identity/properties/serviceAccount", bounds::OBJECT_NAME),
            ("exchange/properties/authUrl", bounds::URL),
            ("exchange/properties/tokenUrl", bounds::URL),
            ("exchange/properties/service", bounds::NAME),
            ("exchange/properties/username", bounds::NAME),
            (
                "exchange/properties/account/properties/aws/properties/roleArn",
                bounds::ACCOUNT,
            ),
            (
                "exchange/properties/account/properties/gcp/properties/serviceAccount",
                bounds::ACCOUNT,
            ),
            (
                "exchange/properties/account/properties/gcp/properties/workloadIdentityProvider",
                bounds::ACCOUNT,
            ),
            (
                "exchange/properties/account/properties/azure/properties/clientId",
                bounds::ACCOUNT,
            ),
            (
                "exchange/properties/account/properties/azure/properties/tenantId",
                bounds::ACCOUNT,
            ),
            ("consumers/items", bounds::OBJECT_NAME),
            ("proxy/properties/upstreamProxy", bounds::URL),
        ] {
            let field = spec.pointer(&format!("/{path}")).unwrap();
            assert_eq!(field["maxLength"], json!(longest), "{path}");
        }
        let mut unbounded = Vec::new();
        texts(spec, &mut unbounded);
        assert!(unbounded.is_empty(), "{unbounded:?}");
    }

    /// Every text of a schema that has no longest length.
    fn texts(schema: &Value, found: &mut Vec<Value>) {
        match schema {
            Value::Object(fields) => {
                let is_text = fields.get("type") == Some(&json!("string"));
                let bounds = ["maxLength", "enum", "pattern", "format"];
                if is_text && !bounds.iter().any(|bound| fields.contains_key(*bound)) {
                    found.push(schema.clone());
                }
                fields.values().for_each(|field| texts(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
            _ => {}
        }
    }
}
