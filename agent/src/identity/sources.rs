//! Which source is asked. A request's kind of credential flows in: tokens of
//! service accounts are always the control plane's, SPIFFE identities are those
//! of the one source that the installation has for them.

use shared::binding::CredentialKind;
use shared::errors::Code;

use super::control_plane::ControlPlane;
use super::delegated::Delegated;
use super::spiffe::Spiffe;
use super::workload_api::WorkloadApi;
use super::{IdentityError, IdentityRequest, IdentitySource, Svid};
use crate::config::{SpiffeConfig, SpiffeSource};

/// The sources of an installation.
pub struct Sources {
    control_plane: ControlPlane,
    spiffe: Provider,
}

/// Who gives SPIFFE identities.
enum Provider {
    ControlPlane,
    Spire(Spiffe<Delegated>),
    WorkloadApi(Spiffe<WorkloadApi>),
    /// The Workload API, and nobody said where: each binding shows it.
    Nowhere,
}

impl Sources {
    /// The control plane, and what `config` says beside it. Subscriptions start
    /// at once, so this needs the runtime; nothing waits for them.
    pub fn start(control_plane: ControlPlane, config: SpiffeConfig) -> Self {
        let spiffe = match config.source {
            SpiffeSource::ControlPlane => Provider::ControlPlane,
            SpiffeSource::Spire {
                admin_socket,
                selectors,
            } => Provider::Spire(Spiffe::start(
                Delegated::new(admin_socket, selectors),
                config.issuer,
            )),
            SpiffeSource::WorkloadApi(Some(endpoint)) => {
                Provider::WorkloadApi(Spiffe::start(WorkloadApi::new(endpoint), config.issuer))
            }
            SpiffeSource::WorkloadApi(None) => Provider::Nowhere,
        };
        Self {
            control_plane,
            spiffe,
        }
    }
}

impl IdentitySource for Sources {
    async fn identity(&self, request: &IdentityRequest) -> Result<Svid, IdentityError> {
        let refused = |code, message: &str| {
            Err(IdentityError::Refused {
                binding: request.binding.clone(),
                code,
                message: message.to_owned(),
            })
        };
        match (&self.spiffe, request.credential) {
            (_, CredentialKind::ServiceAccountToken)
            | (Provider::ControlPlane, CredentialKind::SpiffeJWT) => {
                self.control_plane.identity(request).await
            }
            (Provider::ControlPlane, CredentialKind::SpiffeCertificate) => refused(
                Code::IdentityNotAvailable,
                "the control plane issues no X.509-SVIDs",
            ),
            (Provider::Spire(spire), _) => spire.identity(request).await,
            (Provider::WorkloadApi(workload_api), _) => workload_api.identity(request).await,
            (Provider::Nowhere, _) => refused(
                Code::WorkloadApiNotConfigured,
                "--identity-source is workload-api, and --workload-api-socket is not set",
            ),
        }
    }

    fn silence(&self, credential: CredentialKind) -> Code {
        match (&self.spiffe, credential) {
            (_, CredentialKind::ServiceAccountToken) | (Provider::ControlPlane, _) => {
                self.control_plane.silence(credential)
            }
            (Provider::Spire(spire), _) => spire.silence(credential),
            (Provider::WorkloadApi(workload_api), _) => workload_api.silence(credential),
            (Provider::Nowhere, _) => Code::WorkloadApiNotConfigured,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::request;
    use shared::selectors;

    async fn ask(source: SpiffeSource, credential: CredentialKind) -> IdentityError {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // No file: whoever is sent to the control plane fails at its own token.
        let nowhere = || "/nowhere/at/all".into();
        let url = "https://control.test".parse().unwrap();
        let control_plane = ControlPlane::new(&url, nowhere(), nowhere(), None);
        let config = SpiffeConfig {
            source,
            issuer: None,
        };
        let request = IdentityRequest {
            credential,
            ..request()
        };
        let sources = Sources::start(control_plane, config);
        sources.identity(&request).await.unwrap_err()
    }

    #[tokio::test]
    async fn each_kind_is_asked_of_its_source() {
        use CredentialKind::{ServiceAccountToken, SpiffeCertificate, SpiffeJWT};
        let spire = || SpiffeSource::Spire {
            admin_socket: "/nowhere/admin.sock".into(),
            selectors: selectors::DEFAULT.parse().unwrap(),
        };
        let socket = "unix:///nowhere/api.sock".parse().unwrap();
        let workload_api = || SpiffeSource::WorkloadApi(Some(Clone::clone(&socket)));
        let (unset, absent) = (Code::WorkloadApiNotConfigured, Code::SpireAgentAbsent);
        let control_plane = Code::AgentTokenRejected;
        let own = || SpiffeSource::ControlPlane;
        for (source, credential, code) in [
            (own(), ServiceAccountToken, control_plane),
            (own(), SpiffeJWT, control_plane),
            (own(), SpiffeCertificate, Code::IdentityNotAvailable),
            (spire(), ServiceAccountToken, control_plane),
            (spire(), SpiffeJWT, absent),
            (spire(), SpiffeCertificate, absent),
            (workload_api(), ServiceAccountToken, control_plane),
            (workload_api(), SpiffeJWT, absent),
            (workload_api(), SpiffeCertificate, absent),
            (
                SpiffeSource::WorkloadApi(None),
                ServiceAccountToken,
                control_plane,
            ),
            (SpiffeSource::WorkloadApi(None), SpiffeJWT, unset),
            (SpiffeSource::WorkloadApi(None), SpiffeCertificate, unset),
        ] {
            let case = format!("{source:?} {credential:?}");
            let error = ask(source, credential).await;
            assert_eq!(error.code(), code, "{case}: {error}");
            let said = error.to_string();
            assert!(
                code != absent || said.contains("socket /nowhere/"),
                "{said}"
            );
            assert!(code != absent || said.contains("No such file"), "{said}");
        }
    }
}
