//! Passthrough: the identity token itself is the password.

use shared::binding::Exchange as Parameters;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

use super::http::Outlet;
use super::{Credential, Exchange, trade};
use crate::identity::IdentityToken;
use crate::refresh::{Failure, Fresh};

/// Passthrough: the identity token itself is the password.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passthrough {
    /// The registry.
    pub host: RegistryHost,
    /// The account at the registry.
    pub username: Option<String>,
}

impl Passthrough {
    pub(super) fn of(parameters: &Parameters, host: &RegistryHost) -> Result<Self, Named> {
        Ok(Self {
            host: host.clone(),
            username: trade::username(parameters)?,
        })
    }
}

impl Exchange for Passthrough {
    fn upstream(&self) -> String {
        trade::upstream(None, &self.host)
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
