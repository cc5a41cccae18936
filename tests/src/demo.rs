//! The demo as somebody who has just cloned the project runs it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::process::Command;

use crate::process::{tail, wait_until};
use crate::sandbox::{self, control_groups};

/// Said when components run.
const BEGUN: &str = "published ";
/// Said of a folder that is left behind.
const KEPT: &str = "] kept ";
/// Said of what another project may not have.
const REFUSED: &str = " is refused: ";
/// How identities begin.
const IDENTITIES: [&str; 2] = ["spiffe://example.test/", "system:serviceaccount:argocd:"];
/// Of `--identity`: what a stand-in gives.
const SPIRE: [&str; 2] = ["spire", "workload-api"];
/// Said of it.
const STAND_IN: &str = "a test server that stands in for SPIRE";
/// Time until then, on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// What is read of the demo's report.
#[derive(Debug, Deserialize)]
struct Report {
    steps: Vec<Step>,
    credentials: Vec<Credential>,
    seconds: f64,
}

#[derive(Debug, Deserialize)]
struct Step {
    seconds: f64,
    what: String,
}

#[derive(Debug, Deserialize)]
struct Credential {
    target: String,
    identity: String,
    expires: String,
    rotations: u64,
}

/// Runs `program` with `arguments` to its end, with its report and what it says in `folder`, and checks both.
///
/// # Errors
/// With what it said, when it does not end with `demo: ok`, and when its report is not whole.
pub async fn ends_well(program: &str, arguments: &[&str], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let (report, log) = (folder.join("report.json"), folder.join("demo.log"));
    let mut command = command(program, arguments, &log)?;
    command.arg("--report").arg(&report);
    let status = command.status().await.context("start the demo")?;
    ensure!(status.success(), "{status}; it said:\n{}", tail(&log));
    let said = fs::read_to_string(&log).context("read what the demo said")?;
    // Where folders are kept, it says so after everything else.
    let mut lines = said.lines().rev().skip_while(|it| it.contains(KEPT));
    ensure!(lines.next() == Some("demo: ok"), "{said}");

    let report = fs::read(&report).context("read the report")?;
    let report: Report = serde_json::from_slice(&report).context("parse the report")?;
    ensure!(!report.steps.is_empty(), "{report:?}");
    let in_order = report.steps.is_sorted_by(|a, b| a.seconds <= b.seconds);
    ensure!(in_order && report.seconds > 0.0, "{report:?}");
    for step in &report.steps {
        ensure!(said.contains(&step.what), "{step:?} was not told");
    }
    let refusal = report.steps.iter().find(|it| it.what.contains(REFUSED));
    ensure!(refusal.is_some(), "nobody was refused: {report:?}");
    // Two projects and the remote cluster, each with an identity of its own; with SPIRE one of the projects has a
    // certificate, too.
    let identities: BTreeSet<_> = report.credentials.iter().map(|it| &it.identity).collect();
    ensure!(identities.len() == 3, "{report:?}");
    let is_stand_in = said.contains(STAND_IN);
    let credentials = if is_stand_in { 4 } else { 3 };
    ensure!(report.credentials.len() == credentials, "{report:?}");
    let is_spire = arguments.iter().any(|it| SPIRE.contains(it));
    ensure!(is_stand_in == is_spire, "{said}");
    for credential in &report.credentials {
        let is_whole = !credential.target.is_empty()
            && IDENTITIES
                .iter()
                .any(|it| credential.identity.starts_with(it))
            && credential.expires.ends_with('Z');
        ensure!(is_whole, "{credential:?}");
    }
    // It waits for the first registry's; the others may outlive it.
    let mut registries = report
        .credentials
        .iter()
        .filter(|credential| !credential.target.starts_with("https://"));
    let registry = registries.next().context("no registry in the report")?;
    ensure!(registry.rotations >= 1, "{registry:?}");
    Ok(())
}

/// Starts `program` with `arguments`, ends it in the middle by a SIGKILL to the process that runs everything,
/// as a crash does, and checks that nothing of it is left: no process, no control group, no folder.
///
/// # Errors
/// When something is left, and when it ends before.
pub async fn crash_leaves_nothing(program: &str, arguments: &[&str], folder: &Path) -> Result<()> {
    let (folder, log) = (folder.join("crashed"), folder.join("crashed.log"));
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut demo = command(program, arguments, &log)?
        .env("TMPDIR", &folder)
        .spawn()
        .context("start the demo")?;
    let said = &log;
    wait_until("the demo to begin", LIMIT, || async move {
        let said = fs::read_to_string(said).unwrap_or_default();
        ensure!(said.contains(BEGUN), "{said}");
        Ok(())
    })
    .await?;
    let runs = entries(&folder)?;
    let run = runs.first().context("it has no folder")?;
    ensure!(
        control_groups(run)?.iter().any(|group| group.is_dir()),
        "it has no control group"
    );
    let program = Path::new(program)
        .canonicalize()
        .context("the demo's path")?;
    let inside = processes(run)?
        .into_iter()
        .find(|it| it.is_inside && it.program == program)
        .context("nothing runs inside")?;
    kill_process(inside.pid, Signal::KILL).context("crash it")?;
    let status = demo.wait().await.context("wait for the demo")?;
    ensure!(!status.success(), "it ended well");

    ensure!(entries(&folder)?.is_empty(), "{} is left", run.display());
    for group in control_groups(run)? {
        ensure!(!group.exists(), "{} is left", group.display());
    }
    let left: Vec<_> = processes(run)?.into_iter().map(|it| it.program).collect();
    ensure!(left.is_empty(), "{left:?} are left");
    Ok(())
}

/// The demo, which has been built and makes a sandbox of its own. Its network is its own, too: credential proxies have
/// one port, and several demos run at a time.
fn command(program: &str, arguments: &[&str], log: &Path) -> Result<Command> {
    let output = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let mut command = Command::new("unshare");
    command
        .args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up && exec \"$@\"",
            "sh",
        ])
        .arg(program)
        .args(arguments)
        .env(crate::binaries::BUILT, "1")
        .stdin(Stdio::null())
        .stderr(output.try_clone().context("share a log file")?)
        .stdout(output)
        .kill_on_drop(true);
    for variable in sandbox::VARIABLES {
        command.env_remove(variable);
    }
    Ok(command)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    listed.map(|entry| Ok(entry?.path())).collect()
}

/// A process of a run, which it and its children know by their environment.
struct Member {
    pid: Pid,
    program: PathBuf,
    is_inside: bool,
}

fn processes(run: &Path) -> Result<Vec<Member>> {
    let [role, variable] = sandbox::VARIABLES;
    let (inside, own) = (
        format!("{role}=inside"),
        format!("{variable}={}", run.display()),
    );
    let mut found = Vec::new();
    for path in entries(Path::new("/proc"))? {
        let Some(pid) = path.file_name().and_then(|it| it.to_str()?.parse().ok()) else {
            continue;
        };
        // Any of them may end while it is looked at.
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        let has = |variable: &str| {
            let mut variables = environment.split(|byte| *byte == 0);
            variables.any(|it| it == variable.as_bytes())
        };
        if let (true, Some(pid)) = (has(&own), Pid::from_raw(pid)) {
            found.push(Member {
                pid,
                program: fs::read_link(path.join("exe")).unwrap_or_default(),
                is_inside: has(&inside),
            });
        }
    }
    Ok(found)
}
