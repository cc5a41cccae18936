//! On a real node: kubelet mounts the volumes, Argo CD runs in pods.

use std::path::Path;

use anyhow::Result;
use harness::node_scene::{NodeScene, Prepared};

use crate::job::Stage;
use crate::story::Story;
use crate::{Arguments, injected, job};

/// Plays all of it below `folder`.
pub(crate) async fn play(folder: &Path, arguments: &Arguments) -> Result<()> {
    let prepared = Prepared::new()?;
    let mut story = Story::default();
    story.step("prepared: peers, images' contents and project are built");

    let scene = NodeScene::start(folder, &prepared, job::LIVES, &arguments.identity).await?;
    story.step(format!(
        "a node is Ready in a cluster ({}); a private registry ({}) answers",
        scene.cluster.control_plane.url(),
        scene.targets.quay.host()
    ));
    job::publish(&mut story, &scene.targets, &prepared.peers).await?;

    let installed = scene.install(job::LIVES).await?;
    story.step("argocd-workload-identity is installed by kubectl apply -k; its pods are ready");

    let (applications, remote) = tokio::try_join!(
        scene.argocd(&prepared.peers),
        scene.remote(&prepared.peers, &installed)
    )?;
    story.step("stock Argo CD's install.yaml is applied, unchanged; repo-server and controller run in pods");

    scene.opt_in().await?;
    let client = scene.client()?;
    story.step("namespace argocd is labelled and its workloads are restarted; the new pods got:");
    for line in injected::describe(&client).await? {
        story.detail(line);
    }
    let config = scene.cluster.kubectl().config();
    let stage = Stage {
        targets: &scene.targets,
        remote: &remote,
        source: &scene.source,
        peers: &prepared.peers,
        binaries: &prepared.binaries,
        client: &client,
        kubeconfig: config,
        applications: &applications,
    };
    let credentials = job::sync(&mut story, &stage).await?;
    story.end(credentials, arguments.report.as_deref())?;
    if arguments.keep {
        crate::keep(config).await;
    }
    Ok(())
}
