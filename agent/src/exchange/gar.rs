//! Google Artifact Registry and Container Registry. The identity is exchanged
//! at the Security Token Service for a federated token, and that one at IAM
//! Service Account Credentials for an access token of the service account
//! (Security Token Service API, `v1.token`; IAM Service Account Credentials
//! API, `generateAccessToken`). The access token is the password of the user
//! `oauth2accesstoken` until `expireTime`.

use crate::docker_config::BasicCredential;
use jiff::Timestamp;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use shared::binding::{CloudAccount, Exchange as Parameters};
use shared::clouds::gcp;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

use super::http::{Answer, Outlet};
use super::{Credential, Exchange, trade};
use crate::identity::IdentityToken;
use crate::refresh::{Failure, Fresh};

/// The user name that goes with an access token.
const USERNAME: &str = "oauth2accesstoken";
/// The scope of the federated token: impersonation wants no less.
const FEDERATED_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// The scope of what is delivered: to read storage, with which Artifact Registry
/// and Container Registry let one pull (Artifact Registry, "Deploying to Compute
/// Engine", access scopes). Whoever saw the token could do no more with it.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_only";
/// The longest life that a service account's token has without an exception of
/// the organisation's policy.
const LIFETIME: &str = "3600s";

/// A service account of Google Cloud that the identity may impersonate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gar {
    /// The registry.
    pub host: RegistryHost,
    /// The email of the service account to impersonate.
    pub service_account: String,
    /// The workload identity provider, `projects/…/providers/…`.
    pub provider: String,
    /// The Security Token Service, if not Google's own.
    pub token_url: Option<String>,
}

impl Gar {
    pub(super) fn of(
        parameters: &Parameters,
        audience: &str,
        host: &RegistryHost,
    ) -> Result<Self, Named> {
        let Some(CloudAccount::Gcp {
            service_account,
            workload_identity_provider,
        }) = parameters.account.clone()
        else {
            let detail = "exchange.account is not set";
            return Err(Named::new(Code::ServiceAccountAnnotationMissing, detail));
        };
        if !trade::is_plain(&service_account) {
            let detail = "exchange.account.gcp.serviceAccount is no email";
            return Err(Named::new(Code::ServiceAccountAnnotationMissing, detail));
        }
        let provider = workload_identity_provider
            .or_else(|| gcp::provider(audience).map(str::to_owned))
            .ok_or_else(|| {
                let detail = "workload identity provider audience not specified";
                Named::new(Code::AudienceMissing, detail)
            })?;
        Ok(Self {
            host: host.clone(),
            service_account,
            provider,
            token_url: parameters.token_url.clone(),
        })
    }

    fn token_url(&self) -> String {
        let own = || format!("https://{}/v1/token", gcp::STS);
        self.token_url.clone().unwrap_or_else(own)
    }

    /// The identity for a token of the pool.
    async fn federate(
        &self,
        outlet: &Outlet,
        identity: &IdentityToken,
    ) -> Result<SecretString, Failure> {
        let request = outlet.request(Method::POST, &self.token_url())?.form(&[
            (
                "grant_type",
                "urn:ietf:params:oauth:grant-type:token-exchange",
            ),
            (
                "audience",
                &format!("//iam.googleapis.com/{}", self.provider),
            ),
            ("scope", FEDERATED_SCOPE),
            (
                "requested_token_type",
                "urn:ietf:params:oauth:token-type:access_token",
            ),
            ("subject_token", identity.token.expose_secret()),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ]);
        let answer = outlet.send(request).await?;
        self.federated(&answer)
            .map_err(|error| answer.failure(error))
    }

    fn federated(&self, answer: &Answer) -> Result<SecretString, Named> {
        #[derive(Deserialize)]
        struct Federated {
            access_token: SecretString,
        }
        let step = "Security Token Service";
        if !answer.status.is_success() {
            let code = answer
                .outage()
                .unwrap_or_else(|| refusal_of_sts(&answer.words()));
            return Err(self.refused(code, step, answer));
        }
        let Some(Federated { access_token }) = answer.json() else {
            return Err(self.unreadable(step, "the answer has no field access_token"));
        };
        Ok(access_token)
    }

