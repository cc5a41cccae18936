//! OAuth 2.0 token exchange (RFC 8693).

use shared::binding::Exchange as Parameters;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

use super::http::Outlet;
use super::{Credential, Exchange, trade};
use crate::identity::IdentityToken;
use crate::refresh::{Failure, Fresh};

/// OAuth 2.0 token exchange (RFC 8693).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenExchange {
    /// The registry.
    pub host: RegistryHost,
    /// The token service, an https URL.
    pub token_url: String,
    /// The account at the registry.
    pub username: Option<String>,
}

impl TokenExchange {
    pub(super) fn of(parameters: &Parameters, host: &RegistryHost) -> Result<Self, Named> {
        let token_url = parameters
            .token_url
            .clone()
            .ok_or_else(|| Named::new(Code::ExchangeUnspecified, "exchange.tokenUrl is not set"))?;
        Ok(Self {
            host: host.clone(),
            token_url,
            username: trade::username(parameters)?,
        })
    }
}

impl Exchange for TokenExchange {
    fn upstream(&self) -> String {
        trade::upstream(Some(&self.token_url), &self.host)
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
