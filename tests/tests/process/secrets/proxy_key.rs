//! The installation's proxy key, from its first start through a rotation: what
//! the Secret presents, the binding lets in.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::bindings::{self, has_condition};
use harness::installation::NAMESPACE;
use harness::process::wait_until;
use harness::quay::{self, Robot};
use harness::scene::ARGOCD;
use rustix::process::Signal;
use serde_json::{Value, json};
use shared::proxy_view::KeyHash;

use super::collection;
use crate::api::Rest;
use crate::case::{Case, exclusive};
use crate::identity::bench::repository;
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![exclusive!(a_key_is_rotated_with_overlap)]
}

/// The control plane reads the key every 30 seconds.
const LIMIT: Duration = Duration::from_secs(90);
const NAME: &str = "proxy-key-rotation";
const ROBOT: &str = "team+rotation";
const DEGRADED: &str = "Degraded";

async fn a_key_is_rotated_with_overlap(scene: &mut Scene) -> Result<()> {
    let rest = scene.rest()?;
    let api = bindings::api(scene.client()?, ARGOCD);
    let one = format!("{}/{NAME}", collection(ARGOCD));
    // One that works, so that its conditions speak of the key alone where Argo CD runs.
    let quay = &scene.around.targets.quay;
    let identity = harness::targets::identity("argocd-project-team-a");
    let issuer = scene.around.plan.issuer_url();
    quay.add_robot(Robot::federated(ROBOT, issuer, identity, &["team/"]));
    let values = [
        ("project", "team-a"),
        ("url", &format!("{}/team/charts", quay.host())),
        ("workloadIdentityAudience", quay::HOST),
        ("workloadIdentityRegistryAuthURL", &quay.federation_url()),
        ("workloadIdentityRegistryUsername", ROBOT),
    ];
    let secret: Value = serde_json::from_str(&repository(NAME, &values))?;
    let hashes = |count: usize| {
        let api = &api;
        let what = format!("{count} hashes in binding {NAME}");
        async move {
            wait_until(&what, LIMIT, || async move {
                let found = api.get(NAME).await?.spec.proxy.context("no proxy")?;
                ensure!(found.key_sha256.len() == count, "{:?}", found.key_sha256);
                Ok(found.key_sha256)
            })
            .await
        }
    };

    // Written while the webhook could not be asked.
    let control_plane = &mut scene.installation.control_plane;
    control_plane.signal(Signal::STOP)?;
    let created = rest.create(&collection(ARGOCD), &secret).await;
    control_plane.signal(Signal::CONT)?;
    ensure!(created?.object["data"]["proxy"].is_null());
    let missing = (DEGRADED, "True", "proxy-not-written");
    has_condition(&api, NAME, missing, LIMIT).await?;
    let first = touch(&rest, &one).await?;
    ensure!(hashes(1).await? == [KeyHash::of(first.as_bytes()).to_hex()]);
    let well = (DEGRADED, "False", "as-expected");
    has_condition(&api, NAME, well, LIMIT).await?;

    // As docs/operations.md says.
    let key = format!("{}/argocd-identity-proxy-key", collection(NAMESPACE));
    let old = rest.read(&key).await?["data"]["current"].clone();
    let new = STANDARD.encode([7; 32]);
    rest.merge(&key, &json!({"data": {"previous": old, "current": new}}))
        .await?;
    let both = hashes(2).await?;
    ensure!(both[1] == KeyHash::of(first.as_bytes()).to_hex());
    let outdated = (DEGRADED, "True", "proxy-key-old");
    has_condition(&api, NAME, outdated, LIMIT).await?;
    let second = touch(&rest, &one).await?;
    ensure!(both[0] == KeyHash::of(second.as_bytes()).to_hex());
    has_condition(&api, NAME, well, LIMIT).await?;
    rest.merge(&key, &json!({"data": {"previous": null}}))
        .await?;
    ensure!(hashes(1).await? == both[..1]);
    rest.delete(&one).await?;
    Ok(())
}

/// Writes the Secret once; returns its key.
async fn touch(rest: &Rest, path: &str) -> Result<String> {
    let metadata = json!({"annotations": {"workload-identity.dev/touched": "now"}});
    rest.merge(path, &json!({"metadata": {"annotations": null}}))
        .await?;
    let written = rest.merge(path, &json!({"metadata": metadata})).await?;
    let proxy = written.object["data"]["proxy"]
        .as_str()
        .context("no proxy")?;
    let proxy = String::from_utf8(STANDARD.decode(proxy)?)?;
    let (user, _) = proxy.rsplit_once('@').context("no user")?;
    let (_, key) = user.rsplit_once(':').context("no key")?;
    Ok(key.to_owned())
}
