//! Microsoft Entra and Azure Container Registry.

use shared::binding::{CloudAccount, Exchange as Parameters};
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

use super::http::Outlet;
use super::{Credential, Exchange, trade};
use crate::identity::IdentityToken;
use crate::refresh::{Failure, Fresh};

/// Microsoft Entra and Azure Container Registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Acr {
    /// The registry.
    pub host: RegistryHost,
    /// The application or managed identity.
    pub client_id: String,
    /// Its tenant.
    pub tenant_id: String,
    /// The token service, if not the cloud's own; may hold `{tenantID}`.
    pub token_url: Option<String>,
}

impl Acr {
    pub(super) fn of(parameters: &Parameters, host: &RegistryHost) -> Result<Self, Named> {
        let Some(CloudAccount::Azure {
            client_id,
            tenant_id,
        }) = parameters.account.clone()
        else {
            let detail = "exchange.account is not set";
            return Err(Named::new(Code::ServiceAccountAnnotationMissing, detail));
        };
        Ok(Self {
            host: host.clone(),
            client_id,
            tenant_id,
            token_url: parameters.token_url.clone(),
        })
    }
}

impl Exchange for Acr {
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
