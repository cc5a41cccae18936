//! What a code host has: bare git repositories and a folder of charts with its index.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::chart::Chart;
use crate::folders::create;
use crate::process::output;

/// Path of git repositories, in URLs and below the host's folder.
pub(super) const GIT: &str = "git";
/// Path of Helm repositories, in URLs and below the web server's folder.
pub(super) const CHARTS: &str = "charts";

/// Makes a bare repository with the files that `write` puts into a folder in one commit; returns its path in URLs.
pub(super) fn repository(
    folder: &Path,
    team: &str,
    name: &str,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<String> {
    let below = format!("{GIT}/{team}/{name}.git");
    let bare = create(folder.join(&below))?;
    let work = create(folder.join("work").join(team).join(name))?;
    write(&work)?;
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command
            .arg("-C")
            .arg(&work)
            .args([
                "-c",
                "user.name=tests",
                "-c",
                "user.email=tests@example.test",
            ])
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1");
        output(&mut command).with_context(|| format!("git {}", arguments.join(" ")))
    };
    let to = bare.to_str().context("a path that is no text")?;
    git(&["init", "--quiet", "--initial-branch=main"])?;
    git(&["add", "--all"])?;
    git(&["commit", "--quiet", "--message", name])?;
    git(&["init", "--quiet", "--bare", "--initial-branch=main", to])?;
    git(&["push", "--quiet", to, "main"])?;
    Ok(below)
}

/// Packages the chart into a team's folder and makes its index; returns its path in URLs.
pub(super) fn charts(folder: &Path, helm: &Path, team: &str, chart: &Chart<'_>) -> Result<String> {
    let below = format!("{CHARTS}/{team}");
    let to: PathBuf = create(folder.join("www").join(&below))?;
    chart.package(helm, &folder.join("work"), &to)?;
    output(chart.helm(helm, folder).args(["repo", "index"]).arg(&to))
        .with_context(|| format!("make the index of {below}"))?;
    Ok(below)
}
