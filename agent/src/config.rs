//! Command line and environment → a checked configuration. Text flows in once;
//! everything behind it is typed.

mod identity;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;
use reqwest::Url;
use shared::allow_list::AllowList;

use crate::csi::registration::Registration;
use crate::exchange::http::Proxy;
use identity::IdentityArguments;
pub use identity::{SpiffeConfig, SpiffeSource};

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
    /// The same socket as kubelet sees it, on the host; needed with --registration-dir.
    #[arg(long, env = "ARGOCD_IDENTITY_AGENT_CSI_SOCKET_ON_HOST")]
    csi_socket_on_host: Option<String>,
    /// Kubelet's plugins_registry; the driver registers itself there. Without
    /// it, something else has to register the driver.
    #[arg(long, env = "ARGOCD_IDENTITY_AGENT_REGISTRATION_DIR")]
    registration_dir: Option<PathBuf>,
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
    /// PEM file with roots that exchanges may be signed by, besides the
    /// system's. A file that is absent or empty adds none.
    #[arg(long, env = "ARGOCD_IDENTITY_AGENT_UPSTREAM_CA")]
    upstream_ca: Option<PathBuf>,
    /// The proxy on the way to registries and token services; the control
    /// plane and SPIRE are reached without it.
    #[arg(long, env = "HTTPS_PROXY", hide_env_values = true)]
    https_proxy: Option<String>,
    /// Hosts, domains and networks that are reached without that proxy.
    #[arg(long, env = "NO_PROXY", default_value = "")]
    no_proxy: String,
    /// Address of /healthz and /readyz, plain HTTP.
    #[arg(long, env = "ARGOCD_IDENTITY_AGENT_METRICS_ADDRESS")]
    metrics_address: Option<SocketAddr>,
    #[command(flatten)]
    identity: IdentityArguments,
}

/// The checked configuration; fields as in [`Arguments`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this node.
    pub node_name: String,
    /// Socket of the CSI driver.
    pub csi_socket: PathBuf,
    /// Where to register with kubelet, if at all.
    pub registration: Option<Registration>,
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
    /// The proxy on the way to exchanges.
    pub proxy: Option<Proxy>,
    /// Address of /healthz and /readyz.
    pub metrics_address: Option<SocketAddr>,
    /// Who gives SPIFFE identities.
    pub spiffe: SpiffeConfig,
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
        let proxy = arguments.https_proxy.filter(|url| !url.is_empty());
        let proxy = proxy
            .map(|url| Proxy::new(&url, &arguments.no_proxy))
            .transpose()
            .context("--https-proxy (HTTPS_PROXY)")?;
        let registration = registration(arguments.registration_dir, arguments.csi_socket_on_host)?;
        Ok(Self {
            registration,
            node_name: arguments.node_name,
            csi_socket: arguments.csi_socket,
            kubelet_dir: kubelet_dir.components().collect(),
            control_plane_url,
            control_plane_ca: arguments.control_plane_ca,
            token_file: arguments.token_file,
            exec_auth: arguments.exec_auth,
            allowed_hosts: AllowList::parse(&arguments.allowed_hosts).context("--allowed-hosts")?,
            upstream_ca: arguments.upstream_ca,
            proxy,
            metrics_address: arguments.metrics_address,
            spiffe: arguments.identity.try_into()?,
        })
    }
}

fn registration(
    directory: Option<PathBuf>,
    csi_socket_on_host: Option<String>,
) -> anyhow::Result<Option<Registration>> {
    let Some(directory) = directory else {
        return Ok(None);
    };
    ensure!(
        directory.is_dir(),
        "--registration-dir {}: no such directory",
        directory.display()
    );
    let csi_socket_on_host = csi_socket_on_host.unwrap_or_default();
    ensure!(
        csi_socket_on_host.starts_with('/'),
        "--csi-socket-on-host `{csi_socket_on_host}`: --registration-dir needs the absolute path of \
         --csi-socket as kubelet sees it"
    );
    Ok(Some(Registration {
        directory,
        csi_socket_on_host,
    }))
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
            ("--registration-dir", "/nowhere"),
        ] {
            let error = format!("{:#}", config(&[(name, value)]).unwrap_err());
            assert!(error.contains(name), "{name} {value}: {error}");
        }
    }

    #[test]
    fn registration_needs_the_sockets_path_on_the_host() {
        let directory = ("--registration-dir", env!("CARGO_MANIFEST_DIR"));
        let on_host = |path| ("--csi-socket-on-host", path);
        assert_eq!(config(&[]).unwrap().registration, None);
        assert_eq!(config(&[on_host("/a")]).unwrap().registration, None);
        for changes in [&[directory][..], &[directory, on_host("csi.sock")]] {
            let error = format!("{:#}", config(changes).unwrap_err());
            assert!(error.contains("--csi-socket-on-host"), "{error}");
        }
        let config = config(&[directory, on_host("/a/csi.sock")]).unwrap();
        let registration = config.registration.unwrap();
        assert_eq!(registration.directory, PathBuf::from(directory.1));
        assert_eq!(registration.csi_socket_on_host, "/a/csi.sock");
    }
}
