//! Google Cloud: STS, IAM credentials, Artifact Registry.

use shared::binding::{CloudAccount, Exchange as Parameters};
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

use super::http::Outlet;
use super::{Credential, Exchange, trade};
use crate::identity::IdentityToken;
use crate::refresh::{Failure, Fresh};

/// Google Cloud: STS, IAM credentials, Artifact Registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gar {
    /// The registry.
    pub host: RegistryHost,
    /// The service account to impersonate.
    pub service_account: String,
    /// The workload identity provider, `projects/…/providers/…`.
    pub provider: Option<String>,
    /// The token service, if not Google's own.
    pub token_url: Option<String>,
}

impl Gar {
    pub(super) fn of(parameters: &Parameters, host: &RegistryHost) -> Result<Self, Named> {
        let Some(CloudAccount::Gcp {
            service_account,
            workload_identity_provider,
        }) = parameters.account.clone()
        else {
            let detail = "exchange.account is not set";
            return Err(Named::new(Code::ServiceAccountAnnotationMissing, detail));
        };
        Ok(Self {
            host: host.clone(),
            service_account,
            provider: workload_identity_provider,
            token_url: parameters.token_url.clone(),
        })
    }
}

impl Exchange for Gar {
    fn upstream(&self) -> String {
        trade::upstream(self.token_url.as_deref(), &self.host)
    }

    async fn exchange(
        &self,
        _outlet: &Outlet,
        _identity: &IdentityToken,
    ) -> Result<Fresh<Credential>, Failure> {
        Err(Named::new(
            Code::ExchangeNotAvailable,
            format!("registry {}", self.host),
        )
        .into())
    }
}
