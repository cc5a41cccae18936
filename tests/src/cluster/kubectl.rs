//! kubectl, for what a user types: `apply -k`, `label`, `rollout`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::output;

/// kubectl with a kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    config: PathBuf,
}

impl Kubectl {
    pub(super) fn new(program: &Path, config: &Path) -> Self {
        Self {
            program: program.to_owned(),
            config: config.to_owned(),
        }
    }

    /// Runs it off the async threads and returns what it printed.
    ///
    /// # Errors
    /// With its own words.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.config)
            .args(arguments);
        let what = format!("kubectl {}", arguments.join(" "));
        tokio::task::spawn_blocking(move || output(&mut command))
            .await
            .context("run kubectl")?
            .context(what)
    }

    /// The kubeconfig's path.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }
}
