//! The real Go programs that the tests talk to, built from module files under `tests/peers`.
//!
//! A module file locks one upstream release (a `tool` directive and go.sum); `go build` gets the
//! source from the module proxy. The binaries are kept in the user's cache folder, keyed by all that decides
//! their content, so that a clean checkout finds those of an earlier one. A first run takes about
//! half an hour on two cores.

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
const MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
/// This project's part of the user's cache folder.
const CACHE: &str = "argocd-workload-identity/peers";
/// Built statically (`CGO_ENABLED=0`), so that they also run where only some folders are mounted.
const ENVIRONMENT: &[(&str, &str)] = &[("CGO_ENABLED", "0"), ("GOFLAGS", ""), ("GOWORK", "off")];
const FLAGS: &[&str] = &["-mod=readonly", "-trimpath", "-buildvcs=false"];
const ARGOCD_MODULE: &str = "github.com/argoproj/argo-cd/v3";

/// One program, and the module that it is built from.
struct Peer {
    /// Name of the binary.
    name: &'static str,
    /// Folder under [`MODULES`].
    folder: &'static str,
    /// Upstream module; its version in go.mod is the peer's version.
    module: &'static str,
    /// Main package inside that module.
    package: &'static str,
    /// Linker values that upstream's own build sets from its version, which it else does not know.
    stamps: fn(&str) -> Vec<(&'static str, String)>,
}

const ETCD: Peer = Peer {
    name: "etcd",
    folder: "etcd",
    module: "go.etcd.io/etcd/server/v3",
    package: "",
    stamps: |_| Vec::new(),
};
const KUBE_APISERVER: Peer = Peer {
    name: "kube-apiserver",
    folder: "kubernetes",
    module: "k8s.io/kubernetes",
    package: "/cmd/kube-apiserver",
    stamps: kubernetes_stamps,
};
const KUBE_CONTROLLER_MANAGER: Peer = Peer {
    name: "kube-controller-manager",
    package: "/cmd/kube-controller-manager",
    ..KUBE_APISERVER
};
const KUBE_SCHEDULER: Peer = Peer {
    name: "kube-scheduler",
    package: "/cmd/kube-scheduler",
    ..KUBE_APISERVER
};
const KUBE_PROXY: Peer = Peer {
    name: "kube-proxy",
    package: "/cmd/kube-proxy",
    ..KUBE_APISERVER
};
const KUBECTL: Peer = Peer {
    name: "kubectl",
    package: "/cmd/kubectl",
    ..KUBE_APISERVER
};
const KUBELET: Peer = Peer {
    name: "kubelet",
    package: "/cmd/kubelet",
    ..KUBE_APISERVER
};
const CONTAINERD: Peer = Peer {
    name: "containerd",
    folder: "containerd",
    module: "github.com/containerd/containerd/v2",
    package: "/cmd/containerd",
    stamps: |version| {
        vec![(
            "github.com/containerd/containerd/v2/version.Version",
            version.trim_start_matches('v').to_owned(),
        )]
    },
};
/// containerd finds it by this name, on PATH.
const CONTAINERD_SHIM: Peer = Peer {
    name: "containerd-shim-runc-v2",
    package: "/cmd/containerd-shim-runc-v2",
    ..CONTAINERD
};
const CTR: Peer = Peer {
    name: "ctr",
    package: "/cmd/ctr",
    ..CONTAINERD
};
const COREDNS: Peer = Peer {
    name: "coredns",
    folder: "coredns",
    module: "github.com/coredns/coredns",
    package: "",
    stamps: |_| Vec::new(),
};
const CSI_SANITY: Peer = Peer {
    name: "csi-sanity",
    folder: "csi-sanity",
    module: "github.com/kubernetes-csi/csi-test/v5",
    package: "/cmd/csi-sanity",
    stamps: |_| Vec::new(),
};
const REGISTRY: Peer = Peer {
    name: "registry",
    folder: "registry",
    module: "github.com/distribution/distribution/v3",
    package: "/cmd/registry",
    stamps: |version| {
        vec![(
            "github.com/distribution/distribution/v3/version.version",
            version.to_owned(),
        )]
    },
};
const HELM: Peer = Peer {
    name: "helm",
    folder: "helm",
    module: "helm.sh/helm/v4",
    package: "/cmd/helm",
    stamps: |version| {
        vec![(
            "helm.sh/helm/v4/internal/version.version",
            version.to_owned(),
        )]
    },
};
const ARGOCD: Peer = Peer {
    name: "argocd",
    folder: "argocd",
    module: ARGOCD_MODULE,
    package: "/cmd",
    stamps: |version| {
        vec![(
            "github.com/argoproj/argo-cd/v3/common.version",
            version.trim_start_matches('v').to_owned(),
        )]
    },
};

/// Argo CD and Helm parse the API server's version; unstamped it is `v0.0.0-master+$Format:%H$`.
fn kubernetes_stamps(version: &str) -> Vec<(&'static str, String)> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let major = numbers.next().unwrap_or_default().to_owned();
    let minor = numbers.next().unwrap_or_default().to_owned();
    vec![
        (
            "k8s.io/component-base/version.gitVersion",
            version.to_owned(),
        ),
        ("k8s.io/component-base/version.gitMajor", major),
        ("k8s.io/component-base/version.gitMinor", minor),
        (
            "k8s.io/client-go/pkg/version.gitVersion",
            version.to_owned(),
        ),
    ]
}

/// Paths of all peers, each built.
#[derive(Debug, Clone)]
pub struct Peers {
    etcd: PathBuf,
    kube_apiserver: PathBuf,
    kube_controller_manager: PathBuf,
    registry: PathBuf,
    helm: PathBuf,
    argocd: PathBuf,
    argocd_module: PathBuf,
}

impl Peers {
    /// Builds what the cache lacks and returns where everything is. Blocks; tells its progress on standard error.
    ///
    /// # Errors
    /// When there is no `go`, when the cache cannot be written, or when a build fails (with the compiler's words).
    pub fn prepare() -> Result<Self> {
        let cache = prepare_cache()?;
        Ok(Self {
            etcd: ETCD.build(&cache)?,
            kube_apiserver: KUBE_APISERVER.build(&cache)?,
            kube_controller_manager: KUBE_CONTROLLER_MANAGER.build(&cache)?,
            registry: REGISTRY.build(&cache)?,
            helm: HELM.build(&cache)?,
            argocd: ARGOCD.build(&cache)?,
            argocd_module: ARGOCD.source()?,
        })
    }

