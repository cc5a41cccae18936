//! CoreDNS as a process on the node, and the Service by which pods find it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::ADDRESS;
use crate::control_plane::{ControlPlane, apply};
use crate::peers::NodePeers;
use crate::process::Process;

/// Address of the Service.
pub(super) const SERVICE: &str = "10.96.0.10";
/// Domain of the cluster.
pub(super) const DOMAIN: &str = "cluster.local";

/// Starts it; `names` resolve to the node's address.
pub(super) async fn start(
    peers: &NodePeers,
    control_plane: &ControlPlane,
    kubeconfig: &Path,
    folder: &Path,
    names: &[&str],
) -> Result<Process> {
    let file = folder.join("Corefile");
    let (kubeconfig, names) = (kubeconfig.display(), names.join(" "));
    let text = format!(
        ". {{\n  bind {ADDRESS}\n  errors\n  hosts {{\n    {ADDRESS} {names}\n    fallthrough\n  }}\n  \
         kubernetes {DOMAIN} in-addr.arpa {{\n    kubeconfig {kubeconfig}\n  }}\n}}\n"
    );
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let process = Process::start(
        "coredns",
        Command::new(peers.coredns()).arg("-conf").arg(&file),
        folder,
    )?;
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: kube-dns, namespace: kube-system}}\nspec:\n  \
         clusterIP: {SERVICE}\n  ports:\n  - {{name: dns, port: 53, protocol: UDP}}\n  - {{name: dns-tcp, \
         port: 53, protocol: TCP}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
         name: kube-dns\n  namespace: kube-system\n  labels: {{kubernetes.io/service-name: kube-dns}}\n\
         addressType: IPv4\nendpoints:\n- addresses: [{ADDRESS}]\n  conditions: {{ready: true}}\nports:\n- \
         {{name: dns, port: 53, protocol: UDP}}\n- {{name: dns-tcp, port: 53, protocol: TCP}}\n"
    );
    apply(&control_plane.client()?, "kube-system", &service)
        .await
        .context("make the Service kube-dns")?;
    Ok(process.with_grace(Duration::ZERO))
}
