//! A Secret's proxy: whatever reaches the credential proxy on loopback names
//! the Secret that it is in.
//!
//! ```text
//!   Argo CD's API shows a proxy with its key ─▶ somebody pastes it into another
//!   project's Secret ─▶ here it ends
//! ```

mod spellings;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use control_plane_core::secret::SECRET_TYPE;
use serde_json::{Value, json};

use super::bench::refused;
use crate::api::Rest;
use crate::case::{Case, shared};
use crate::identity::bench::{repository, secrets};
use crate::scene::Scene;

/// What the policy says.
const POLICY: (u16, &str) = (403, "A proxy on loopback has to name the Secret");

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(another_secrets_proxy_is_refused_in_every_spelling),
        shared!(its_own_and_those_elsewhere_are_allowed),
        shared!(what_the_webhook_writes_is_allowed),
        shared!(every_way_to_write_it_is_judged),
        shared!(long_values),
    ]
}

async fn another_secrets_proxy_is_refused_in_every_spelling(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "policies-proxy").await?;
    let mut allowed = Vec::new();
    for value in &spellings::of_another() {
        let outcome = bench.create("mine", value).await;
        match outcome {
            Ok(_) => allowed.push(value.clone()),
            refusal => drop(refused(refusal, POLICY, value)?),
        }
    }
    ensure!(allowed.is_empty(), "allowed: {allowed:#?}");
    Ok(())
}

async fn its_own_and_those_elsewhere_are_allowed(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "policies-proxy-own").await?;
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8_-";
    let dotted = "mine.2-a";
    for (name, value) in [
        ("mine", format!("http://mine:{key}@127.0.0.1:15080")),
        ("mine", format!("http://mine:{key}@127.0.0.1:15080/")),
        ("mine", "http://mine@127.0.0.1:15080".to_owned()),
        ("mine", "http://mine:key@localhost:15080".to_owned()),
        ("mine", "http://mine:key@[::1]:15080".to_owned()),
        ("mine", "http://mine:key@127.0.0.1:3128".to_owned()),
        (dotted, format!("http://{dotted}:{key}@127.0.0.1:15080")),
    ] {
        let created = bench.create(name, &value).await;
        created.with_context(|| value.clone())?;
    }
    for value in [
        "",
        "http://proxy.example.test:3128",
        "http://user:password@proxy.example.test:3128",
        "https://user:p%40ss@proxy.example.test",
        "socks5://user:password@10.0.0.1:1080",
        "http://user:password@10.0.0.1",
        "http://user:password@128.0.0.1:8080",
        "http://user:password@[2001:db8::1]:3128",
        "http://user:password@localhost.example.test:3128",
        "http://user:password@notlocalhost:3128",
        "http://user:password@127.example.test:3128",
        "http://user:password@proxy.example.test:15081",
        "http://user:password@proxy.example.test:115080",
        "http://proxy.example.test:15080",
        "proxy.example.test:3128",
        // A proxy of the user's own beside repo-server, which asks for nobody.
        "http://127.0.0.1:3128",
        "http://localhost:8080",
        "http://[::1]:3128",
        "not a proxy at all",
    ] {
        let created = bench.create("mine", value).await;
        created.with_context(|| value.to_owned())?;
    }
    Ok(())
}

/// Whatever name a Secret has, and wherever its values come from.
async fn what_the_webhook_writes_is_allowed(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "policies-proxy-webhook").await?;
    let longest = vec!["n".repeat(63); 3].join(".");
    for name in ["mine", "1.2-a", &longest] {
        let theirs = format!("http://theirs:{}@127.0.0.1:15080", "k".repeat(43));
        let changes = [("workloadIdentityDelivery", "proxy"), ("proxy", &theirs)];
        for changes in [&changes[..1], &changes[..]] {
            let text = repository("mine", changes);
            let mut object: Value = serde_json::from_str(&text)?;
            object["metadata"]["name"] = json!(name);
            object["metadata"]["namespace"] = json!("policies-proxy-webhook");
            let written = bench.rest.try_create(&bench.path, &object).await?.object;
            let proxy = written["data"]["proxy"].as_str().context("no proxy")?;
            let proxy = String::from_utf8(STANDARD.decode(proxy)?)?;
            let (user, host) = proxy.rsplit_once('@').context("no user")?;
            ensure!(host == "127.0.0.1:15080", "{host}");
            ensure!(user.starts_with(&format!("http://{name}:")), "{name}");
        }
    }
    Ok(())
}

