//! A volume without space: what is there stays, and the binding says so.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, Result, bail, ensure};
use harness::process::wait_until;
use shared::errors::Code;

use crate::case::{Case, exclusive};
use crate::mounts;
use crate::pods::{REPO_SERVER, consumer};
use crate::scene::{LIMIT, REGISTRY, Scene};

pub(crate) fn cases() -> Vec<Case> {
    vec![exclusive!(the_last_credential_stays_until_there_is_space)]
}

async fn the_last_credential_stays_until_there_is_space(scene: &mut Scene) -> Result<()> {
    let pod = scene.run(&consumer("full", REPO_SERVER)).await?;
    let before = scene.has_registry_credential(&pod).await?;
    let filler = mounts::of(&pod)?.join("docker/filler");
    fill(&filler)?;
    let bindings = scene.bindings()?;
    let bindings = &bindings;
    wait_until(
        "the node to say that it cannot write",
        LIMIT,
        || async move {
            let found = bindings.get(REGISTRY).await.context("read the binding")?;
            let nodes = found.status.iter().flat_map(|status| &status.nodes);
            let errors: Vec<_> = nodes.filter_map(|node| node.error.as_ref()).collect();
            match errors
                .iter()
                .find(|error| error.code == Code::StoreFailed.as_str())
            {
                Some(_) => Ok(()),
                None => bail!("{errors:?}"),
            }
        },
    )
    .await?;
    let during = scene.docker_config(&pod).await?;
    ensure!(during == before, "it was replaced, or torn: {during}");

    fs::remove_file(&filler).context("make space")?;
    let (scene, pod, before) = (&*scene, &pod, &before);
    wait_until("the next credential", LIMIT, || async move {
        let now = scene.docker_config(pod).await?;
        ensure!(now != *before, "it is still the old one");
        Ok(())
    })
    .await?;
    harness::bindings::ready(bindings, REGISTRY, LIMIT).await?;
    scene.delete(pod).await
}

/// Writes until there is no space.
fn fill(path: &std::path::Path) -> Result<()> {
    let mut file = fs::File::create(path).context("make the filler")?;
    // Whole pages first, then what is left of the last one.
    for size in [1 << 16, 1 << 12, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
    Ok(())
}
