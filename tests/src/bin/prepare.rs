//! Builds every peer that the tests need, or finds it in the cache, and prints where it is.
//!
//! `cargo run -p tests --bin prepare` before the first test run moves the long builds out of it.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use harness::keycloak;
use harness::packages;
use harness::peers::{NodePeers, Peers, csi_sanity, moto};

fn main() -> Result<()> {
    packages::ensure_for_node()?;
    let peers = Peers::prepare()?;
    let node = NodePeers::prepare()?;
    let csi_sanity = csi_sanity()?;
    let moto = moto()?;
    let keycloak = keycloak::distribution()?;
    let mut out = io::stdout().lock();
    for path in [
        peers.etcd(),
        peers.kube_apiserver(),
        peers.kube_controller_manager(),
        peers.registry(),
        peers.helm(),
        peers.argocd(),
        peers.argocd_module(),
        node.kubectl(),
        node.kube_scheduler(),
        node.kube_proxy(),
        node.kubelet(),
        node.containerd(),
        node.containerd_shim(),
        node.ctr(),
        node.coredns(),
        &csi_sanity,
        &moto,
        &keycloak,
    ] {
        writeln!(out, "{}", path.display()).context("print a path")?;
    }
    Ok(())
}
