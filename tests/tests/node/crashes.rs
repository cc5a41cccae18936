//! The agent is killed at random points while pods come and go.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use harness::images::project;
use harness::process::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use crate::case::{Case, exclusive};
use crate::mounts;
use crate::pods::{REPO_SERVER, consumer};
use crate::scene::{LIMIT, Scene};
use crate::upgrade::set_image;

pub(crate) fn cases() -> Vec<Case> {
    vec![exclusive!(a_hundred_kills_leave_nothing_behind).within(LIMIT * 5)]
}

const KILLS: usize = 100;
/// Pods that are made and deleted at a time.
const CHURN: usize = 3;
/// The longest that an agent lives; the shortest is none at all.
const LONGEST: Duration = Duration::from_millis(700);
const AGENT: &str = "/usr/local/bin/argocd-identity-agent";

async fn a_hundred_kills_leave_nothing_behind(scene: &mut Scene) -> Result<()> {
    // Kubelet waits longer from crash to crash, so in this image a shell starts the agent again.
    let image = project::supervised_agent(&scene.prepared.binaries)?;
    scene.node.provide(&image).await?;
    set_image(scene, "argocd-identity-agent:supervised").await?;
    let scene = &*scene;
    let witness = scene.run(&consumer("witness", REPO_SERVER)).await?;
    scene.has_registry_credential(&witness).await?;
    let place = ["stat", "-c", "%d %i", "/var/run/workload-identity/docker"];
    let before = scene.says(&witness, &place).await?;
    let mounted: BTreeSet<_> = mounts::all()?.into_iter().collect();
    let folders: BTreeSet<_> = mounts::folders()?.into_iter().collect();

    let (stop, stopped) = watch::channel(false);
    let (pods, reads) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let killing = async {
        for _ in 0..KILLS {
            kill_next().await?;
        }
        stop.send_replace(true);
        anyhow::Ok(())
    };
    let churning = try_join_all((0..CHURN).map(|number| {
        let (stopped, pods) = (&stopped, &pods);
        async move {
            while !*stopped.borrow() {
                let count = pods.fetch_add(1, Ordering::Relaxed);
                let pod = consumer(&format!("churn-{number}-{count}"), REPO_SERVER);
                let pod = scene.run(&pod).await?;
                scene.delete(&pod).await?;
            }
            anyhow::Ok(())
        }
    }));
    let reading = async {
        while !*stopped.borrow() {
            // A credential may be missing or old, a torn file never.
            scene.docker_config(&witness).await?;
            reads.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    tokio::try_join!(killing, churning, reading)?;
    eprintln!(
        "{KILLS} kills, {} pods, {} reads",
        pods.into_inner(),
        reads.into_inner()
    );

    let (mounted, folders) = (&mounted, &folders);
    wait_until("nothing to be left behind", LIMIT, || async move {
        let left: Vec<_> = mounts::all()?;
        let unique: BTreeSet<_> = left.iter().cloned().collect();
        ensure!(unique.len() == left.len(), "mounted in layers: {left:?}");
        ensure!(unique == *mounted, "mounts are left: {unique:?}");
        let left: BTreeSet<_> = mounts::folders()?.into_iter().collect();
        ensure!(left == *folders, "folders are left: {left:?}");
        Ok(())
    })
    .await?;
    let after = scene.says(&witness, &place).await?;
    ensure!(
        before == after,
        "the folder is another one: {before} {after}"
    );
    scene.has_registry_credential(&witness).await?;
    let hidden = scene
        .says(
            &witness,
            &["find", "/var/run/workload-identity", "-name", ".*"],
        )
        .await?;
    ensure!(hidden.is_empty(), "half-written files are left: {hidden}");
    set_image(scene, "argocd-identity-agent:dev").await?;
    scene.delete(&witness).await
}

/// Waits for the next agent, lets it live for a while, and kills it.
async fn kill_next() -> Result<()> {
    let pid = wait_until("an agent", LIMIT, || async {
        agent()?.context("there is none")
    })
    .await?;
    let random = RandomState::new().hash_one(pid.as_raw_nonzero()) % 1000;
    tokio::time::sleep(LONGEST * u32::try_from(random)? / 1000).await;
    kill_process(pid, Signal::KILL).context("kill the agent")?;
    wait_until("its end", LIMIT, || async move {
        ensure!(agent()? != Some(pid), "it still runs");
        Ok(())
    })
    .await
}

/// The agent's process, as this PID namespace has it.
fn agent() -> Result<Option<Pid>> {
    for entry in fs::read_dir("/proc").context("list processes")? {
        let path = entry.context("list processes")?.path();
        let Some(pid) = path.file_name().and_then(|it| it.to_str()?.parse().ok()) else {
            continue;
        };
        // It may end while it is looked at.
        let command = fs::read(path.join("cmdline")).unwrap_or_default();
        let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
        if program == AGENT.as_bytes() {
            return Ok(Pid::from_raw(pid));
        }
    }
    Ok(None)
}
