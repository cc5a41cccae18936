//! More processes in a running container, as `kubectl exec` starts them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{SandboxedContainer, as_user};
use crate::packages;

/// Programs between the one that was started here and the container's own.
const WRAPPERS: [&str; 3] = ["unshare", "bwrap", "setpriv"];

impl SandboxedContainer {
    /// A command that runs `program` with the container's mounts, user and environment. Arguments and
    /// outputs are the caller's.
    ///
    /// # Errors
    /// When the container has ended.
    pub fn exec(&self, program: &str) -> Result<Command> {
        let id = self.own_process()?;
        let environment = fs::read(format!("/proc/{id}/environ"))
            .context("read the environment of the container's process")?;
        let environment = String::from_utf8_lossy(&environment);
        let variables = environment.split('\0').filter_map(|it| it.split_once('='));
        let mut command =
            Command::new(packages::find("nsenter").context("nsenter is not on PATH")?);
        command
            .arg(format!("--mount=/proc/{id}/ns/mnt"))
            .arg("--")
            .args(as_user(self.user))
            .arg(program)
            .env_clear()
            .envs(variables);
        Ok(command)
    }

    /// The container's root folder, as seen from outside.
    ///
    /// # Errors
    /// When the container has ended.
    pub fn root(&self) -> Result<PathBuf> {
        Ok(format!("/proc/{}/root", self.own_process()?).into())
    }

    /// The process id of the container's own program.
    ///
    /// # Errors
    /// When the container has ended.
    pub fn own_process(&self) -> Result<u32> {
        let mut id = self.process.id();
        loop {
            let of = |file: &str| {
                fs::read_to_string(format!("/proc/{id}/{file}"))
                    .context("look at the container's process")
            };
            if !WRAPPERS.contains(&of("comm")?.trim()) {
                return Ok(id);
            }
            let children = of(&format!("task/{id}/children"))?;
            let first = children.split_whitespace().next();
            id = first
                .and_then(|child| child.parse().ok())
                .context("the container has ended")?;
        }
    }
}
