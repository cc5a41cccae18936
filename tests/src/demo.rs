//! The demo as somebody who has just cloned the project runs it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::process::tail;

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
    let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = tokio::process::Command::new(program);
    command
        .args(arguments)
        .arg("--report")
        .arg(&report)
        .env(crate::binaries::BUILT, "1")
        .stdin(Stdio::null())
        .stderr(output.try_clone().context("share a log file")?)
        .stdout(output)
        .kill_on_drop(true);
    // It makes a sandbox of its own.
    for variable in crate::sandbox::VARIABLES {
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
