//! While the webhook is down nothing waits for it for long, and nothing that
//! came in meanwhile gets stuck afterwards.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Signal;
use serde_json::json;

use super::collection;
use super::values::{Values, repository, secret, stored, with};
use crate::api::{codes, refusal};
use crate::case::{Case, exclusive};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![exclusive!(a_bad_value_that_came_during_an_outage_is_told)]
}

/// `timeoutSeconds` of the webhook configuration, with some for the machine.
const TIMEOUT: Duration = Duration::from_secs(15);

async fn a_bad_value_that_came_during_an_outage_is_told(scene: &mut Scene) -> Result<()> {
    let namespace = scene.namespace("outage", &[]).await?;
    let rest = scene.rest()?;
    let path = collection(namespace);
    let one = format!("{path}/bad");
    let bad = with(repository(scene), &[("workloadIdentityProvider", "vault")]);
    let manifest = |values: &Values| secret("bad", "repository", values);
    refusal(rest.try_create(&path, &manifest(&bad)).await)?;

    let control_plane = &mut scene.installation.control_plane;
    control_plane.signal(Signal::STOP)?;
    let begin = Instant::now();
    let created = rest.create(&path, &manifest(&bad)).await;
    let elapsed = begin.elapsed();
    control_plane.signal(Signal::CONT)?;
    let created = created?.object;
    ensure!(elapsed < TIMEOUT, "the creation took {elapsed:?}");
    ensure!(stored(&created)? == bad, "{created}");

    // Its labels and its other keys stay editable.
    let patch = json!({
        "metadata": { "labels": { "team": "a" } },
        "stringData": { "name": "charts" },
    });
    let kept = rest.merge(&one, &patch).await?;
    ensure!(
        codes(&kept.warnings) == ["unknown-provider"],
        "{:?}",
        kept.warnings
    );
    ensure!(stored(&kept.object)? == with(bad.clone(), &[("name", "charts")]));
    // Another bad value is no old one.
    let worse = json!({ "stringData": { "workloadIdentityProvider": "other" } });
    let refused = refusal(rest.merge(&one, &worse).await)?;
    ensure!(
        refused.message.contains("unknown-provider: "),
        "{refused:?}"
    );
    // Nor is an old one, where the Secret is for something else.
    let moved = json!({ "stringData": { "project": "production" } });
    let refused = refusal(rest.merge(&one, &moved).await)?;
    ensure!(
        refused.message.contains("unknown-provider: "),
        "{refused:?}"
    );
    let second = json!({ "stringData": { "workloadIdentityDelivery": "pigeon" } });
    let refused = refusal(rest.merge(&one, &second).await)?;
    ensure!(refused.message.contains("invalid-secret: "), "{refused:?}");

    let mended = rest.replace(&one, &manifest(&repository(scene))).await?;
    ensure!(
        codes(&mended.warnings) == ["url-rewritten", "drift-from-git"],
        "{:?}",
        mended.warnings
    );
    Ok(())
}