async fn every_way_to_write_it_is_judged(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "policies-proxy-ways").await?;
    let (rest, all) = (&bench.rest, &bench.path);
    let theirs = "http://theirs:key@127.0.0.1:15080";
    let encoded = STANDARD.encode(theirs);
    let own = STANDARD.encode("http://mine:key@127.0.0.1:15080");

    // Whatever kind of Secret Argo CD reads.
    for kind in [
        "repository",
        "repo-creds",
        "cluster",
        "repository-write",
        "repo-write-creds",
        "other",
    ] {
        for field in ["data", "stringData"] {
            let value = if field == "data" {
                encoded.as_str()
            } else {
                theirs
            };
            let mut object = secret("mine", Some(kind));
            object[field] = json!({ "proxy": value });
            refused(rest.create(all, &object).await, POLICY, &object)?;
        }
    }
    // stringData wins over data.
    let mut both = secret("mine", Some("repository"));
    both["data"] = json!({ "proxy": own });
    both["stringData"] = json!({ "proxy": theirs });
    refused(rest.create(all, &both).await, POLICY, &both)?;
    let mut unnamed = secret("mine", Some("repository"));
    unnamed["metadata"] = json!({
        "generateName": "mine-",
        "labels": unnamed["metadata"]["labels"],
    });
    unnamed["stringData"] = json!({ "proxy": theirs });
    refused(rest.create(all, &unnamed).await, POLICY, &unnamed)?;

    // Every way to change one that is there.
    let mut object = secret("mine", Some("repository"));
    object["data"] = json!({ "proxy": own });
    rest.create(all, &object).await?;
    let path = format!("{all}/mine");
    for patch in [
        json!({ "data": { "proxy": encoded } }),
        json!({ "stringData": { "proxy": theirs } }),
    ] {
        refused(rest.merge(&path, &patch).await, POLICY, &patch)?;
        let mut applied = secret("mine", Some("repository"));
        for (field, value) in patch.as_object().into_iter().flatten() {
            applied[field] = value.clone();
        }
        refused(rest.apply(&path, &applied).await, POLICY, &applied)?;
        refused(rest.replace(&path, &applied).await, POLICY, &applied)?;
    }
    rest.merge(&path, &json!({ "data": { "url": own } }))
        .await?;
    rest.merge(&path, &json!({ "data": { "proxy": null } }))
        .await?;

    // A Secret that Argo CD does not read is nobody's business, until it does.
    let mut other = secret("unlabelled", None);
    other["data"] = json!({ "proxy": encoded });
    rest.create(all, &other).await?;
    let path = format!("{all}/unlabelled");
    rest.merge(&path, &json!({ "data": { "url": own } }))
        .await?;
    let label = json!({ "metadata": { "labels": { SECRET_TYPE: "repository" } } });
    refused(rest.merge(&path, &label).await, POLICY, &label)?;
    let both = json!({
        "metadata": { "labels": { SECRET_TYPE: "repository" } },
        "data": { "proxy": STANDARD.encode("http://unlabelled:key@127.0.0.1:15080") },
    });
    rest.merge(&path, &both).await?;
    // And no longer when it is on its way out of there, but then it has to be clean.
    let bare = json!({ "metadata": { "labels": null }, "data": { "proxy": encoded } });
    refused(rest.merge(&path, &bare).await, POLICY, &bare)?;
    rest.merge(&path, &json!({ "metadata": { "labels": null } }))
        .await?;
    rest.delete(&path).await?;
    Ok(())
}

/// What cannot be judged is refused, and the judgement is never too expensive.
async fn long_values(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "policies-proxy-long").await?;
    let longest = 3072;
    let fill = |prefix: &str, suffix: &str| {
        let rest = longest - prefix.len() - suffix.len();
        format!("{prefix}{}{suffix}", "k".repeat(rest))
    };
    let own = fill("http://mine:", "@127.0.0.1:15080");
    bench.create("mine", &own).await?;
    let theirs = fill("http://theirs:", "@127.0.0.1:15080");
    let created = bench.create("mine", &theirs).await;
    refused(created, POLICY, &"the longest")?;
    let many = "@127.0.0.1".repeat(longest / 10);
    refused(bench.create("mine", &many).await, POLICY, &"many hosts")?;
    let many = "@".repeat(longest);
    refused(bench.create("mine", &many).await, POLICY, &"many @")?;
    let many = "/127.0.0.1".repeat(longest / 10);
    bench.create("mine", &many).await?;
    let many = fill(&many[..longest - 20], "/[::1]:15080");
    refused(bench.create("mine", &many).await, POLICY, &"many slashes")?;
    let elsewhere = fill("http://user:", "@proxy.example.test:3128");
    bench.create("mine", &elsewhere).await?;

    let length = (403, "no longer than 3072 bytes");
    for value in [
        format!("{elsewhere}k"),
        format!("http://{}@127.0.0.1:15080", "k".repeat(100_000)),
    ] {
        let created = bench.create("mine", &value).await;
        let status = crate::api::refusal(created)?;
        ensure!(status.message.contains(length.1), "{status:?}");
    }
    // Every byte that there is, none of which makes the judgement fail.
    for byte in 0..=u8::MAX {
        let mut value = b"http://theirs:".to_vec();
        value.push(byte);
        value.extend(b"@127.0.0.1:15080");
        // Of a type that the webhook does not look at: it refuses some of them itself.
        let mut object = secret("mine", Some("repository-write"));
        object["data"] = json!({ "proxy": STANDARD.encode(&value) });
        let created = bench.rest.try_create(&bench.path, &object).await;
        refused(created, POLICY, &byte)?;
    }
    Ok(())
}

/// A namespace to create Secrets in.
struct Bench {
    rest: Rest,
    path: String,
}

impl Bench {
    async fn new(scene: &Scene, name: &str) -> Result<Self> {
        scene.namespace(name, &[]).await?;
        Ok(Self {
            rest: scene.rest()?,
            path: secrets(name),
        })
    }

    /// Creates a repository Secret with this proxy, but for the storage.
    async fn create(&self, name: &str, proxy: &str) -> Result<harness::admission::Answer<Value>> {
        let mut object = secret(name, Some("repository"));
        object["stringData"] = json!({ "proxy": proxy });
        self.rest.try_create(&self.path, &object).await
    }
}

fn secret(name: &str, kind: Option<&str>) -> Value {
    let mut secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name },
    });
    if let Some(kind) = kind {
        secret["metadata"]["labels"] = json!({ SECRET_TYPE: kind });
    }
    secret
}
