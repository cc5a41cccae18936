//! The issuer's keys as an administrator changes them, while the control plane
//! runs: published at once, warned about where Quay would refuse them, and no
//! token is signed before everybody can know the key.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::bindings::{self, CredentialBinding};
use harness::installation::NAMESPACE;
use harness::process::wait_until;
use harness::scene::ARGOCD;
use jsonwebtoken::Algorithm;
use kube::Api;
use rcgen::KeyPair;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use shared::errors::Code;

use super::bench::{Bench, answer, http, secrets};
use super::forgery::header;
use crate::case::{Case, exclusive};
use crate::scene::Scene;

/// The Secret is watched: none of this waits for the next time that it is read
/// anyway, 30 seconds after the last.
const READ: Duration = Duration::from_secs(20);

pub(super) fn cases() -> Vec<Case> {
    vec![exclusive!(a_new_key_is_published_before_it_signs)]
}

async fn a_new_key_is_published_before_it_signs(scene: &mut Scene) -> Result<()> {
    let bench = Bench::new(scene, "keys").await?;
    let rest = &bench.rest;
    let path = &format!("{}/argocd-identity-issuer", secrets(NAMESPACE));
    let old = rest.read(path).await?["data"]["tls.key"].take();
    let before = keys(scene).await?;
    ensure!(before.len() == 1, "{before:?}");

    // A public key beside the one that signs.
    let listed = KeyPair::generate()?.public_key_pem();
    let change = json!({ "data": { "next.pem": STANDARD.encode(listed) } });
    rest.merge(path, &change).await?;
    published(scene, 2).await?;
    let discovery = read(scene, "/.well-known/openid-configuration").await?;
    let algorithms = &discovery["id_token_signing_alg_values_supported"];
    ensure!(*algorithms == json!(["RS256", "ES256"]), "{discovery}");

    // Another key to sign, which Quay does not take.
    let new = STANDARD.encode(KeyPair::generate()?.serialize_pem());
    let change = json!({ "data": { "tls.key": new, "next.pem": null } });
    rest.merge(path, &change).await?;
    let api = &bindings::api(bench.admin.clone(), ARGOCD);
    warned(api, &bench.name, true).await?;
    let after = published(scene, 2).await?;
    ensure!(after[0] == before[0], "{after:?}");
    let given = bench.api.ask(&bench.granted()).await?.granted()?;
    let header = header(given.token.expose_secret())?;
    ensure!(header.alg == Algorithm::RS256, "{header:?}");
    ensure!(header.kid == before[0]["kid"].as_str().map(str::to_owned));

    // Back again before it has signed anything.
    rest.merge(path, &json!({ "data": { "tls.key": old } }))
        .await?;
    warned(api, &bench.name, false).await?;
    let end = keys(scene).await?;
    ensure!(end[0] == before[0], "{end:?}");
    bench.close().await
}

/// Waits until the binding's condition warns of the algorithm, or no longer
/// does; nobody answers at the trial's registry, so there is more to it.
async fn warned(api: &Api<CredentialBinding>, name: &str, expected: bool) -> Result<()> {
    wait_until("the binding's warning", READ, || async move {
        let status = api.get(name).await?.status.context("no status")?;
        let mut conditions = status.conditions.iter();
        let degraded = conditions.find(|condition| condition.kind == "Degraded");
        let message = &degraded.context("no condition")?.message;
        let is_warned = message.contains(Code::UnsupportedAlgorithm.as_str());
        ensure!(is_warned == expected, "{message}");
        Ok(())
    })
    .await
}

/// Waits until so many keys are published.
async fn published(scene: &Scene, count: usize) -> Result<Vec<Value>> {
    wait_until("the key set to change", READ, || async move {
        let found = keys(scene).await?;
        ensure!(found.len() == count, "{found:?}");
        Ok(found)
    })
    .await
}

async fn keys(scene: &Scene) -> Result<Vec<Value>> {
    let mut set = read(scene, "/keys").await?;
    let keys = set["keys"].as_array_mut().context("no keys")?;
    Ok(std::mem::take(keys))
}

async fn read(scene: &Scene, path: &str) -> Result<Value> {
    let url = format!("{}{path}", scene.installation.plan.issuer_url());
    let found = answer(http(scene)?.get(&url)).await?;
    ensure!(found.status.is_success(), "{found:?}");
    serde_json::from_str(&found.body).context("read the document")
}
