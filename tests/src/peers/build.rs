//! Builds one program from its module file into the cache, or finds it there.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::packages::find;
use crate::process::output;
use crate::progress;

/// Folder of the module files.
pub(super) const MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
/// This project's part of the user's cache folder.
const CACHE: &str = "argocd-workload-identity/peers";
/// Built statically (`CGO_ENABLED=0`), so that they also run where only some folders are mounted.
const ENVIRONMENT: &[(&str, &str)] = &[("CGO_ENABLED", "0"), ("GOFLAGS", ""), ("GOWORK", "off")];
const FLAGS: &[&str] = &["-mod=readonly", "-trimpath", "-buildvcs=false"];

/// One program, and the module that it is built from.
pub(super) struct Peer {
    /// Name of the binary.
    pub(super) name: &'static str,
    /// Folder under [`MODULES`].
    pub(super) folder: &'static str,
    /// Upstream module; its version in go.mod is the peer's version.
    pub(super) module: &'static str,
    /// Main package inside that module.
    pub(super) package: &'static str,
    /// Linker values that upstream's own build sets from its version, which it else does not know.
    pub(super) stamps: fn(&str) -> Vec<(&'static str, String)>,
}

impl Peer {
    fn folder(&self) -> PathBuf {
        Path::new(MODULES).join(self.folder)
    }

    /// A `go` command that sees this peer's module file and nothing of the user's flags.
    fn go(&self) -> Command {
        let mut command = Command::new("go");
        command
            .current_dir(self.folder())
            .envs(ENVIRONMENT.iter().copied());
        command
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.folder().join(file);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// The flags of the build; their values are part of the cache key.
    fn flags(&self, go_mod: &str) -> Result<Vec<String>> {
        let version = version(go_mod, self.module)
            .with_context(|| format!("{} requires no {}", self.folder, self.module))?;
        let stamps = (self.stamps)(version)
            .into_iter()
            .map(|(symbol, value)| format!(" -X {symbol}={value}"));
        let mut flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
        flags.push(format!("-ldflags=-s -w{}", stamps.collect::<String>()));
        Ok(flags)
    }

    /// The binary's path, after building it when the cache lacks it.
    pub(super) fn build(&self, cache: &Path) -> Result<PathBuf> {
        let go_mod = self.read("go.mod")?;
        let flags = self.flags(&go_mod)?;
        let toolchain = output(self.go().args(["env", "GOVERSION", "GOOS", "GOARCH"]))?;
        let key = key(&[
            &go_mod,
            &self.read("go.sum")?,
            &toolchain,
            &flags.join("\n"),
            &format!("{ENVIRONMENT:?}"),
            self.package,
        ]);
        let folder = cache.join(format!("{}-{key}", self.name));
        let binary = folder.join(self.name);
        if binary.is_file() {
            return Ok(binary);
        }

        let _lock = lock(cache, self.name)?;
        if binary.is_file() {
            return Ok(binary);
        }
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        progress::step(format_args!("building {} from source", self.name));
        let begin = Instant::now();
        // A name of its own until it is whole: a killed build must not look like a binary. The lock
        // makes one fixed name enough, and so a killed build's leftover is overwritten by the next.
        let partial = folder.join(".partial");
        output(
            self.go()
                .arg("build")
                .args(&flags)
                .arg("-o")
                .arg(&partial)
                .arg(format!("{}{}", self.module, self.package)),
        )
        .with_context(|| format!("build {}", self.name))?;
        fs::rename(&partial, &binary).with_context(|| format!("keep {}", binary.display()))?;
        progress::step(format_args!(
            "built {} in {:.0} s",
            self.name,
            begin.elapsed().as_secs_f64()
        ));
        Ok(binary)
    }

    /// The folder of the module's source in Go's own module cache.
    pub(super) fn source(&self) -> Result<PathBuf> {
        let answer = output(self.go().args(["mod", "download", "-json", self.module]))?;
        let answer: Value = serde_json::from_str(&answer)
            .with_context(|| format!("answer of go mod download {}", self.module))?;
        answer
            .get("Dir")
            .and_then(Value::as_str)
            .map(PathBuf::from)
            .ok_or_else(|| anyhow!("go mod download names no folder for {}", self.module))
    }
}

/// The version that a module file requires of `module`.
fn version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line
            .trim()
            .trim_start_matches("require ")
            .split_whitespace();
        let found = words.next()? == module;
        words.next().filter(|word| found && word.starts_with('v'))
    })
}

/// A short name for everything that decides a binary's content.
pub(super) fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The cache, for somebody who can build.
pub(super) fn prepare_cache() -> Result<PathBuf> {
    if find("go").is_none() {
        bail!(
            "`go` is not on PATH: the tests build etcd, Kubernetes, Helm, a registry and Argo CD from source with Go 1.26 or later"
        );
    }
    cache()
}

/// `$XDG_CACHE_HOME` or `~/.cache`, and in it this project's folder, made when it is missing.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor a home folder for the cache of built peers")?;
    let cache = base.join(CACHE);
    fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    Ok(cache)
}

/// Held while building, so that two test runs do not build the same at the same time.
pub(super) fn lock(cache: &Path, name: &str) -> Result<File> {
    let path = cache.join(".lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress::step(format_args!(
                "waiting for another build of peers, for {name}"
            ));
            file.lock()
                .with_context(|| format!("lock {}", path.display()))?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("lock {}", path.display()));
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::programs::*;
    use super::*;

    #[test]
    fn version_comes_from_the_module_file() {
        let go_mod = "module m\n\nreplace k8s.io/api => k8s.io/api v0.36.3\n\nrequire (\n\tk8s.io/api v0.0.0 // indirect\n\tk8s.io/kubernetes v1.36.3 // indirect\n)\n";
        assert_eq!(version(go_mod, "k8s.io/kubernetes"), Some("v1.36.3"));
        assert_eq!(
            version("require helm.sh/helm/v4 v4.3.1\n", "helm.sh/helm/v4"),
            Some("v4.3.1")
        );
        assert_eq!(version(go_mod, "k8s.io/nothing"), None);
    }

    #[test]
    fn every_peer_has_a_locked_version() {
        for peer in [
            ETCD,
            KUBE_APISERVER,
            KUBE_CONTROLLER_MANAGER,
            KUBE_SCHEDULER,
            KUBE_PROXY,
            KUBECTL,
            KUBELET,
            CONTAINERD,
            CONTAINERD_SHIM,
            CTR,
            COREDNS,
            CSI_SANITY,
            REGISTRY,
            HELM,
            ARGOCD,
        ] {
            let flags = peer.flags(&peer.read("go.mod").unwrap()).unwrap();
            assert!(flags.iter().any(|flag| flag.starts_with("-ldflags")));
        }
    }

    #[test]
    fn the_key_separates_its_parts() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }
}
