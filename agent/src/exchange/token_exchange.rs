//! OAuth 2.0 token exchange (RFC 8693): the identity is POSTed to a token
//! service, whose access token is the registry's password; or, with a token
//! realm, is shown to that realm alone, as in [`super::distribution`].
//!
//! There is no client secret. A service that wants to know its client (Keycloak)
//! is told by a parameter of the token URL: `…/token?client_id=argocd`. Whatever
//! the URL's query says goes into the form in its place.

use std::time::Duration;

use crate::docker_config::BasicCredential;
use jiff::{SignedDuration, Timestamp};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use shared::binding::{Exchange as Parameters, reserved_parameter};
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;
use url::Url;

use super::http::{Answer, Outlet};
use super::login::{self, Realm};
use super::{Credential, Exchange, trade};
use crate::identity::IdentityToken;
use crate::jwt::Claims;
use crate::refresh::{Failure, Fresh};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// The user name for an access token where nothing else is said.
const USERNAME: &str = "token";
/// For a token that does not say when it ends (RFC 8693 only recommends it): as
/// long as distribution's realms have it.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// OAuth 2.0 token exchange (RFC 8693).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenExchange {
    /// The registry.
    pub host: RegistryHost,
    /// The token service, an https URL without query.
    pub token_url: Url,
    /// The account at the registry.
    pub username: Option<String>,
    /// Parameters of the form besides the standard ones.
    parameters: Vec<(String, String)>,
    audience: String,
    realm: Option<Realm>,
}

impl TokenExchange {
    pub(super) fn of(
        parameters: &Parameters,
        host: &RegistryHost,
        audience: &str,
    ) -> Result<Self, Named> {
        let token_url = parameters
            .token_url
            .as_deref()
            .ok_or_else(|| Named::new(Code::ExchangeUnspecified, "exchange.tokenUrl is not set"))?;
        let (token_url, form) = split(token_url)?;
        let realm = parameters.auth_url.as_deref();
        let realm = realm.map(|url| Realm::of(url, parameters.service.as_ref(), host));
        Ok(Self {
            host: host.clone(),
            token_url,
            username: trade::username(parameters)?,
            parameters: form,
            audience: audience.to_owned(),
            realm: realm.transpose()?,
        })
    }

    /// What the access token is to whoever takes it.
    fn credential(&self, token: SecretString) -> Credential {
        if self.username.is_none() && self.realm.is_some() {
            return Credential::Bearer(token);
        }
        let username = self.username.as_deref().unwrap_or(USERNAME);
        Credential::Basic(BasicCredential {
            username: username.to_owned(),
            secret: token,
        })
    }
}

/// The token service, and what its URL adds to the form.
fn split(token_url: &str) -> Result<(Url, Vec<(String, String)>), Named> {
    let mut url = Url::parse(token_url)
        .map_err(|error| Named::new(Code::AuthUrlInvalid, format!("exchange.tokenUrl: {error}")))?;
    let form: Vec<(String, String)> = url
        .query_pairs()
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    if let Some(name) = reserved_parameter(&url) {
        let detail = format!("exchange.tokenUrl has the parameter {name}");
        return Err(Named::new(Code::InvalidSecret, detail));
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok((url, form))
}

impl Exchange for TokenExchange {
    fn upstream(&self) -> String {
        trade::upstream(Some(self.token_url.as_str()), &self.host)
    }

    async fn exchange(
        &self,
        outlet: &Outlet,
        identity: &IdentityToken,
    ) -> Result<Fresh<Credential>, Failure> {
        let form = [
            ("grant_type", GRANT),
            ("subject_token", identity.token.expose_secret()),
            ("subject_token_type", JWT),
            ("requested_token_type", ACCESS_TOKEN),
            ("audience", &self.audience),
        ];
        let more = self.parameters.iter();
        let more = more.map(|(name, value)| (name.as_str(), value.as_str()));
        let form: Vec<(&str, &str)> = form.into_iter().chain(more).collect();
        let request = outlet
            .request(Method::POST, self.token_url.as_str())?
            .form(&form);
        let answer = outlet.send(request).await?;
        let (token, expires_at) =
            token(&answer, outlet, Timestamp::now()).map_err(|error| answer.failure(error))?;
        let credential = self.credential(token);
        if let Some(realm) = &self.realm {
            login::log_in(outlet, realm, &credential, Code::ExchangeRejected).await?;
        }
        Ok(Fresh {
            credential,
            expires_at,
        })
    }
}

/// RFC 8693, 2.2.1.
#[derive(Deserialize)]
struct Success {
    access_token: SecretString,
    #[serde(default)]
    issued_token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<i64>,
}

/// The access token and its end, by our clock.
fn token(
    answer: &Answer,
    outlet: &impl std::fmt::Display,
    now: Timestamp,
) -> Result<(SecretString, Timestamp), Named> {
    if answer.status != StatusCode::OK {
        let (status, words) = (answer.status.as_u16(), answer.words());
        let code = match status {
            404 | 405 if words.is_empty() => Code::ExchangeUnreadable,
            _ => answer.outage().unwrap_or(Code::ExchangeRejected),
        };
        let detail = format!("{outlet}: token exchange failed with status {status}: {words}");
        return Err(Named::new(code, detail));
    }
    let unreadable =
        |reason: &str| Named::new(Code::ExchangeUnreadable, format!("{outlet}: {reason}"));
    let success: Success = answer
        .json()
        .filter(|it: &Success| !it.access_token.expose_secret().is_empty())
        .ok_or_else(|| unreadable("token exchange response missing access_token field"))?;
    // Both are used alike; anything else is of no use to a registry.
    if let Some(kind) = success.issued_token_type
        && !matches!(kind.as_str(), ACCESS_TOKEN | JWT)
    {
        return Err(unreadable("token exchange gave another type of token"));
    }
    let of_jwt = || Claims::read(success.access_token.expose_secret())?.expires_at();
    let expires_at = match success.expires_in {
        Some(seconds) => now.checked_add(SignedDuration::from_secs(seconds)).ok(),
        None => of_jwt().or_else(|| now.checked_add(DEFAULT_LIFE).ok()),
    };
    let expires_at = expires_at
        .filter(|end| *end > now)
        .ok_or_else(|| unreadable("token exchange gave a token that has no life left"))?;
    Ok((success.access_token, expires_at))
}

#[cfg(test)]
#[path = "token_exchange_tests.rs"]
mod tests;
