//! The real programs that the tests talk to, built from module files under `tests/peers`.
//!
//! A module file locks one upstream release (a `tool` directive and go.sum); `go build` gets the
//! source from the module proxy. The binaries are kept in the user's cache folder, keyed by all that decides
//! their content, so that a clean checkout finds those of an earlier one. A first run takes about
//! half an hour on two cores. One program is Python's, from a list of exact versions, and kept in the same way.

mod build;
mod programs;
mod python;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub(crate) use self::build::cache;
use self::build::prepare_cache;
use self::programs::{
    ARGOCD, CONTAINERD, CONTAINERD_SHIM, COREDNS, CSI_SANITY, CTR, ETCD, HELM, KUBE_APISERVER,
    KUBE_CONTROLLER_MANAGER, KUBE_PROXY, KUBE_SCHEDULER, KUBECTL, KUBELET, REGISTRY,
};

pub use self::python::moto;

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

/// CNCF distribution's registry alone, built when the cache lacks it.
///
/// # Errors
/// As [`Peers::prepare`].
pub fn registry() -> Result<PathBuf> {
    REGISTRY.build(&prepare_cache()?)
}

/// Helm alone, built when the cache lacks it.
///
/// # Errors
/// As [`Peers::prepare`].
pub fn helm() -> Result<PathBuf> {
    HELM.build(&prepare_cache()?)
}

/// The CSI project's own conformance test, built when the cache lacks it.
///
/// # Errors
/// As [`Peers::prepare`].
pub fn csi_sanity() -> Result<PathBuf> {
    CSI_SANITY.build(&prepare_cache()?)
}
