//! Distribution token realm: the identity is shown to the realm alone.
//!
//! Which scope a registry token needs is known with each pull only, so it is the
//! credential proxy that asks the realm for one (distribution, "Token
//! Authentication Specification"). What is delivered to it is the identity
//! itself, after the realm has taken it here once.

use crate::docker_config::BasicCredential;
use shared::binding::Exchange as Parameters;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

use super::http::Outlet;
use super::login::{self, Realm};
use super::{Credential, Exchange, trade};
use crate::identity::IdentityToken;
use crate::refresh::{Failure, Fresh};

/// Distribution token realm: the identity is shown to the realm alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Distribution {
    /// The registry.
    pub host: RegistryHost,
    /// The account at the realm; without it the token is shown as a bearer.
    pub username: Option<String>,
    realm: Realm,
}

impl Distribution {
    pub(super) fn of(parameters: &Parameters, host: &RegistryHost) -> Result<Self, Named> {
        let realm = parameters
            .auth_url
            .as_deref()
            .ok_or_else(|| Named::new(Code::AuthUrlInvalid, "exchange.authUrl is not set"))?;
        Ok(Self {
            host: host.clone(),
            username: trade::username(parameters)?,
            realm: Realm::of(realm, parameters.service.as_ref(), host)?,
        })
    }
}

impl Exchange for Distribution {
    fn upstream(&self) -> String {
        trade::upstream(Some(self.realm.url.as_str()), &self.host)
    }

    async fn exchange(
        &self,
        outlet: &Outlet,
        identity: &IdentityToken,
    ) -> Result<Fresh<Credential>, Failure> {
        let credential = match &self.username {
            Some(username) => Credential::Basic(BasicCredential {
                username: username.clone(),
                secret: identity.token.clone(),
            }),
            None => Credential::Bearer(identity.token.clone()),
        };
        login::log_in(outlet, &self.realm, &credential, Code::ExchangeRejected).await?;
        Ok(Fresh {
            credential,
            expires_at: identity.expires_at,
        })
    }
}