    /// A token of the pool for one of the service account.
    async fn impersonate(
        &self,
        outlet: &Outlet,
        federated: &SecretString,
    ) -> Result<Fresh<Credential>, Failure> {
        let url = format!(
            "https://{}/v1/projects/-/serviceAccounts/{}:generateAccessToken",
            gcp::IAM_CREDENTIALS,
            self.service_account
        );
        let request = outlet
            .request(Method::POST, &url)?
            .bearer_auth(federated.expose_secret())
            .json(&json!({ "scope": [SCOPE], "lifetime": LIFETIME }));
        let answer = outlet.send(request).await?;
        self.impersonated(&answer, Timestamp::now())
            .map_err(|error| answer.failure(error))
    }

    fn impersonated(&self, answer: &Answer, now: Timestamp) -> Result<Fresh<Credential>, Named> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Impersonated {
            access_token: SecretString,
            expire_time: String,
        }
        let step = "IAM Service Account Credentials";
        if !answer.status.is_success() {
            let code = answer.outage().unwrap_or(match answer.status.as_u16() {
                403 | 404 => Code::ImpersonationDenied,
                _ => Code::ExchangeRejected,
            });
            return Err(self.refused(code, step, answer));
        }
        let Some(Impersonated {
            access_token,
            expire_time,
        }) = answer.json()
        else {
            return Err(self.unreadable(step, "the answer has no accessToken with expireTime"));
        };
        // A zero time is far in the past, too.
        let expires_at = expire_time
            .parse()
            .ok()
            .filter(|expires_at| *expires_at > now)
            .ok_or_else(|| self.unreadable(step, "expireTime is not in the future"))?;
        Ok(Fresh {
            credential: Credential::Basic(BasicCredential {
                username: USERNAME.to_owned(),
                secret: access_token,
            }),
            expires_at,
        })
    }

    fn refused(&self, code: Code, step: &str, answer: &Answer) -> Named {
        let (status, words) = (answer.status.as_u16(), answer.words());
        self.named(code, step, &format!("HTTP status {status}: {words}"))
    }

    fn unreadable(&self, step: &str, what: &str) -> Named {
        self.named(Code::ExchangeUnreadable, step, what)
    }

    fn named(&self, code: Code, step: &str, what: &str) -> Named {
        let Self {
            host,
            service_account,
            ..
        } = self;
        let detail = format!("registry {host}, service account {service_account}: {step}: {what}");
        Named::new(code, detail)
    }
}

impl Exchange for Gar {
    fn upstream(&self) -> String {
        trade::upstream(Some(&self.token_url()), &self.host)
    }

    async fn exchange(
        &self,
        outlet: &Outlet,
        identity: &IdentityToken,
    ) -> Result<Fresh<Credential>, Failure> {
        let federated = self.federate(outlet, identity).await?;
        self.impersonate(outlet, &federated).await
    }
}

/// Which error of the catalogue the words of the Security Token Service are:
/// its OAuth errors (RFC 6749, 5.2) say less than their descriptions.
fn refusal_of_sts(words: &str) -> Code {
    let words = words.to_ascii_lowercase();
    let says = |text: &str| words.contains(text);
    if says("google.subject") && says("127") {
        Code::SubjectTooLong
    } else if says("error connecting to the given credential's issuer") {
        Code::IdentityProviderUnreachable
    } else if says("invalid_target")
        || says("unauthorized_client")
        || says("does not match the expected")
        || says("invalid value for \"audience\"")
        || says("could not obtain a value for google.subject")
    {
        Code::PoolRejected
    } else if says("invalid_grant") {
        Code::IdentityTokenRejected
    } else {
        Code::ExchangeRejected
    }
}

#[cfg(test)]
#[path = "gar_tests.rs"]
mod tests;
