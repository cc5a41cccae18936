//! The key in a Secret's proxy: it stays whoever writes the rest, is another
//! one when the Secret is for something else, and what the Secret presents, its
//! binding lets in, and nothing else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use control_plane_core::annotations::ROTATE_PROXY_KEY;
use harness::bindings::{self, has_condition};
use harness::process::wait_until;
use harness::quay::{self, Robot};
use harness::scene::ARGOCD;
use rustix::process::Signal;
use serde_json::{Value, json};
use shared::proxy_view::KeyHash;

use super::values::{repository as values, secret, with};
use super::{Bench, collection};
use crate::api::Rest;
use crate::case::{Case, exclusive, shared};
use crate::identity::bench::repository;
use crate::scene::Scene;
use crate::webhook::{self, SECRETS};

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(a_key_stays_whoever_writes_the_rest),
        shared!(another_name_or_project_is_another_key),
        shared!(a_strangers_review_opens_nothing),
        exclusive!(a_key_is_replaced_with_overlap_and_moves_nowhere),
    ]
}

/// Until a binding follows its Secret, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Where no agent serves anybody.
const NAMESPACE: &str = "proxy-keys";
const DEGRADED: &str = "Degraded";

/// A Helm repository of a project, as git has it.
fn of_project(scene: &Scene, name: &str, project: &str) -> Value {
    let values = with(values(scene), &[("project", project)]);
    secret(name, "repository", &values)
}

async fn a_key_stays_whoever_writes_the_rest(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, scene.namespace(NAMESPACE, &[]).await?)?;
    let (rest, one) = (&bench.rest, format!("{}/stays", bench.path));
    let git = of_project(scene, "stays", "team-a");
    // What a dry run shows is stored nowhere, and no two show the same.
    let shown = proxy(&rest.try_create(&bench.path, &git).await?.object)?;
    let created = bench.create(&git).await?.object;
    let first = proxy(&created)?;
    ensure!(shown != first);

    // Server-side apply, and the patches of client-side apply: what git has, over what is there.
    let url = json!({ "stringData": { "url": git["stringData"]["url"] } });
    for _ in 0..2 {
        let applied = rest.apply(&one, &git).await?.object;
        let merged = rest.merge(&one, &url).await?.object;
        for written in [&applied, &merged] {
            ensure!(proxy(written)? == first, "{written}");
            ensure!(written["data"] == created["data"]);
        }
    }
    // `kubectl replace`, and operators that write the whole data every second.
    let mut encoded = super::encoded(git.clone());
    for _ in 0..5 {
        let replaced = rest.replace(&one, &git).await?.object;
        ensure!(proxy(&replaced)? == first, "{replaced}");
        encoded["metadata"]["annotations"] = json!({ "checksum": "changes" });
        let replaced = rest.replace(&one, &encoded).await?.object;
        ensure!(replaced["data"] == created["data"], "{replaced}");
    }
    // A diff by dry run finds nothing.
    let dry = format!("{one}?dryRun=All");
    let shown = rest.replace(&dry, &git).await?.object;
    ensure!(shown["data"] == created["data"], "{shown}");
    // Whatever else somebody puts there.
    for other in [
        "",
        "http://stays:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8@127.0.0.1:15080",
    ] {
        let patch = json!({ "stringData": { "proxy": other } });
        let merged = rest.merge(&one, &patch).await?.object;
        ensure!(proxy(&merged)? == first, "{merged}");
    }
    rest.delete(&one).await?;
    Ok(())
}

async fn another_name_or_project_is_another_key(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, scene.namespace(NAMESPACE, &[]).await?)?;
    let (rest, one) = (&bench.rest, format!("{}/moves", bench.path));
    let created = bench
        .create(&of_project(scene, "moves", "team-a"))
        .await?
        .object;
    let first = proxy(&created)?;
    let mut copy = created.clone();
    copy["metadata"] = json!({ "name": "copy", "labels": created["metadata"]["labels"] });
    let copied = bench.create(&copy).await?.object;
    ensure!(proxy(&copied)?.starts_with("http://copy:"), "{copied}");
    ensure!(key(&proxy(&copied)?)? != key(&first)?);

    let moved = json!({ "stringData": { "project": "team-b" } });
    let moved = rest.merge(&one, &moved).await?.object;
    ensure!(key(&proxy(&moved)?)? != key(&first)?);
    // The binding follows, and the key of before opens nothing any more.
    let api = bindings::api(scene.client()?, NAMESPACE);
    let expected = [hash(&proxy(&moved)?)?];
    let (api, expected) = (&api, &expected[..]);
    wait_until(
        "the binding to have the new key alone",
        LIMIT,
        || async move {
            let spec = api.get("moves").await?.spec;
            let keys = spec.proxy.context("no proxy")?.key_sha256;
            ensure!(
                keys == expected && spec.project.as_deref() == Some("team-b"),
                "{keys:?}"
            );
            Ok(())
        },
    )
    .await?;
    for name in ["moves", "copy"] {
        rest.delete(&format!("{}/{name}", bench.path)).await?;
    }
    Ok(())
}

