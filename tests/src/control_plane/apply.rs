//! `kubectl apply --server-side` for YAML, over discovery.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::api::{DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::core::discovery::{ApiResource, Scope};
use kube::{Api, Client, ResourceExt as _, discovery};
use serde_json::Value;

use crate::process::wait_until;

/// Owner of the applied fields.
const MANAGER: &str = "argocd-workload-identity-tests";
/// Time that a definition applied just before may take until its kind is served, and a namespace until it exists.
const LIMIT: Duration = Duration::from_secs(30);

/// The objects of a YAML text with one or more documents; empty documents are left out.
///
/// # Errors
/// When the text is not YAML or a document is not a Kubernetes object.
pub fn documents(yaml: &str) -> Result<Vec<DynamicObject>> {
    let options = serde_saphyr::options! {
        // As Go's parser reads `defaultMode: 0444`.
        legacy_octal_numbers: true,
        // `y` is a name and not a boolean, for Go as for YAML 1.2.
        strict_booleans: true,
        // These are the project's and Argo CD's own files; the CRDs among them are past some limits.
        budget: None,
    };
    let values: Vec<Value> =
        serde_saphyr::from_multiple_with_options(yaml, options).context("parse YAML")?;
    values
        .into_iter()
        .filter(|value| !value.is_null())
        .map(|value| serde_json::from_value(value).context("a YAML document is not an object"))
        .collect()
}

/// Applies every document in order, as `kubectl apply --server-side --force-conflicts -n <namespace>`
/// does, and returns what the API server made of each.
///
/// An object of a kind whose CustomResourceDefinition is part of the same text waits until the kind is served.
///
/// # Errors
/// When the YAML cannot be parsed or the API server refuses an object; the error names the object.
pub async fn apply(client: &Client, namespace: &str, yaml: &str) -> Result<Vec<DynamicObject>> {
    let mut kinds = HashMap::new();
    let mut applied = Vec::new();
    for object in documents(yaml)? {
        let types = object.types.clone().context("a document without a kind")?;
        let name = object.name_any();
        let what = format!("{} {name}", types.kind);
        let kind =
            GroupVersionKind::try_from(&types).with_context(|| format!("apiVersion of {what}"))?;
        let (resource, scope) = match kinds.get(&kind) {
            Some(known) => known,
            None => {
                let found = find(client, &kind, &what).await?;
                kinds.entry(kind).or_insert(found)
            }
        };
        let api: Api<DynamicObject> = match scope {
            Scope::Cluster => Api::all_with(client.clone(), resource),
            Scope::Namespaced => Api::namespaced_with(
                client.clone(),
                object.metadata.namespace.as_deref().unwrap_or(namespace),
                resource,
            ),
        };
        let (api, object, name) = (&api, &object, name.as_str());
        let outcome = wait_unless_refused(&what, || async move {
            let how = PatchParams::apply(MANAGER).force();
            api.patch(name, &how, &Patch::Apply(object)).await
        })
        .await?;
        applied.push(outcome);
    }
    Ok(applied)
}

/// The resource behind a kind, as soon as the API server serves it.
async fn find(
    client: &Client,
    kind: &GroupVersionKind,
    what: &str,
) -> Result<(ApiResource, Scope)> {
    let (resource, capabilities) = wait_unless_refused(what, || async move {
        discovery::pinned_kind(client, kind).await
    })
    .await?;
    Ok((resource, capabilities.scope))
}

/// Repeats `attempt` while it fails because something applied just before is not served yet; what the
/// API server refuses for another reason would be refused again.
async fn wait_unless_refused<T, F, Fut>(what: &str, mut attempt: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = kube::Result<T>>,
{
    wait_until(&format!("{what} to be applicable"), LIMIT, || {
        let attempt = attempt();
        async {
            match attempt.await {
                Err(error) if pending(&error) => Err(error.into()),
                decided => Ok(decided),
            }
        }
    })
    .await?
    .with_context(|| format!("apply {what}"))
}

fn pending(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 404,
        kube::Error::Discovery(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_documents_as_go_does() {
        let objects = documents(
            "---\n# only a comment\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: y}\nmode: 0444\n---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: b\n",
        )
        .unwrap();
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[0].name_any(), "y");
        assert_eq!(objects[0].data["mode"], 0o444);
        assert_eq!(objects[1].name_any(), "b");
    }
}
