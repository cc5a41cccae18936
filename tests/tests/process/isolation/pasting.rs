//! Argo CD's API shows a repository's proxy to whoever may read the repository: it is of no use elsewhere.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::side::Side;
use crate::case::{Case, shared};
use crate::rotation::{LIFE, Tenant};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![shared!(a_proxy_pasted_into_another_repository_is_refused).with_argocd()]
}

const OWNER: Side = Side {
    project: "pasted-owner",
    robot: "prod+pasted",
    folder: "prod",
};
const THIEF: Side = Side {
    project: "pasted-thief",
    robot: "staging+pasted",
    folder: "staging",
};

async fn a_proxy_pasted_into_another_repository_is_refused(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "pasted", LIFE).await?;
    for side in [OWNER, THIEF] {
        side.open(scene, &tenant).await?;
    }
    let host = tenant.quay.host();
    let secrets = [("pasted-a", OWNER), ("pasted-b", THIEF)];
    for (name, side) in secrets {
        let url = format!("oci://{host}/{}/charts", side.folder);
        let values = side.repository(&tenant, "helm", &url);
        tenant.create(name, "repository", &values).await?;
        tenant.ready(name).await?;
    }
    let api = scene.argocd()?.api().await?;
    let shown = api.repositories().await?;
    let stolen = shown_proxy(&shown, OWNER)?;
    ensure!(stolen.starts_with("http://pasted-a:"), "{stolen}");

    // Into a repository of one's own, as Argo CD's UI does it, and into its Secret: it has its own again.
    let before = shown_proxy(&shown, THIEF)?;
    let mut own = repository(&shown, THIEF)?;
    own["proxy"] = json!(stolen);
    api.update_repository(own).await?;
    let change = [("proxy", Some(stolen.as_str()))];
    tenant.change("pasted-b", &change).await?;
    let after = shown_proxy(&api.repositories().await?, THIEF)?;
    ensure!(after == before, "{after} in place of {before}");
    // Into one without workload identity, which nobody completes.
    let plain = json!({
        "repo": format!("{host}/prod/charts"), "type": "helm", "enableOCI": true,
        "project": THIEF.project, "proxy": stolen,
    });
    let created = api.create_repository(plain).await;
    let error = format!("{:#}", created.err().context("it was taken")?);
    ensure!(
        error.contains("has to name the Secret that it is in"),
        "{error}"
    );

    for (name, _) in secrets {
        tenant.ready(name).await?;
        tenant.delete(name).await?;
    }
    Ok(())
}

fn repository(list: &Value, side: Side) -> Result<Value> {
    let items = list["items"].as_array().context("no list")?;
    let found = items.iter().find(|it| it["project"] == side.project);
    let project = side.project;
    found
        .cloned()
        .with_context(|| format!("nothing of {project}"))
}

fn shown_proxy(list: &Value, side: Side) -> Result<String> {
    let proxy = repository(list, side)?["proxy"].as_str().map(str::to_owned);
    proxy.context("Argo CD shows no proxy")
}
