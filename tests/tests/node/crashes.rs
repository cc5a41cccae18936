//! The agent is killed at random points while pods come and go.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use harness::images::project;
use harness::process::wait_until;
use harness::scene::ARGOCD;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::case::{Case, exclusive};
use crate::mounts;
use crate::pods::{REPO_SERVER, consumer};
use crate::scene::{LIMIT, Scene};
use crate::upgrade::set_image;

pub(crate) fn cases() -> Vec<Case> {
    vec![exclusive!(a_hundred_kills_leave_nothing_behind).within(LIMIT * 5)]
}

const KILLS: usize = 100;
/// So many that end by themselves are too many.
const ENDED: usize = 5;
/// How many pods come and go at a time.
const CHURN: usize = 3;
/// How long a pod may take to run before it is deleted all the same. Kubelet waits twice as long after each
/// failure, and an old pod would outlast the trial.
const PATIENCE: Duration = Duration::from_secs(4);
/// The longest that an agent lives: some are killed while they start, some live long enough for kubelet to
/// register them, which it does once a second, and are killed at work.
const LONGEST: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_millis(300),
    Duration::from_millis(3500),
];
/// Kubelet waits up to 122 s before it tries again to take back a volume whose driver was not there.
const TAKEN_BACK: Duration = Duration::from_secs(150);
const AGENT: &str = "/usr/local/bin/argocd-identity-agent";
/// Where kubelet has what containers write.
const LOGS: &str = "/var/log/pods";
/// Lines of a log that are shown.
const LAST: usize = 20;

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

    let (stop, stopped) = watch::channel(false);
    let (ran, reads) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let killing = async {
        let mut kills = 0;
        let mut ended = 0;
        while kills < KILLS {
            if kill_next(LONGEST[kills % LONGEST.len()]).await? {
                kills += 1;
                continue;
            }
            // An agent that cannot start says why, and is started again, as by kubelet.
            ended += 1;
            eprintln!("an agent ended by itself:\n{}", last_words()?);
            ensure!(ended < ENDED, "{ended} agents ended by themselves");
        }
        stop.send_replace(true);
        anyhow::Ok(())
    };
    let churning = try_join_all((0..CHURN).map(|number| churn(scene, number, &stopped, &ran)));
    let reading = async {
        while !*stopped.borrow() {
            // A credential may be missing or old, a torn file never.
            scene.docker_config(&witness).await?;
            reads.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    let (_, churned, ()) = tokio::try_join!(killing, churning, reading)?;
    let pods: Vec<Pod> = churned.into_iter().flatten().collect();
    let (ran, reads) = (ran.into_inner(), reads.into_inner());
    eprintln!(
        "{KILLS} kills: {ran} of {} pods ran, {reads} reads",
        pods.len()
    );
    ensure!(
        ran > 0,
        "no pod ever ran: the agent was always killed before it could work"
    );

    for pod in &pods {
        scene.gone(pod).await?;
    }
    let volume = mounts::of(&witness)?;
    let only = &volume;
    wait_until("nothing to be left behind", TAKEN_BACK, || async move {
        let left = mounts::all()?;
        ensure!(left == std::slice::from_ref(only), "mounts: {left:?}");
        let left = mounts::folders()?;
        ensure!(left.len() == 1, "folders: {left:?}");
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

/// Creates and deletes pods until it is stopped; returns them all.
async fn churn(
    scene: &Scene,
    number: usize,
    stopped: &watch::Receiver<bool>,
    ran: &AtomicUsize,
) -> Result<Vec<Pod>> {
    let pods = scene.pods(ARGOCD)?;
    let mut made = Vec::new();
    while !*stopped.borrow() {
        let name = format!("churn-{number}-{}", made.len());
        let pod = scene.create(&consumer(&name, REPO_SERVER)).await?;
        if let Ok(Ok(_)) = timeout(PATIENCE, scene.running(&pod)).await {
            ran.fetch_add(1, Ordering::Relaxed);
        }
        pods.delete(&name, &DeleteParams::default())
            .await
            .with_context(|| format!("delete pod {name}"))?;
        made.push(pod);
    }
    Ok(made)
}

/// Waits for the next agent, lets it live for a while, and kills it. False when it has ended by itself.
async fn kill_next(longest: Duration) -> Result<bool> {
    let pid = wait_until("an agent", LIMIT, || async {
        agent()?.context("there is none")
    })
    .await?;
    let random = RandomState::new().hash_one(pid.as_raw_nonzero()) % 1000;
    tokio::time::sleep(longest * u32::try_from(random)? / 1000).await;
    match kill_process(pid, Signal::KILL) {
        Err(Errno::SRCH) => return Ok(false),
        result => result.context("kill the agent")?,
    }
    wait_until("its end", LIMIT, || async move {
        ensure!(agent()? != Some(pid), "it still runs");
        Ok(true)
    })
    .await
}

/// The end of what the agents' container wrote.
fn last_words() -> Result<String> {
    let mut said = String::new();
    for pod in fs::read_dir(LOGS).context("list logs")? {
        let folder = pod.context("list logs")?.path().join("agent");
        for log in fs::read_dir(folder).into_iter().flatten() {
            let log = log.context("list logs")?.path();
            let text =
                fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
            let lines: Vec<_> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST)..];
            said.push_str(&format!("{}:\n{}\n", log.display(), last.join("\n")));
        }
    }
    Ok(said)
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