    /// The etcd server.
    #[must_use]
    pub fn etcd(&self) -> &Path {
        &self.etcd
    }

    /// The Kubernetes API server.
    #[must_use]
    pub fn kube_apiserver(&self) -> &Path {
        &self.kube_apiserver
    }

    /// The Kubernetes controller manager.
    #[must_use]
    pub fn kube_controller_manager(&self) -> &Path {
        &self.kube_controller_manager
    }

    /// CNCF distribution's registry.
    #[must_use]
    pub fn registry(&self) -> &Path {
        &self.registry
    }

    /// The Helm client.
    #[must_use]
    pub fn helm(&self) -> &Path {
        &self.helm
    }

    /// Argo CD's one binary; `ARGOCD_BINARY_NAME` or its file name chooses the component.
    #[must_use]
    pub fn argocd(&self) -> &Path {
        &self.argocd
    }

    /// Argo CD's source of the same release, read-only; `manifests/install.yaml` and the CRDs are in it.
    #[must_use]
    pub fn argocd_module(&self) -> &Path {
        &self.argocd_module
    }
}

/// Paths of what makes a node of a real cluster, each built.
#[derive(Debug, Clone)]
pub struct NodePeers {
    kubectl: PathBuf,
    kube_scheduler: PathBuf,
    kube_proxy: PathBuf,
    kubelet: PathBuf,
    containerd: PathBuf,
    containerd_shim: PathBuf,
    ctr: PathBuf,
    coredns: PathBuf,
}

impl NodePeers {
    /// Builds what the cache lacks, as [`Peers::prepare`] does.
    ///
    /// # Errors
    /// As [`Peers::prepare`].
    pub fn prepare() -> Result<Self> {
        let cache = prepare_cache()?;
        Ok(Self {
            kubectl: KUBECTL.build(&cache)?,
            kube_scheduler: KUBE_SCHEDULER.build(&cache)?,
            kube_proxy: KUBE_PROXY.build(&cache)?,
            kubelet: KUBELET.build(&cache)?,
            containerd: CONTAINERD.build(&cache)?,
            containerd_shim: CONTAINERD_SHIM.build(&cache)?,
            ctr: CTR.build(&cache)?,
            coredns: COREDNS.build(&cache)?,
        })
    }

    /// The Kubernetes client.
    #[must_use]
    pub fn kubectl(&self) -> &Path {
        &self.kubectl
    }

    /// The Kubernetes scheduler.
    #[must_use]
    pub fn kube_scheduler(&self) -> &Path {
        &self.kube_scheduler
    }

    /// Kubernetes' service proxy.
    #[must_use]
    pub fn kube_proxy(&self) -> &Path {
        &self.kube_proxy
    }

    /// The Kubernetes node agent.
    #[must_use]
    pub fn kubelet(&self) -> &Path {
        &self.kubelet
    }

    /// The container runtime.
    #[must_use]
    pub fn containerd(&self) -> &Path {
        &self.containerd
    }

    /// What containerd starts for each pod; it has to be on containerd's PATH.
    #[must_use]
    pub fn containerd_shim(&self) -> &Path {
        &self.containerd_shim
    }

    /// containerd's own client.
    #[must_use]
    pub fn ctr(&self) -> &Path {
        &self.ctr
    }

    /// The cluster's DNS server.
    #[must_use]
    pub fn coredns(&self) -> &Path {
        &self.coredns
    }
}

/// The CSI project's own conformance test, built when the cache lacks it.
///
/// # Errors
/// As [`Peers::prepare`].
pub fn csi_sanity() -> Result<PathBuf> {
    CSI_SANITY.build(&prepare_cache()?)
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
    fn build(&self, cache: &Path) -> Result<PathBuf> {
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
    fn source(&self) -> Result<PathBuf> {
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
fn key(parts: &[&str]) -> String {
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
fn prepare_cache() -> Result<PathBuf> {
    if find("go").is_none() {
        bail!(
            "`go` is not on PATH: the tests build etcd, Kubernetes, Helm, a registry and Argo CD from source with Go 1.26 or later"
        );
    }
    cache()
}

/// `$XDG_CACHE_HOME` or `~/.cache`, and in it this project's folder, made when it is missing.
fn cache() -> Result<PathBuf> {
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
fn lock(cache: &Path, name: &str) -> Result<File> {
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
