//! Logging in at a registry, as `docker login` does: a credential is shown once,
//! without a scope, to see that it is taken (distribution, "Token Authentication
//! Specification"). The registry token that comes of it is not used.

use crate::docker_config::BasicCredential;
use agent_net::challenge;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;
use url::Url;

use super::Credential;
use super::http::{Answer, Outlet};
use crate::refresh::Failure;

/// A registry's token realm.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Realm {
    /// An https URL.
    pub(super) url: Url,
    /// The `service` that it is asked for.
    pub(super) service: Option<String>,
}

impl Realm {
    /// The realm of a binding's parameters; its service is called like the
    /// registry where nothing else is said.
    pub(super) fn of(
        url: &str,
        service: Option<&String>,
        host: &RegistryHost,
    ) -> Result<Self, Named> {
        let invalid =
            |reason: &str| Named::new(Code::AuthUrlInvalid, format!("exchange.authUrl: {reason}"));
        let url = Url::parse(url).map_err(|error| invalid(&error.to_string()))?;
        Ok(Self {
            url,
            service: Some(service.cloned().unwrap_or_else(|| host.to_string())),
        })
    }
}

/// Shows `credential` to the realm. `refusal` names what 401 and 403 mean.
///
/// # Errors
/// Those of the guard, [`Answer::outage`], `refusal`, [`Code::ExchangeSkipped`],
/// [`Code::ExchangeRejected`] and [`Code::ExchangeUnreadable`].
pub(super) async fn log_in(
    outlet: &Outlet,
    realm: &Realm,
    credential: &Credential,
    refusal: Code,
) -> Result<(), Failure> {
    let url = challenge::token_url(realm.url.clone(), realm.service.as_deref(), None);
    let request = outlet.request(Method::GET, url.as_str())?;
    let request = match credential {
        Credential::Basic(BasicCredential { username, secret }) => {
            request.basic_auth(username, Some(secret.expose_secret()))
        }
        Credential::Bearer(token) => request.bearer_auth(token.expose_secret()),
        // Nobody can ask for it: a realm is shown tokens only.
        Credential::Certificate { .. } => request,
    };
    let answer = outlet.send(request).await?;
    let place = format!(
        "{outlet}, realm on {}",
        realm.url.host_str().unwrap_or_default()
    );
    judge(&answer, &place, refusal).map_err(|error| answer.failure(error))
}

#[derive(Deserialize)]
struct Success {
    #[serde(default)]
    token: Option<SecretString>,
    #[serde(default)]
    access_token: Option<SecretString>,
}

fn judge(answer: &Answer, place: &str, refusal: Code) -> Result<(), Named> {
    if answer.status != StatusCode::OK {
        let words = answer.words();
        let status = answer.status.as_u16();
        let detail =
            format!("{place}: registry token request failed with status {status}: {words}");
        let code = match status {
            // Quay's, for a password that is a JWT which it did not sign.
            500 if words.to_ascii_lowercase().contains("unknown service key") => {
                Code::ExchangeSkipped
            }
            401 | 403 => refusal,
            404 | 405 => Code::ExchangeUnreadable,
            _ => answer.outage().unwrap_or(Code::ExchangeRejected),
        };
        return Err(Named::new(code, detail));
    }
    let token = answer
        .json::<Success>()
        .and_then(|it| it.token.or(it.access_token));
    match token {
        Some(token) if !token.expose_secret().is_empty() => Ok(()),
        _ => Err(Named::new(
            Code::ExchangeUnreadable,
            format!("{place}: registry token response missing token field"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::http::answer_of;

    #[test]
    fn every_answer_of_a_realm_has_its_name() {
        use Code::*;
        let denied = json!({"errors": [{"code": "DENIED", "message": "not you"}]});
        for (status, body, expected) in [
            (200, json!({"token": "t"}), None),
            (200, json!({"access_token": "t", "expires_in": 60}), None),
            (200, json!({"token": ""}), Some(ExchangeUnreadable)),
            (200, json!({"refresh_token": "t"}), Some(ExchangeUnreadable)),
            (200, json!("t"), Some(ExchangeUnreadable)),
            (204, json!({}), Some(ExchangeRejected)),
            (302, json!({}), Some(ExchangeRejected)),
            (400, denied.clone(), Some(ExchangeRejected)),
            (401, denied.clone(), Some(AudienceMismatch)),
            (403, denied.clone(), Some(AudienceMismatch)),
            (404, json!({}), Some(ExchangeUnreadable)),
            (405, json!({}), Some(ExchangeUnreadable)),
            (429, json!({}), Some(ExchangeThrottled)),
            (500, json!({}), Some(ExchangeUnreachable)),
            (
                500,
                json!({"message": "Unknown service key"}),
                Some(ExchangeSkipped),
            ),
            (503, json!({}), Some(ExchangeUnreachable)),
        ] {
            let answer = answer_of(status, &body);
            let found = judge(&answer, "registry r.test", AudienceMismatch).err();
            assert_eq!(
                found.as_ref().map(|it| it.code),
                expected,
                "{status} {body}"
            );
            let Some(error) = found else { continue };
            assert!(error.detail.starts_with("registry r.test: registry token"));
            if status != 200 {
                let words = format!("failed with status {status}: {}", answer.words());
                assert!(error.detail.ends_with(&words), "{error}");
            }
        }
    }
}
