//! `cargo demo` as somebody who has just cloned the project runs it.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::process::tail;
use serde::Deserialize;

use crate::case::{Case, last};
use crate::scene::Prepared;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    // It aims at a minute; this machine may be busy.
    vec![last!(it_ends_well).within(Duration::from_secs(600))]
}

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

async fn it_ends_well(prepared: &Prepared) -> Result<()> {
    let folder = prepared.folder.join("demo");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let (report, log) = (folder.join("report.json"), folder.join("demo.log"));
    let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_demo"));
    command
        .arg("--report")
        .arg(&report)
        .env(harness::binaries::BUILT, "1")
        .stdin(Stdio::null())
        .stderr(output.try_clone().context("share a log file")?)
        .stdout(output)
        .kill_on_drop(true);
    // It makes a sandbox of its own.
    for variable in harness::sandbox::VARIABLES {
        command.env_remove(variable);
    }
    let status = command.status().await.context("start the demo")?;
    ensure!(status.success(), "{status}; it said:\n{}", tail(&log));
    let said = fs::read_to_string(&log).context("read what the demo said")?;
    ensure!(said.lines().last() == Some("demo: ok"), "{said}");

    let report = fs::read(&report).context("read the report")?;
    let report: Report = serde_json::from_slice(&report).context("parse the report")?;
    ensure!(!report.steps.is_empty(), "{report:?}");
    let in_order = report.steps.is_sorted_by(|a, b| a.seconds <= b.seconds);
    ensure!(in_order && report.seconds > 0.0, "{report:?}");
    for step in &report.steps {
        ensure!(said.contains(&step.what), "{step:?} was not told");
    }
    ensure!(report.credentials.len() == 2, "{report:?}");
    for credential in &report.credentials {
        let is_whole = !credential.target.is_empty()
            && credential.identity.starts_with("spiffe://")
            && credential.expires.ends_with('Z');
        ensure!(is_whole, "{credential:?}");
    }
    // It waits for the registry's; the cluster's may outlive it.
    let mut registries = report
        .credentials
        .iter()
        .filter(|credential| !credential.target.starts_with("https://"));
    let registry = registries.next().context("no registry in the report")?;
    ensure!(registry.rotations >= 1, "{registry:?}");
    Ok(())
}
