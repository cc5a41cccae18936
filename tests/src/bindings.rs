//! CredentialBindings as the API server has them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::core::{ApiResource, GroupVersionKind, Object};
use kube::{Api, Client};
use shared::binding::{self, CredentialBindingSpec, CredentialBindingStatus};

use crate::process::wait_until;

/// The custom resource.
pub type CredentialBinding = Object<CredentialBindingSpec, CredentialBindingStatus>;

/// Its place in the API.
#[must_use]
pub fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk(binding::GROUP, binding::VERSION, binding::KIND);
    ApiResource::from_gvk_with_plural(&kind, binding::PLURAL)
}

/// The bindings of a namespace.
#[must_use]
pub fn api(client: Client, namespace: &str) -> Api<CredentialBinding> {
    Api::namespaced_with(client, namespace, &resource())
}

/// Status and reason of a condition, if it is there.
#[must_use]
pub fn condition(binding: &CredentialBinding, kind: &str) -> Option<(String, String)> {
    let conditions = &binding.status.as_ref()?.conditions;
    let found = conditions.iter().find(|condition| condition.kind == kind)?;
    Some((found.status.clone(), found.reason.clone()))
}

/// Waits until the condition has this status and reason; an empty reason is any.
///
/// # Errors
/// At the limit, with the binding's conditions and nodes.
pub async fn has_condition(
    api: &Api<CredentialBinding>,
    name: &str,
    (kind, status, reason): (&str, &str, &str),
    limit: Duration,
) -> Result<CredentialBinding> {
    let what = format!("condition {kind}={status} {reason} of binding {name}");
    wait_until(&what, limit, || async move {
        let found = api.get(name).await.context("read the binding")?;
        match condition(&found, kind) {
            Some((is, why)) if is == status && (reason.is_empty() || why == reason) => Ok(found),
            _ => bail!("{:?}", found.status),
        }
    })
    .await
}

/// Waits until the binding is Ready.
///
/// # Errors
/// As [`has_condition`].
pub async fn ready(
    api: &Api<CredentialBinding>,
    name: &str,
    limit: Duration,
) -> Result<CredentialBinding> {
    has_condition(api, name, ("Ready", "True", ""), limit).await
}
