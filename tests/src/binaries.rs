//! The project's own programs, built by the Cargo that runs the suite.
//!
//! `CARGO_BIN_EXE_*` exists only inside the package that has the binary, so
//! the harness asks Cargo for them. The nested build shares the target folder
//! and takes no lock that its caller still holds. It selects what its caller
//! was built with, so that Cargo comes to the same features and rebuilds
//! nothing: the whole workspace, with the tests under `cargo test`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::progress;

/// When set, the programs are there already: a test that starts the demo has built them.
pub const BUILT: &str = "WORKLOAD_IDENTITY_BUILT";

const EXEC_AUTH: &str = "exec-auth";

/// Paths of the built programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    folder: PathBuf,
    exec_auth: PathBuf,
}

impl Binaries {
    /// Builds what is not up to date, with Cargo's own progress on standard error.
    ///
    /// # Errors
    /// When Cargo is not there or a program does not compile.
    pub fn build() -> Result<Self> {
        let folder = profile_folder()?;
        let binaries = Self {
            exec_auth: folder.join(EXEC_AUTH),
            folder,
        };
        if env::var_os(BUILT).is_some() {
            return Ok(binaries);
        }
        progress::step("building the project's programs");
        let mut cargo = cargo();
        cargo.args(["build", "--workspace", "--bins"]);
        if runs_tests()? {
            cargo.arg("--tests");
        }
        if binaries.folder.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.status().context("start cargo")?;
        ensure!(status.success(), "cargo build ended with {status}");
        Ok(binaries)
    }

    /// With the exec plugin as it ships: it runs in other people's images, and so brings no library along.
    ///
    /// # Errors
    /// As [`Binaries::build`].
    pub fn with_static_exec_auth(mut self) -> Result<Self> {
        // A folder of its own: in the shared one it would replace the other build, and that one it, in turn.
        let target = self
            .folder
            .parent()
            .context("the folder of the programs has no parent")?
            .join("static");
        self.exec_auth = target.join("release").join(EXEC_AUTH);
        if env::var_os(BUILT).is_some() {
            return Ok(self);
        }
        progress::step("linking exec-auth statically");
        let status = cargo()
            .args(["rustc", "--release", "--package", EXEC_AUTH, "--target-dir"])
            .arg(&target)
            .args(["--", "-C", "target-feature=+crt-static"])
            .status()
            .context("start cargo")?;
        ensure!(status.success(), "cargo rustc ended with {status}");
        Ok(self)
    }

    /// The control plane, `argocd-identity`.
    #[must_use]
    pub fn control_plane(&self) -> PathBuf {
        self.folder.join("argocd-identity")
    }

    /// The node agent, `argocd-identity-agent`.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.folder.join("argocd-identity-agent")
    }

    /// The exec plugin, `exec-auth`.
    #[must_use]
    pub fn exec_auth(&self) -> PathBuf {
        self.exec_auth.clone()
    }

    /// The credential proxy, `credential-proxy`.
    #[must_use]
    pub fn credential_proxy(&self) -> PathBuf {
        self.folder.join("credential-proxy")
    }

    /// The suite's own writer to a credential volume, which is there to be killed.
    #[must_use]
    pub fn volume_writer(&self) -> PathBuf {
        self.folder.join("volume_writer")
    }
}

fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).stdin(Stdio::null());
    cargo
}

/// The project's root folder.
#[must_use]
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// `target/debug` or `target/release`: where the running program is, or, for
/// a test, the folder above.
fn profile_folder() -> Result<PathBuf> {
    let folder = program_folder()?;
    let profile = if runs_tests()? {
        folder.parent()
    } else {
        Some(folder.as_path())
    };
    Ok(profile.context("deps has no parent")?.to_owned())
}

fn runs_tests() -> Result<bool> {
    Ok(program_folder()?.ends_with("deps"))
}

fn program_folder() -> Result<PathBuf> {
    let program = env::current_exe().context("find the running program")?;
    let folder = program
        .parent()
        .context("the running program has no folder")?;
    Ok(folder.to_owned())
}
