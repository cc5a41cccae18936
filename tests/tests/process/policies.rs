//! What the API server enforces, whether or not the webhook is up: policies,
//! roles and the schema of the bindings, as they ship.

mod bench;
mod proxy;
mod roles;
mod schema;
mod spec;
mod status;
mod tokens;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::process::wait_until;

use crate::case::{Case, shared};
use crate::scene::Scene;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    [
        status::cases(),
        spec::cases(),
        proxy::cases(),
        tokens::cases(),
        roles::cases(),
        schema::cases(),
        vec![shared!(the_policies_are_well_typed)],
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The controllers check each expression against the schemas; a policy that
/// they find fault with would refuse everything, or nothing.
async fn the_policies_are_well_typed(scene: &Scene) -> Result<()> {
    let rest = &scene.rest()?;
    let path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let limit = Duration::from_secs(60);
    let policies = wait_until("the policies to be checked", limit, || async move {
        let mut list = rest.read(path).await?;
        let policies = list["items"].as_array_mut().context("no list")?;
        for policy in policies.iter() {
            let is_checked =
                policy["status"]["observedGeneration"] == policy["metadata"]["generation"];
            ensure!(is_checked, "{}", policy["metadata"]["name"]);
        }
        Ok(std::mem::take(policies))
    })
    .await?;
    ensure!(policies.len() >= 4, "{policies:?}");
    for policy in policies {
        let warnings = &policy["status"]["typeChecking"]["expressionWarnings"];
        ensure!(
            warnings.is_null(),
            "{}: {warnings}",
            policy["metadata"]["name"]
        );
    }
    Ok(())
}
