//! Argo CD replaces the whole data of a cluster Secret when its API changes a
//! cluster, and knows nothing of our keys.

use anyhow::{Context as _, Result, ensure};
use harness::process::wait_until;
use harness::targets::SECOND_SPOKE_AUDIENCE;
use serde_json::{Map, Value, json};

use super::{IN_CLUSTER, data};
use crate::case::{Case, shared};
use crate::rotation::{Application, LIFE, LIMIT, Tenant, Values, cluster};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(argo_cds_cluster_updates_keep_our_keys).with_argocd(),
        shared!(the_own_cluster_is_left_alone).with_argocd(),
    ]
}

const SECRET: &str = "updates-spoke";
/// Of each kind of update.
const ROUNDS: usize = 3;

async fn argo_cds_cluster_updates_keep_our_keys(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "updates", LIFE).await?;
    tenant.publish(scene, "prod/charts")?;
    scene.admit(tenant.name).await?;
    tenant
        .create("updates-charts", "repository", &tenant.repository())
        .await?;
    // The same cluster by its other name: another one to Argo CD.
    let server = format!("https://localhost:{}", scene.remote.port());
    let server = server.as_str();
    let values = cluster(scene, server, SECOND_SPOKE_AUDIENCE)?;
    tenant.create(SECRET, "cluster", &values).await?;
    tenant.ready("updates-charts").await?;
    let bound = tenant.ready(SECRET).await?;
    let before = data(&tenant.read(SECRET).await?)?;
    let config = json_of(&before, "config")?;
    ensure!(
        config["execProviderConfig"]["args"] == json!(["--cluster", SECRET]),
        "{config}"
    );

    let manifest = tenant.application("prod/charts", server);
    let application = Application::create(scene, &manifest).await?;
    application.is_good(0).await?;
    let api = scene.argocd()?.api().await?;
    let check = async |what: &str| -> Result<Map<String, Value>> {
        let after = data(&tenant.read(SECRET).await?)?;
        for key in ["useWorkloadIdentity", "workloadIdentityAudience", "server"] {
            ensure!(
                after.get(key) == before.get(key),
                "{what}: {key} in {after:?}"
            );
        }
        // Argo CD writes every field of its own type, whatever was there.
        let now = json_of(&after, "config")?;
        for (name, value) in config.as_object().context("config is no object")? {
            ensure!(
                now[name] == *value || covers(value, &now[name]),
                "{what}: {now}"
            );
        }
        Ok(after)
    };

    for round in 1..=ROUNDS {
        api.invalidate_cluster_cache(server).await?;
        let invalidated = check("invalidate cache").await?;
        let (name, label) = (format!("spoke {round}"), round.to_string());
        let change = json!({
            "server": server,
            "name": name,
            "namespaces": [],
            "labels": { "round": label },
            "annotations": { "example.test/round": label },
        });
        let fields = ["name", "namespaces", "labels", "annotations"];
        api.update_cluster(server, &fields, change).await?;
        let updated = check("update").await?;
        ensure!(updated["name"] == name, "{updated:?}");
        // What Argo CD writes is stable, or it would relist the cluster for each of these.
        ensure!(updated["config"] == invalidated["config"], "{updated:?}");
        let stored = tenant.read(SECRET).await?;
        ensure!(stored["metadata"]["labels"]["round"] == label, "{stored}");
        application.refresh().await?;
        application.is_good(round).await?;
        is_connected(scene, server).await?;
    }
    let after = tenant.ready(SECRET).await?;
    ensure!(
        (&after.metadata.uid, after.metadata.generation)
            == (&bound.metadata.uid, bound.metadata.generation),
        "the binding changed: {:?}",
        after.spec
    );

    application.delete().await?;
    for name in ["updates-charts", SECRET] {
        tenant.delete(name).await?;
    }
    Ok(())
}

/// Waits until Argo CD says that it is connected to the cluster.
async fn is_connected(scene: &Scene, server: &str) -> Result<()> {
    let api = scene.argocd()?.api().await?;
    let api = &api;
    wait_until("a connection to the cluster", LIMIT, || async move {
        let found = api.cluster(server).await?;
        let state = &found["connectionState"];
        ensure!(state["status"] == "Successful", "{state}");
        ensure!(found["info"]["applicationsCount"] != "0", "{found}");
        Ok(())
    })
    .await
}

/// Argo CD ignores exec plugins there, so there is nothing to inject.
async fn the_own_cluster_is_left_alone(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "own-cluster", LIFE).await?;
    let own = "own-cluster-in-cluster";
    let values: Values = [
        ("name", "in-cluster".to_owned()),
        ("server", IN_CLUSTER.to_owned()),
        (
            "config",
            r#"{"tlsClientConfig":{"insecure":false}}"#.to_owned(),
        ),
        ("useWorkloadIdentity", "true".to_owned()),
        ("workloadIdentityAudience", "own".to_owned()),
    ]
    .into();
    tenant.create(own, "cluster", &values).await?;
    let before = data(&tenant.read(own).await?)?;
    ensure!(
        before
            .iter()
            .all(|(key, value)| values.get(key.as_str()).is_some_and(|it| value == it)),
        "{before:?}"
    );
    let api = scene.argocd()?.api().await?;
    api.invalidate_cluster_cache(IN_CLUSTER).await?;
    // The plugin is not ours there, so our keys are nobody's.
    let after = data(&tenant.read(own).await?)?;
    ensure!(!after["config"].to_string().contains("exec"), "{after:?}");
    ensure!(!after.contains_key("useWorkloadIdentity"), "{after:?}");

    // Argo CD still reaches it.
    let found = api.cluster(IN_CLUSTER).await?;
    ensure!(found["connectionState"]["status"] != "Failed", "{found}");
    ensure!(
        tenant.bindings.get_opt(own).await?.is_none(),
        "it has a binding"
    );
    tenant.delete(own).await
}

fn json_of(data: &Map<String, Value>, key: &str) -> Result<Value> {
    let text = data.get(key).and_then(Value::as_str);
    serde_json::from_str(text.with_context(|| format!("no {key}"))?).context("it is no JSON")
}

/// Whether `after` has all that `before` has; Argo CD adds its defaults.
fn covers(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before
            .iter()
            .all(|(key, value)| after.get(key).is_some_and(|it| covers(value, it))),
        _ => before == after,
    }
}