/// Everything in it is known to whoever reads bindings, or Argo CD's UI.
async fn a_strangers_review_opens_nothing(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, scene.namespace(NAMESPACE, &[]).await?)?;
    let git = of_project(scene, "victim", "team-a");
    let created = bench.create(&git).await?.object;
    let api = bindings::api(scene.client()?, NAMESPACE);
    let known = |api| async move { keys(api, "victim", 1).await };
    ensure!(known(&api).await? == [hash(&proxy(&created)?)?]);

    let mut guess = super::encoded(git);
    guess["metadata"]["namespace"] = json!(NAMESPACE);
    let mut seen = Vec::new();
    for old in [None, None, Some(&guess)] {
        let request = webhook::request("v1/Secret", &guess, old);
        let response = bench.webhook.ask(SECRETS, &request).await?;
        let given = proxy(&webhook::patched(&guess, &response)?)?;
        ensure!(
            given != proxy(&created)? && !seen.contains(&given),
            "{given}"
        );
        seen.push(given);
    }
    let known = known(&api).await?;
    for given in seen {
        ensure!(!known.contains(&hash(&given)?));
    }
    bench.rest.delete(&format!("{}/victim", bench.path)).await?;
    Ok(())
}

const NAME: &str = "proxy-key-rotation";
const ROBOT: &str = "team+rotation";

async fn a_key_is_replaced_with_overlap_and_moves_nowhere(scene: &mut Scene) -> Result<()> {
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

    // Written while the webhook could not be asked.
    let control_plane = &mut scene.installation.control_plane;
    control_plane.signal(Signal::STOP)?;
    let created = rest.create(&collection(ARGOCD), &secret).await;
    control_plane.signal(Signal::CONT)?;
    ensure!(created?.object["data"]["proxy"].is_null());
    let missing = (DEGRADED, "True", "proxy-not-written");
    has_condition(&api, NAME, missing, LIMIT).await?;
    let touched = "workload-identity.dev/touched";
    let first = annotate(&rest, &one, touched, "1").await?;
    ensure!(keys(&api, NAME, 1).await? == [hash(&first)?]);
    let well = (DEGRADED, "False", "as-expected");
    has_condition(&api, NAME, well, LIMIT).await?;

    // As docs/operations.md says. Argo CD goes on with the key that it has read for a while.
    let second = annotate(&rest, &one, ROTATE_PROXY_KEY, "1").await?;
    ensure!(keys(&api, NAME, 2).await? == [hash(&second)?, hash(&first)?]);
    has_condition(&api, NAME, well, LIMIT).await?;
    ensure!(annotate(&rest, &one, touched, "2").await? == second);
    // Who rotates twice ends the first at once.
    let third = annotate(&rest, &one, ROTATE_PROXY_KEY, "2").await?;
    let expected = [hash(&third)?, hash(&second)?];
    let (bindings, wanted) = (&api, &expected[..]);
    wait_until("the first key to end", LIMIT, || async move {
        let found = keys(bindings, NAME, 2).await?;
        ensure!(found == wanted, "{found:?}");
        Ok(())
    })
    .await?;

    // Moved while the webhook could not be asked: its readers were others.
    let control_plane = &mut scene.installation.control_plane;
    control_plane.signal(Signal::STOP)?;
    let moved = json!({ "stringData": { "project": "team-b" } });
    let moved = rest.merge(&one, &moved).await;
    control_plane.signal(Signal::CONT)?;
    ensure!(proxy(&moved?.object)? == third);
    let stale = (DEGRADED, "True", "proxy-key-stale");
    has_condition(&api, NAME, stale, LIMIT).await?;
    ensure!(keys(&api, NAME, 0).await?.is_empty());
    let fourth = annotate(&rest, &one, touched, "3").await?;
    ensure!(keys(&api, NAME, 1).await? == [hash(&fourth)?]);
    rest.delete(&one).await?;
    Ok(())
}

/// The hashes in a binding, once there are so many.
async fn keys(
    api: &kube::Api<bindings::CredentialBinding>,
    name: &str,
    count: usize,
) -> Result<Vec<String>> {
    let what = format!("{count} hashes in binding {name}");
    wait_until(&what, LIMIT, || async move {
        let found = api.get(name).await?.spec.proxy.context("no proxy")?;
        ensure!(found.key_sha256.len() == count, "{:?}", found.key_sha256);
        Ok(found.key_sha256)
    })
    .await
}

/// Writes an annotation; returns the Secret's proxy after that.
async fn annotate(rest: &Rest, path: &str, name: &str, value: &str) -> Result<String> {
    let patch = json!({ "metadata": { "annotations": { name: value } } });
    proxy(&rest.merge(path, &patch).await?.object)
}

fn proxy(secret: &Value) -> Result<String> {
    let proxy = secret["data"]["proxy"].as_str().context("no proxy")?;
    Ok(String::from_utf8(STANDARD.decode(proxy)?)?)
}

fn key(proxy: &str) -> Result<&str> {
    let (user, _) = proxy.rsplit_once('@').context("no user")?;
    let (_, key) = user.rsplit_once(':').context("no key")?;
    Ok(key)
}

fn hash(proxy: &str) -> Result<String> {
    Ok(KeyHash::of(key(proxy)?.as_bytes()).to_hex())
}
