//! Identities from the control plane's identity API ([`shared::identity_api`]):
//! the agent's own token and a consumer pod's token flow in.
//!
//! The connection is verified against one CA and nothing else, follows no
//! redirect and uses no proxy, since two tokens travel over it.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Certificate, Client, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use shared::binding::CredentialKind;
use shared::errors::Code;
use shared::identity_api;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::verify::{Expected, Flaw, verify};
use super::{IdentityError, IdentityRequest, IdentitySource, Svid};
use crate::exchange::http::{causes, read_body};

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// For a whole call.
const TOTAL: Duration = Duration::from_secs(15);
/// Calls that run at the same time: it serves every node.
const PARALLEL: usize = 8;
/// Largest answer that is read.
const LARGEST: usize = 64 << 10;

/// The control plane as a source of identities.
pub struct ControlPlane {
    url: Url,
    ca_file: PathBuf,
    token_file: PathBuf,
    issuer: Option<String>,
    turns: Semaphore,
    /// The client, and the CA file's content that it was made for.
    client: Mutex<Option<(Vec<u8>, Client)>>,
}

impl ControlPlane {
    /// The control plane at `url` (https, only its origin counts), verified
    /// with the PEM certificates of `ca_file`; `token_file` has the agent's own
    /// token. Both files may change at any time and are read for each call.
    /// Every JWT-SVID has to be of `issuer`, if there is one.
    pub fn new(url: &Url, ca_file: PathBuf, token_file: PathBuf, issuer: Option<String>) -> Self {
        let mut url = url.clone();
        url.set_path(identity_api::PATH);
        url.set_query(None);
        Self {
            url,
            ca_file,
            token_file,
            issuer,
            turns: Semaphore::new(PARALLEL),
            client: Mutex::new(None),
        }
    }

    fn client(&self) -> Result<Client, String> {
        let ca = std::fs::read(&self.ca_file)
            .map_err(|error| format!("CA file {}: {error}", self.ca_file.display()))?;
        let mut cached = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((content, client)) = &*cached
            && *content == ca
        {
            return Ok(client.clone());
        }
        let roots = Certificate::from_pem_bundle(&ca)
            .map_err(|error| format!("CA file {}: {}", self.ca_file.display(), causes(&error)))?;
        if roots.is_empty() {
            return Err(format!(
                "CA file {}: no certificate",
                self.ca_file.display()
            ));
        }
        let client = Client::builder()
            .https_only(true)
            .tls_certs_only(roots)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(TOTAL)
            .build()
            .map_err(|error| causes(&error))?;
        *cached = Some((ca, client.clone()));
        Ok(client)
    }

    async fn call(
        &self,
        client: Client,
        own: &SecretString,
        request: &IdentityRequest,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), String> {
        let body = identity_api::IdentityRequest {
            namespace: request.binding.namespace.clone(),
            binding: request.binding.name.clone(),
            pod_token: request.pod_token.clone(),
        };
        let response = client
            .post(self.url.clone())
            .bearer_auth(own.expose_secret())
            .json(&body)
            .send()
            .await
            .map_err(|error| causes(&error.without_url()))?;
        let status = response.status();
        let body = read_body(response, LARGEST).await?;
        Ok((status, body))
    }
}

impl IdentitySource for ControlPlane {
    async fn identity(&self, request: &IdentityRequest) -> Result<Svid, IdentityError> {
        let unreachable = |reason: String| IdentityError::Unreachable {
            binding: request.binding.clone(),
            reason: format!("{}: {reason}", self.url),
        };
        // Never closed. Whoever waits too long is told by its caller.
        let _turn = self.turns.acquire().await;
        let own = std::fs::read_to_string(&self.token_file)
            .map(Zeroizing::new)
            .map_err(|source| IdentityError::OwnToken {
                path: self.token_file.display().to_string(),
                source,
            })?;
        let own = SecretString::from(own.trim());
        let client = self.client().map_err(unreachable)?;
        let (status, body) = self
            .call(client, &own, request)
            .await
            .map_err(unreachable)?;
        if !status.is_success() {
            return Err(
                match serde_json::from_slice::<identity_api::ApiError>(&body) {
                    Ok(error) => {
                        let code = Code::from_name(&error.code).unwrap_or(Code::BadRequest);
                        IdentityError::Refused {
                            binding: request.binding.clone(),
                            code,
                            message: detail(code, &error.message).chars().take(500).collect(),
                        }
                    }
                    Err(_) => unreachable(format!("HTTP status {status}")),
                },
            );
        }
        let answer: identity_api::IdentityResponse =
            serde_json::from_slice(&body).map_err(|error| {
                // Line and column only: the message could quote the token.
                unreachable(format!(
                    "the answer cannot be read: line {}, column {}",
                    error.line(),
                    error.column()
                ))
            })?;
        let flawed = |flaw| IdentityError::Flawed {
            binding: request.binding.clone(),
            flaw,
        };
        for (field, found, asked) in [
            ("subject", &answer.subject, &request.subject),
            ("audience", &answer.audience, &request.audience),
        ] {
            if found != asked {
                return Err(flawed(Flaw::differs(field, found, asked)));
            }
        }
        let expected = Expected {
            subject: &request.subject,
            audience: &request.audience,
            issuer: match request.credential {
                CredentialKind::ServiceAccountToken => None,
                _ => self.issuer.as_deref(),
            },
        };
        let token = verify(expected, answer.token, Timestamp::now()).map_err(flawed)?;
        if token.expires_at.as_second() != answer.expires_at.as_second() {
            let asked = format!("{}, the token's exp", token.expires_at);
            let found = answer.expires_at.to_string();
            return Err(flawed(Flaw::differs("expiresAt", found, asked)));
        }
        Ok(Svid::Token(token))
    }

    fn silence(&self, _credential: CredentialKind) -> Code {
        Code::ControlPlaneUnreachable
    }
}

/// The detail in a whole sentence of the catalogue, which is put around it
/// again when the error is reported.
fn detail(code: Code, message: &str) -> &str {
    message
        .strip_prefix(code.as_str())
        .and_then(|rest| rest.strip_prefix(": ")?.strip_prefix(code.cause()))
        .and_then(|rest| rest.strip_suffix(code.remedy())?.strip_prefix(" ("))
        .and_then(|rest| rest.strip_suffix("). "))
        .unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use shared::errors::Named;

    use super::*;

    #[test]
    fn causes_and_remedies_are_not_said_twice() {
        for code in Code::ALL {
            let sentence = Named::new(*code, "pod (a) x").to_string();
            assert_eq!(detail(*code, &sentence), "pod (a) x");
        }
        assert_eq!(detail(Code::BadRequest, "other words"), "other words");
    }
}
