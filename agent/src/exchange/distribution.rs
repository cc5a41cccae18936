//! Distribution token realm: the identity is shown to the realm alone.

use shared::binding::Exchange as Parameters;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

use super::http::Outlet;
use super::{Credential, Exchange, trade};
use crate::identity::IdentityToken;
use crate::refresh::{Failure, Fresh};

/// Distribution token realm: the identity is shown to the realm alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Distribution {
    /// The registry.
    pub host: RegistryHost,
    /// The realm, an https URL.
    pub realm: String,
    /// The account at the realm; without it the token is shown as a bearer.
    pub username: Option<String>,
}

impl Distribution {
    pub(super) fn of(parameters: &Parameters, host: &RegistryHost) -> Result<Self, Named> {
        let realm = parameters
            .auth_url
            .clone()
            .ok_or_else(|| Named::new(Code::AuthUrlInvalid, "exchange.authUrl is not set"))?;
        Ok(Self {
            host: host.clone(),
            realm,
            username: trade::username(parameters)?,
        })
    }
}

impl Exchange for Distribution {
    fn upstream(&self) -> String {
        trade::upstream(Some(&self.realm), &self.host)
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
