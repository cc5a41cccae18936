//! Azure Container Registry. The identity is the client assertion of an
//! application or managed identity at Microsoft Entra (RFC 7523, OAuth 2.0
//! client credentials flow with a federated credential), whose access token the
//! registry takes for a refresh token of its own: a JWT that is the password of
//! a fixed user for about three hours (ACR's `AAD-OAuth.md`).

use crate::docker_config::BasicCredential;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use shared::binding::{CloudAccount, Exchange as Parameters};
use shared::clouds::azure;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

use super::http::{Answer, Outlet, redact};
use super::{Credential, Exchange, trade};
use crate::identity::IdentityToken;
use crate::jwt::Claims;
use crate::refresh::{Failure, Fresh};

/// The user name that goes with a refresh token.
const USERNAME: &str = "00000000-0000-0000-0000-000000000000";
/// The resource that Entra's token is for, the same in every cloud.
const SCOPE: &str = "https://containerregistry.azure.net/.default";
/// The tenant's place in a token URL, as users write it and as the URL parser
/// keeps it.
const TENANT: [&str; 2] = ["{tenantID}", "%7BtenantID%7D"];

/// An application or managed identity that trusts the identity.
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
        if !trade::is_plain(&tenant_id) {
            let detail = "exchange.account.azure.tenantId is no tenant";
            return Err(Named::new(Code::ServiceAccountAnnotationMissing, detail));
        }
        Ok(Self {
            host: host.clone(),
            client_id,
            tenant_id,
            token_url: parameters.token_url.clone(),
        })
    }

    fn token_url(&self) -> String {
        if let Some(url) = &self.token_url {
            let fill = |url: String, place: &&str| url.replace(place, &self.tenant_id);
            return TENANT.iter().fold(url.clone(), fill);
        }
        let authority = azure::authority(self.host.name()).unwrap_or(azure::PUBLIC_AUTHORITY);
        format!("https://{authority}/{}/oauth2/v2.0/token", self.tenant_id)
    }

    /// The identity for the application's token.
    async fn log_in(
        &self,
        outlet: &Outlet,
        identity: &IdentityToken,
    ) -> Result<SecretString, Failure> {
        let request = outlet.request(Method::POST, &self.token_url())?.form(&[
            ("grant_type", "client_credentials"),
            ("client_id", &self.client_id),
            (
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ),
            ("client_assertion", identity.token.expose_secret()),
            ("scope", SCOPE),
        ]);
        let answer = outlet.send(request).await?;
        self.logged_in(&answer)
            .map_err(|error| answer.failure(error))
    }

    fn logged_in(&self, answer: &Answer) -> Result<SecretString, Named> {
        #[derive(Deserialize)]
        struct LoggedIn {
            access_token: SecretString,
        }
        let step = "Microsoft Entra";
        if !answer.status.is_success() {
            let (code, words) = refusal_of_entra(answer);
            return Err(self.refused(code, step, answer, &words));
        }
        let Some(LoggedIn { access_token }) = answer.json() else {
            let what = "the answer has no field access_token";
            return Err(self.named(Code::ExchangeUnreadable, step, what));
        };
        Ok(access_token)
    }

    /// The application's token for the registry's own.
    async fn trade_in(
        &self,
        outlet: &Outlet,
        access_token: &SecretString,
    ) -> Result<Fresh<Credential>, Failure> {
        let url = format!("https://{}/oauth2/exchange", self.host);
        let request = outlet.request(Method::POST, &url)?.form(&[
            ("grant_type", "access_token"),
            ("service", self.host.as_str()),
            ("tenant", &self.tenant_id),
            ("access_token", access_token.expose_secret()),
        ]);
        let answer = outlet.send(request).await?;
        self.traded_in(&answer)
            .map_err(|error| answer.failure(error))
    }

    fn traded_in(&self, answer: &Answer) -> Result<Fresh<Credential>, Named> {
        #[derive(Deserialize)]
        struct TradedIn {
            refresh_token: SecretString,
        }
        let step = "the registry's /oauth2/exchange";
        if !answer.status.is_success() {
            let code = answer.outage().unwrap_or(match answer.status.as_u16() {
                401 | 403 => Code::AcrDenied,
                404 | 405 => Code::ExchangeUnreadable,
                _ => Code::ExchangeRejected,
            });
            return Err(self.refused(code, step, answer, &answer.words()));
        }
        let unreadable = |what: &str| {
            let what = format!("failed to decode ACR response: {what}");
            self.named(Code::ExchangeUnreadable, step, &what)
        };
        let Some(TradedIn { refresh_token }) = answer.json() else {
            return Err(unreadable("there is no field refresh_token"));
        };
        let expires_at = Claims::read(refresh_token.expose_secret())
            .and_then(|claims| claims.expires_at())
            .ok_or_else(|| unreadable("the refresh token has no exp"))?;
        Ok(Fresh {
            credential: Credential::Basic(BasicCredential {
                username: USERNAME.to_owned(),
                secret: refresh_token,
            }),
            expires_at,
        })
    }

    fn refused(&self, code: Code, step: &str, answer: &Answer, words: &str) -> Named {
        let status = answer.status.as_u16();
        self.named(code, step, &format!("HTTP status {status}: {words}"))
    }

    fn named(&self, code: Code, step: &str, what: &str) -> Named {
        let Self {
            host,
            client_id,
            tenant_id,
            ..
        } = self;
        let who = format!("registry {host}, client {client_id} of tenant {tenant_id}");
        Named::new(code, format!("{who}: {step}: {what}"))
    }
}

