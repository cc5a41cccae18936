//! Which programs there are, and what each is built from.

use super::build::Peer;

const ARGOCD_MODULE: &str = "github.com/argoproj/argo-cd/v3";

pub(super) const ETCD: Peer = Peer {
    name: "etcd",
    folder: "etcd",
    module: "go.etcd.io/etcd/server/v3",
    package: "",
    stamps: |_| Vec::new(),
};
pub(super) const KUBE_APISERVER: Peer = Peer {
    name: "kube-apiserver",
    folder: "kubernetes",
    module: "k8s.io/kubernetes",
    package: "/cmd/kube-apiserver",
    stamps: kubernetes_stamps,
};
pub(super) const KUBE_CONTROLLER_MANAGER: Peer = Peer {
    name: "kube-controller-manager",
    package: "/cmd/kube-controller-manager",
    ..KUBE_APISERVER
};
pub(super) const KUBE_SCHEDULER: Peer = Peer {
    name: "kube-scheduler",
    package: "/cmd/kube-scheduler",
    ..KUBE_APISERVER
};
pub(super) const KUBE_PROXY: Peer = Peer {
    name: "kube-proxy",
    package: "/cmd/kube-proxy",
    ..KUBE_APISERVER
};
pub(super) const KUBECTL: Peer = Peer {
    name: "kubectl",
    package: "/cmd/kubectl",
    ..KUBE_APISERVER
};
pub(super) const KUBELET: Peer = Peer {
    name: "kubelet",
    package: "/cmd/kubelet",
    ..KUBE_APISERVER
};
pub(super) const CONTAINERD: Peer = Peer {
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
pub(super) const CONTAINERD_SHIM: Peer = Peer {
    name: "containerd-shim-runc-v2",
    package: "/cmd/containerd-shim-runc-v2",
    ..CONTAINERD
};
pub(super) const CTR: Peer = Peer {
    name: "ctr",
    package: "/cmd/ctr",
    ..CONTAINERD
};
pub(super) const COREDNS: Peer = Peer {
    name: "coredns",
    folder: "coredns",
    module: "github.com/coredns/coredns",
    package: "",
    stamps: |_| Vec::new(),
};
pub(super) const CSI_SANITY: Peer = Peer {
    name: "csi-sanity",
    folder: "csi-sanity",
    module: "github.com/kubernetes-csi/csi-test/v5",
    package: "/cmd/csi-sanity",
    stamps: |_| Vec::new(),
};
pub(super) const REGISTRY: Peer = Peer {
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
pub(super) const HELM: Peer = Peer {
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
pub(super) const ARGOCD: Peer = Peer {
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
