//! Argo CD changes a repository Secret key by key when its API changes a
//! repository.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{IN_CLUSTER, data, kept};
use crate::case::{Case, shared};
use crate::rotation::{Application, LIFE, Tenant};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![shared!(argo_cds_repository_updates_keep_our_keys).with_argocd()]
}

const SECRET: &str = "repository-charts";

async fn argo_cds_repository_updates_keep_our_keys(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "repository", LIFE).await?;
    tenant.publish(scene, "prod/charts")?;
    scene.namespace(tenant.name, &[]).await?;
    tenant
        .create(SECRET, "repository", &tenant.repository())
        .await?;
    let bound = tenant.ready(SECRET).await?;
    let before = data(&tenant.read(SECRET).await?)?;
    let url = format!("{}/prod/charts", tenant.quay.host());
    ensure!(
        before["url"] == url && before["enableOCI"] == "true",
        "{before:?}"
    );

    let manifest = tenant.application("prod/charts", IN_CLUSTER);
    let application = Application::create(scene, &manifest).await?;
    application.is_good(0).await?;

    let api = scene.argocd()?.api().await?;
    for round in 1..=3 {
        // As its UI does: what was shown, with a change.
        let mut shown = repository(&api.repositories().await?, &url)?;
        ensure!(
            shown["connectionState"]["status"] == "Successful",
            "{shown}"
        );
        shown["name"] = json!(format!("charts {round}"));
        api.update_repository(shown).await?;
        let mut after = data(&tenant.read(SECRET).await?)?;
        let name = after.remove("name");
        ensure!(name == Some(json!(format!("charts {round}"))), "{name:?}");
        let new = kept(&before, &after)?;
        ensure!(new.is_empty(), "Argo CD added {new:?}");
        let shown = repository(&api.repositories().await?, &url)?;
        ensure!(
            shown["username"].is_null() && shown["proxy"].is_null(),
            "{shown}"
        );
        application.refresh().await?;
        application.is_good(round).await?;
    }

    // An update that would make it a repository that Argo CD cannot pull from does not get through.
    let broken = json!({ "repo": url, "type": "helm", "name": "broken" });
    let refused = api.update_repository(broken).await;
    let refused = refused.err().context("it was not refused")?;
    let refused = format!("{refused:#}");
    ensure!(refused.contains("invalid-url"), "{refused}");
    let mut after = data(&tenant.read(SECRET).await?)?;
    after.remove("name");
    kept(&before, &after)?;

    let again = tenant.ready(SECRET).await?;
    ensure!(
        (&again.metadata.uid, again.metadata.generation)
            == (&bound.metadata.uid, bound.metadata.generation),
        "the binding changed: {:?}",
        again.spec
    );
    application.delete().await?;
    tenant.delete(SECRET).await
}

fn repository(list: &Value, url: &str) -> Result<Value> {
    let items = list["items"].as_array().context("no list")?;
    let found = items.iter().find(|it| it["repo"] == url);
    found
        .cloned()
        .with_context(|| format!("no {url} in {list}"))
}
