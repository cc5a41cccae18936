//! The flags about who gives SPIFFE identities.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use shared::selectors::{self, SelectorTemplate};
use spiffe::transport::Endpoint;

/// Who gives SPIFFE identities, as text.
#[derive(Debug, Args)]
pub(super) struct IdentityArguments {
    /// Who gives SPIFFE identities. Tokens of service accounts always come from
    /// the control plane.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_AGENT_IDENTITY_SOURCE",
        default_value = "control-plane"
    )]
    identity_source: Source,
    /// The SPIRE agent's admin socket (Delegated Identity API), for --identity-source spire.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_AGENT_SPIRE_ADMIN_SOCKET",
        default_value = "/run/spire/agent/sockets/csi.spiffe.io/admin/admin.sock"
    )]
    spire_admin_socket: PathBuf,
    /// Selectors of a project's registration entry, type:value, separated by
    /// commas; {namespace}, {service_account} and {project} are replaced in values.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_AGENT_SPIRE_SELECTORS",
        default_value = selectors::DEFAULT
    )]
    spire_selectors: String,
    /// The SPIFFE Workload API, unix:///path or tcp://ip:port, for
    /// --identity-source workload-api.
    #[arg(long, env = "SPIFFE_ENDPOINT_SOCKET", default_value = "")]
    workload_api_socket: String,
    /// The issuer (`iss`) that every JWT-SVID must have; without it, any.
    #[arg(long, env = "ARGOCD_IDENTITY_AGENT_SPIFFE_ISSUER", default_value = "")]
    spiffe_issuer: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Source {
    ControlPlane,
    Spire,
    WorkloadApi,
}

/// Who gives SPIFFE identities, checked.
#[derive(Debug, Clone)]
pub struct SpiffeConfig {
    /// The source.
    pub source: SpiffeSource,
    /// The issuer of every JWT-SVID.
    pub issuer: Option<String>,
}

/// A source of SPIFFE identities.
#[derive(Debug, Clone)]
pub enum SpiffeSource {
    /// The control plane's own issuer.
    ControlPlane,
    /// SPIRE's Delegated Identity API.
    Spire {
        /// The SPIRE agent's admin socket.
        admin_socket: PathBuf,
        /// What a project's entry is found by.
        selectors: SelectorTemplate,
    },
    /// The Workload API of the agent's pod; `None` when nobody said where: the
    /// bindings show that, since the rest of the agent works.
    WorkloadApi(Option<Endpoint>),
}

impl TryFrom<IdentityArguments> for SpiffeConfig {
    type Error = anyhow::Error;

    fn try_from(arguments: IdentityArguments) -> anyhow::Result<Self> {
        let source = match arguments.identity_source {
            Source::ControlPlane => SpiffeSource::ControlPlane,
            Source::Spire => {
                let admin_socket = arguments.spire_admin_socket;
                ensure!(
                    admin_socket.is_absolute(),
                    "--spire-admin-socket {}: use an absolute path",
                    admin_socket.display()
                );
                let selectors = arguments.spire_selectors.parse();
                SpiffeSource::Spire {
                    admin_socket,
                    selectors: selectors.context("--spire-selectors")?,
                }
            }
            Source::WorkloadApi => {
                let socket = arguments.workload_api_socket;
                let endpoint = (!socket.is_empty()).then(|| Endpoint::parse(&socket));
                let endpoint = endpoint.transpose();
                SpiffeSource::WorkloadApi(endpoint.with_context(|| {
                    format!("--workload-api-socket (SPIFFE_ENDPOINT_SOCKET) `{socket}`")
                })?)
            }
        };
        Ok(Self {
            source,
            issuer: Some(arguments.spiffe_issuer).filter(|issuer| !issuer.is_empty()),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        identity: IdentityArguments,
    }

    fn config(words: &[&str]) -> anyhow::Result<SpiffeConfig> {
        let words = ["agent"].into_iter().chain(words.iter().copied());
        SpiffeConfig::try_from(Program::try_parse_from(words)?.identity)
    }

    #[test]
    fn a_source_needs_its_own_flags_only() {
        let default = config(&["--spire-selectors", "nonsense"]).unwrap();
        assert!(matches!(default.source, SpiffeSource::ControlPlane));
        assert_eq!(default.issuer, None);
        let spire = config(&["--identity-source=spire", "--spiffe-issuer=https://i"]).unwrap();
        assert_eq!(spire.issuer.as_deref(), Some("https://i"));
        let SpiffeSource::Spire {
            admin_socket,
            selectors,
        } = spire.source
        else {
            panic!("{spire:?}");
        };
        assert!(admin_socket.ends_with("admin/admin.sock"));
        assert_eq!(Ok(selectors), selectors::DEFAULT.parse());
        let source = |words: &[&str]| config(words).unwrap().source;
        assert!(matches!(
            source(&["--identity-source=workload-api"]),
            SpiffeSource::WorkloadApi(None)
        ));
        for socket in ["unix:///run/spire.sock", "tcp://127.0.0.1:8081"] {
            let words = [
                "--identity-source=workload-api",
                "--workload-api-socket",
                socket,
            ];
            assert!(
                matches!(source(&words), SpiffeSource::WorkloadApi(Some(_))),
                "{socket}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (source, flag, value) in [
            ("magic", "--identity-source", ""),
            ("spire", "--spire-admin-socket", "admin.sock"),
            ("spire", "--spire-selectors", "k8s"),
            ("spire", "--spire-selectors", ""),
            ("workload-api", "--workload-api-socket", "/run/spire.sock"),
            ("workload-api", "--workload-api-socket", "tcp://spire:8081"),
        ] {
            let source = format!("--identity-source={source}");
            let words = match value {
                "" if flag == "--identity-source" => vec![source.as_str()],
                _ => vec![source.as_str(), flag, value],
            };
            let error = format!("{:#}", config(&words).unwrap_err());
            assert!(error.contains(flag), "{flag} {value}: {error}");
        }
    }
}