impl Exchange for Acr {
    fn upstream(&self) -> String {
        trade::upstream(Some(&self.token_url()), &self.host)
    }

    async fn exchange(
        &self,
        outlet: &Outlet,
        identity: &IdentityToken,
    ) -> Result<Fresh<Credential>, Failure> {
        let access_token = self.log_in(outlet, identity).await?;
        self.trade_in(outlet, &access_token).await
    }
}

/// Which error of the catalogue an answer of Entra is, and what Entra says: the
/// sentence that begins with its number, without the trace that follows.
fn refusal_of_entra(answer: &Answer) -> (Code, String) {
    #[derive(Deserialize)]
    struct Refusal {
        error_description: String,
    }
    let description = answer.json().map(|it: Refusal| it.error_description);
    let sentence = description.as_deref().map(first_sentence);
    let words = sentence.map_or_else(|| answer.words(), redact);
    let code = answer
        .outage()
        .or_else(|| entra(aadsts(sentence?)?))
        .unwrap_or(Code::ExchangeRejected);
    (code, words)
}

fn first_sentence(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    let line = line.split(" Trace ID:").next().unwrap_or_default();
    let line = line.split(". ").next().unwrap_or_default();
    line.trim_end_matches(['.', ' '])
}

/// The digits of `AADSTS<number>: …`.
fn aadsts(sentence: &str) -> Option<&str> {
    let number = sentence.strip_prefix("AADSTS")?;
    Some(number.split(|c: char| !c.is_ascii_digit()).next()?).filter(|digits| !digits.is_empty())
}

/// Microsoft Entra, "AADSTS error codes". Some numbers have a further digit for
/// the variant of the same error, 7002138 for a subject in other case.
fn entra(number: &str) -> Option<Code> {
    let is_of = |families: &[&str]| families.iter().any(|family| number.starts_with(family));
    match number {
        // No credential fits; 7002…: which claim it is about.
        "70021" => Some(Code::FederatedCredentialMismatch),
        _ if is_of(&["700211", "700212", "700213"]) => Some(Code::FederatedCredentialMismatch),
        // No such application, tenant, tenant domain; not in this tenant.
        "700016" | "90002" | "900023" | "7000229" => Some(Code::ApplicationNotFound),
        // Outside its time; signed by none of the issuer's keys; malformed.
        _ if is_of(&["700024", "700027", "50027"]) => Some(Code::IdentityTokenRejected),
        // "Request to External OIDC endpoint failed", by two numbers.
        "90061" => Some(Code::IdentityProviderUnreachable),
        _ if is_of(&["50166"]) => Some(Code::IdentityProviderUnreachable),
        _ => None,
    }
}

#[cfg(test)]
#[path = "acr_tests.rs"]
mod tests;
