//! Cluster Secrets: the exec plugin comes into `config`, the rest of it stays
//! byte for byte, because Argo CD relists a cluster when that text changes.

use anyhow::{Context as _, Result, ensure};
use control_plane_core::annotations::REMOVE_STATIC_CREDENTIALS;
use serde_json::{Value, json};

use super::values::{cluster, secret, shown, stored, with};
use super::{Bench, collection};
use crate::api::{codes, refusal};
use crate::case::{Case, shared};
use crate::scene::Scene;
use crate::snapshot;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(config_gains_the_plugin_and_keeps_every_byte),
        shared!(the_openshift_guides_secret_stays_as_it_is),
        shared!(keys_that_an_update_drops_come_back),
        shared!(other_ways_to_authenticate_go_only_when_asked),
        shared!(a_copy_points_to_itself),
    ]
}

const EXEC: &str = "execProviderConfig";

async fn config_gains_the_plugin_and_keeps_every_byte(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("cluster-config", &[]).await?;
    let bench = Bench::new(scene, namespace)?;
    // What is before and after the new member, for each text.
    let table = [
        ("minimal", "{", "}"),
        ("ca", r#"{"tlsClientConfig":{"caData":"Y2E="}"#, "}"),
        (
            "spaced",
            "{\n  \"tlsClientConfig\" : {\t\"caData\": \"Y2E=\" , \"serverName\":\"\\u0061pi\"}",
            "\n}",
        ),
        (
            "numbers",
            r#"{"future": [1.0, 1e2, 10000000000000000000000]"#,
            "}",
        ),
    ];
    for (name, head, tail) in table {
        let before = format!("{head}{tail}");
        let manifest = secret(
            name,
            "cluster",
            &with(cluster(scene), &[("config", &before)]),
        );
        let answer = bench.settles(&manifest).await?;
        let config = config(&answer.object)?;
        let comma = if head == "{" { "" } else { "," };
        let member = format!(
            "\"{EXEC}\":{{\"apiVersion\":\"client.authentication.k8s.io/v1beta1\",\
             \"args\":[\"--cluster\",\"{name}\"],\"command\":\"/binaries/exec-auth\"}}"
        );
        ensure!(config == format!("{head}{comma}{member}{tail}"), "{config}");
        ensure!(
            codes(&answer.warnings) == ["drift-from-git"],
            "{:?}",
            answer.warnings
        );
    }
    // No config at all is a config with the plugin.
    let manifest = secret("none", "cluster", &with(cluster(scene), &[("config", "")]));
    let answer = bench.settles(&manifest).await?;
    snapshot::check(
        "cluster",
        "none",
        &shown(scene, &stored(&answer.object)?, &answer.warnings),
    );

    // Ours already, with the user's version and environment: not a byte changes.
    let own = format!(
        "{{ \"{EXEC}\": {{ \"command\": \"/binaries/exec-auth\", \"args\": [\"--cluster\", \"own\"],\n\
         \"apiVersion\": \"client.authentication.k8s.io/v1\", \"env\": {{\"A\": \"b\"}} }} }}\n"
    );
    let manifest = secret("own", "cluster", &with(cluster(scene), &[("config", &own)]));
    let answer = bench.settles(&manifest).await?;
    ensure!(config(&answer.object)? == own);
    ensure!(answer.warnings.is_empty(), "{:?}", answer.warnings);
    Ok(())
}

/// It may run with the plugin that the guide installs: nothing of it changes,
/// and what would be refused otherwise is told.
async fn the_openshift_guides_secret_stays_as_it_is(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("guide-cluster", &[]).await?;
    let bench = Bench::new(scene, namespace)?;
    let documents = harness::control_plane::documents(include_str!("../guides/openshift.yaml"))?;
    let document = documents.into_iter().next().context("no document")?;
    let manifest = serde_json::to_value(document)?;
    let answer = bench.settles(&manifest).await?;
    let stored = serde_json::to_value(stored(&answer.object)?)?;
    ensure!(stored == manifest["stringData"], "{stored}");
    let codes = codes(&answer.warnings);
    ensure!(
        codes == ["multiple-exec-env", "host-not-allowed"],
        "{:?}",
        answer.warnings
    );
    Ok(())
}

/// Argo CD's own updates replace a cluster Secret's data.
async fn keys_that_an_update_drops_come_back(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("dropped-keys", &[]).await?;
    let (rest, bench) = (scene.rest()?, Bench::new(scene, namespace)?);
    let one = format!("{}/spoke", collection(namespace));
    let created = bench
        .create(&secret("spoke", "cluster", &cluster(scene)))
        .await?
        .object;
    let mut update = created.clone();
    if let Some(data) = update["data"].as_object_mut() {
        data.retain(|key, _| !key.contains("orkloadIdentity"));
        ensure!(data.len() == 3, "{data:?}");
    }
    let kept = rest.replace(&one, &update).await?;
    ensure!(kept.object["data"] == created["data"], "{}", kept.object);
    ensure!(
        codes(&kept.warnings) == ["keys-restored"],
        "{:?}",
        kept.warnings
    );

    // Who takes the plugin away as well means it.
    update["stringData"] = json!({ "config": "{}" });
    if let Some(metadata) = update["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    let dropped = rest.replace(&one, &update).await?;
    let names: Vec<_> = stored(&dropped.object)?.into_keys().collect();
    ensure!(names == ["config", "name", "server"], "{names:?}");
    ensure!(dropped.warnings.is_empty(), "{:?}", dropped.warnings);
    Ok(())
}

async fn other_ways_to_authenticate_go_only_when_asked(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("cluster-auth", &[]).await?;
    let bench = Bench::new(scene, namespace)?;
    for (name, static_part) in [
        ("token", json!({ "bearerToken": "hunter2" })),
        (
            "password",
            json!({ "username": "admin", "password": "hunter2" }),
        ),
        (
            "aws",
            json!({ "awsAuthConfig": { "clusterName": "hunter2" } }),
        ),
        (
            "certificate",
            json!({ "tlsClientConfig": { "certData": "aHVudGVyMg==", "keyData": "aHVudGVyMg==", "caData": "Y2E=" } }),
        ),
    ] {
        let text = static_part.to_string();
        let values = with(cluster(scene), &[("config", &text)]);
        let mut manifest = secret(name, "cluster", &values);
        let refused = refusal(bench.create(&manifest).await)?;
        ensure!(
            refused.message.contains("cluster-auth-conflict: "),
            "{refused:?}"
        );
        ensure!(!refused.message.contains("hunter2"), "{refused:?}");

        manifest["metadata"]["annotations"] = json!({ REMOVE_STATIC_CREDENTIALS: "true" });
        let stored = bench.create(&manifest).await?.object;
        let config: Value = serde_json::from_str(&config(&stored)?)?;
        let text = config.to_string();
        ensure!(
            !text.contains("hunter2") && !text.contains("aHVudGVyMg"),
            "{text}"
        );
        ensure!(config[EXEC]["command"] == "/binaries/exec-auth", "{text}");
        if name == "certificate" {
            ensure!(
                config["tlsClientConfig"] == json!({ "caData": "Y2E=" }),
                "{text}"
            );
        }
    }
    Ok(())
}

async fn a_copy_points_to_itself(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("cluster-copy", &[]).await?;
    let bench = Bench::new(scene, namespace)?;
    let manifest = secret("original", "cluster", &cluster(scene));
    let mut copy = bench.create(&manifest).await?.object;
    copy["metadata"] = json!({ "name": "copy", "labels": copy["metadata"]["labels"] });
    let copy = bench.create(&copy).await?;
    let config: Value = serde_json::from_str(&config(&copy.object)?)?;
    ensure!(
        config[EXEC]["args"] == json!(["--cluster", "copy"]),
        "{config}"
    );
    Ok(())
}

fn config(secret: &Value) -> Result<String> {
    stored(secret)?.remove("config").context("no config")
}
