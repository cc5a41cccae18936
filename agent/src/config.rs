//! Command line and environment → a checked configuration. Text flows in once;
//! everything behind it is typed.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;
use reqwest::Url;
use shared::allow_list::AllowList;

/// Node agent of argocd-workload-identity: obtains, renews and delivers
/// short-lived credentials for the Argo CD pods of this node.
#[derive(Debug, Parser)]
#[command(name = "argocd-identity-agent", version)]
pub struct Arguments {
    /// Name of the node that this agent runs on.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Socket on which kubelet calls the CSI driver.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_AGENT_CSI_SOCKET",
        default_value = "/csi/csi.sock"
    )]
    csi_socket: PathBuf,
    /// Kubelet's folder; volumes are only published below it.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_AGENT_KUBELET_DIR",
        default_value = "/var/lib/kubelet"
    )]
    kubelet_dir: PathBuf,
    /// The control plane's identity API, an https URL.
    #[arg(long, env = "ARGOCD_IDENTITY_AGENT_CONTROL_PLANE_URL")]
    control_plane_url: String,
    /// PEM file with the CA of the control plane; read again for each call.
    #[arg(long, env = "ARGOCD_IDENTITY_AGENT_CONTROL_PLANE_CA")]
    control_plane_ca: PathBuf,
    /// The agent's own projected token (audience argocd-identity); read again for each call.
    #[arg(long, env = "ARGOCD_IDENTITY_AGENT_TOKEN_FILE")]
    token_file: PathBuf,
    /// The exec-auth program that is put into the volumes.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_AGENT_EXEC_AUTH",
        default_value = "/usr/local/bin/exec-auth"
    )]
    exec_auth: PathBuf,
    /// Hosts that identity tokens may go to besides the registry's own:
    /// host[:port][;private], separated by commas.
    #[arg(long, env = "ARGOCD_IDENTITY_AGENT_ALLOWED_HOSTS", default_value = "")]
    allowed_hosts: String,
    /// PEM file with roots that exchanges may be signed by, besides the system's.
    #[arg(long, env = "ARGOCD_IDENTITY_AGENT_UPSTREAM_CA")]
    upstream_ca: Option<PathBuf>,
    /// Address of /healthz, plain HTTP.
    #[arg(long, env = "ARGOCD_IDENTITY_AGENT_METRICS_ADDRESS")]
    metrics_address: Option<SocketAddr>,
}

/// The checked configuration; fields as in [`Arguments`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this node.
    pub node_name: String,
    /// Socket of the CSI driver.
    pub csi_socket: PathBuf,
    /// Kubelet's folder, absolute.
    pub kubelet_dir: PathBuf,
    /// The identity API, https.
    pub control_plane_url: Url,
    /// CA of the control plane.
    pub control_plane_ca: PathBuf,
    /// The agent's own token.
    pub token_file: PathBuf,
    /// The program for the volumes.
    pub exec_auth: PathBuf,
    /// Hosts that identity tokens may go to.
    pub allowed_hosts: AllowList,
    /// More roots for exchanges.
    pub upstream_ca: Option<PathBuf>,
    /// Address of /healthz.
    pub metrics_address: Option<SocketAddr>,
}

impl TryFrom<Arguments> for Config {
    type Error = anyhow::Error;

    fn try_from(arguments: Arguments) -> anyhow::Result<Self> {
        let control_plane_url =
            Url::parse(&arguments.control_plane_url).context("--control-plane-url")?;
        ensure!(
            control_plane_url.scheme() == "https",
            "--control-plane-url {control_plane_url}: two tokens travel over it, use https"
        );
        ensure!(
            !arguments.node_name.is_empty(),
            "--node-name (NODE_NAME) is empty: set it from spec.nodeName"
        );
        let kubelet_dir = arguments.kubelet_dir;
        let plain = kubelet_dir.is_absolute()
            && !kubelet_dir
                .components()
                .any(|part| part.as_os_str() == "..");
        ensure!(
            plain,
            "--kubelet-dir {}: use an absolute path without `..`",
            kubelet_dir.display()
        );
        ensure!(
            arguments.exec_auth.is_file(),
            "--exec-auth {}: no such file",
            arguments.exec_auth.display()
        );
        Ok(Self {
            node_name: arguments.node_name,
            csi_socket: arguments.csi_socket,
            kubelet_dir: kubelet_dir.components().collect(),
            control_plane_url,
            control_plane_ca: arguments.control_plane_ca,
            token_file: arguments.token_file,
            exec_auth: arguments.exec_auth,
            allowed_hosts: AllowList::parse(&arguments.allowed_hosts).context("--allowed-hosts")?,
            upstream_ca: arguments.upstream_ca,
            metrics_address: arguments.metrics_address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(changes: &[(&'static str, &'static str)]) -> anyhow::Result<Config> {
        let mut arguments = vec![
            ("--node-name", "node-a"),
            ("--control-plane-url", "https://control.test:8444"),
            ("--control-plane-ca", "ca.crt"),
            ("--token-file", "token"),
            // Any file that exists.
            (
                "--exec-auth",
                concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
            ),
            ("--kubelet-dir", "/var/lib/kubelet/"),
        ];
        arguments.retain(|(name, _)| changes.iter().all(|(other, _)| name != other));
        arguments.extend(changes);
        let words = arguments.iter().flat_map(|(name, value)| [*name, *value]);
        Config::try_from(Arguments::try_parse_from(
            ["agent"].into_iter().chain(words),
        )?)
    }

    #[test]
    fn arguments_are_checked_once() {
        let config_ok = config(&[("--allowed-hosts", "sts.test;private")]).unwrap();
        assert_eq!(config_ok.kubelet_dir, PathBuf::from("/var/lib/kubelet"));
        assert!(
            config_ok
                .allowed_hosts
                .permission("sts.test", 443)
                .unwrap()
                .private
        );
        for (name, value) in [
            ("--control-plane-url", "http://control.test"),
            ("--control-plane-url", "nonsense"),
            ("--kubelet-dir", "relative"),
            ("--kubelet-dir", "/a/../b"),
            ("--exec-auth", "/nowhere"),
            ("--allowed-hosts", "https://a"),
            ("--node-name", ""),
        ] {
            let error = format!("{:#}", config(&[(name, value)]).unwrap_err());
            assert!(error.contains(name), "{name} {value}: {error}");
        }
    }
}
