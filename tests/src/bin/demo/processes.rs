//! On processes: no node, so that it takes less than a minute.

use std::path::Path;

use anyhow::Result;
use harness::binaries::Binaries;
use harness::packages;
use harness::peers::Peers;
use harness::scene::Surroundings;

use crate::job::Stage;
use crate::story::Story;
use crate::{Arguments, injected, job};

/// Plays all of it below `folder`.
pub(crate) async fn play(folder: &Path, arguments: &Arguments) -> Result<()> {
    packages::ensure()?;
    let peers = Peers::prepare()?;
    let binaries = Binaries::build()?;
    // From here on it is what "warm" means.
    let mut story = Story::default();
    story.step("prepared: peers and project are built");

    let around = Surroundings::start(folder, &peers, job::LIVES, &arguments.identity).await?;
    story.step(format!(
        "a cluster ({}) and a private registry ({}) answer",
        around.control_plane.url(),
        around.targets.quay.host()
    ));
    job::publish(&mut story, &around.targets, &peers).await?;

    let installation = around.install(&binaries, job::LIVES).await?;
    story.step("argocd-workload-identity is installed; namespace argocd is labelled");

    let (argocd, remote) = tokio::try_join!(
        around.argocd(&peers, &binaries),
        around.remote(&peers, &installation)
    )?;
    let client = around.client()?;
    story.step("stock Argo CD's install.yaml is applied, unchanged; its pods got:");
    for line in injected::describe(&client).await? {
        story.detail(line);
    }
    let applications = argocd.applications();
    let token = around.control_plane.admin_token();
    let config = around.control_plane.kubeconfig("demo", token)?;
    let stage = Stage {
        targets: &around.targets,
        remote: &remote,
        source: &around.source,
        peers: &peers,
        binaries: &binaries,
        client: &client,
        kubeconfig: &config,
        applications: &applications,
    };
    let credentials = job::sync(&mut story, &stage).await?;
    story.end(credentials, arguments.report.as_deref())?;
    if arguments.keep {
        crate::keep(&config).await;
    }
    Ok(())
}
