//! Quay robot federation: `GET /oauth2/federation/robot/token` with Basic
//! `robot:JWT` answers `{"token": …}`, a JWT that is the robot's *password* for
//! about an hour. Every documented error of that endpoint has its own code
//! here (quay, `endpoints/oauth/robot_identity_federation.py`; the words are
//! the upstream's).

use crate::docker_config::BasicCredential;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use shared::binding::Exchange as Parameters;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

use super::http::{Answer, Outlet};
use super::{Credential, Exchange, trade};
use crate::identity::IdentityToken;
use crate::jwt::Claims;
use crate::refresh::{Failure, Fresh};

/// The endpoint on the registry's own host.
const PATH: &str = "/oauth2/federation/robot/token";

/// A robot that trusts the identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quay {
    /// The registry.
    pub host: RegistryHost,
    /// The federation endpoint, if not the registry's own.
    pub auth_url: Option<String>,
    /// The robot's full name.
    pub robot: String,
}

impl Quay {
    pub(super) fn of(parameters: &Parameters, host: &RegistryHost) -> Result<Self, Named> {
        let robot = trade::username(parameters)?
            .ok_or_else(|| Named::new(Code::UsernameMissing, "exchange.username is not set"))?;
        Ok(Self {
            host: host.clone(),
            auth_url: parameters.auth_url.clone(),
            robot,
        })
    }
}

impl Exchange for Quay {
    fn upstream(&self) -> String {
        trade::upstream(self.auth_url.as_deref(), &self.host)
    }

    async fn exchange(
        &self,
        outlet: &Outlet,
        identity: &IdentityToken,
    ) -> Result<Fresh<Credential>, Failure> {
        let own = format!("https://{}{PATH}", self.host);
        let request = outlet
            .request(Method::GET, self.auth_url.as_deref().unwrap_or(&own))?
            .basic_auth(&self.robot, Some(identity.token.expose_secret()));
        let answer = outlet.send(request).await?;
        credential(&answer, &self.host, &self.robot, &identity.token)
            .map_err(|error| answer.failure(error))
    }
}

#[derive(Deserialize)]
struct Success {
    token: SecretString,
}

fn credential(
    answer: &Answer,
    host: &RegistryHost,
    robot: &str,
    sent: &SecretString,
) -> Result<Fresh<Credential>, Named> {
    let name = |code, detail: &str| {
        Named::new(code, format!("registry {host}, robot `{robot}`: {detail}"))
    };
    if answer.status != StatusCode::OK {
        let words = answer.words();
        return Err(name(
            classify(answer.status, &words),
            &format!("HTTP status {}: {words}", answer.status.as_u16()),
        ));
    }
    let unreadable = |detail: &str| name(Code::ExchangeUnreadable, detail);
    let Ok(Success { token }) = serde_json::from_slice(&answer.body) else {
        return Err(unreadable("the answer has no field token"));
    };
    if token.expose_secret() == sent.expose_secret() {
        return Err(name(
            Code::ExchangeSkipped,
            "the identity token itself came back",
        ));
    }
    let expires_at = Claims::read(token.expose_secret())
        .and_then(|claims| claims.expires_at())
        .ok_or_else(|| unreadable("the token has no exp"))?;
    Ok(Fresh {
        credential: Credential::Basic(BasicCredential {
            username: robot.to_owned(),
            secret: token,
        }),
        expires_at,
    })
}

/// Which error of the catalogue an answer is.
fn classify(status: StatusCode, words: &str) -> Code {
    let says = |text: &str| words.to_ascii_lowercase().contains(text);
    if says("unknown service key") {
        Code::ExchangeSkipped
    } else if says("token does not match robot") {
        Code::RobotSubjectMismatch
    } else if says("not configured for this robot") || says("does not contain issuer") {
        Code::IssuerNotConfigured
    } else if says("does not have federated login") {
        Code::FederationMissing
    } else if says("could not find robot") || says("invalid robot") {
        Code::RobotNotFound
    } else if says("alg") && says("not allowed") {
        Code::UnsupportedAlgorithm
    } else {
        match status.as_u16() {
            // Quay answers 500 to a key that is not RSA and to an unreadable JWKS.
            500 => Code::UnsupportedAlgorithm,
            429 => Code::ExchangeThrottled,
            408 | 502..=504 => Code::ExchangeUnreachable,
            404 | 405 => Code::ExchangeUnreadable,
            _ => Code::ExchangeRejected,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exchange::http::answer_of;
    use crate::jwt::tests::token;

    fn answer(status: u16, body: &serde_json::Value) -> Result<Fresh<Credential>, Named> {
        let answer = answer_of(status, body);
        let host = RegistryHost::parse("quay.test").unwrap();
        credential(&answer, &host, "prod+argocd", &"sent.jwt.x".into())
    }

    #[test]
    fn the_robots_password_lives_as_long_as_its_own_exp() {
        let password = token(&json!({"exp": 4_000_000_000_i64}));
        let fresh = answer(200, &json!({"token": password})).unwrap();
        assert_eq!(fresh.expires_at.as_second(), 4_000_000_000);
        let Credential::Basic(basic) = fresh.credential else {
            panic!("not basic")
        };
        assert_eq!(basic.username, "prod+argocd");
        assert_eq!(basic.secret.expose_secret(), password);
    }

    #[test]
    fn every_documented_error_has_its_name() {
        use Code::*;
        let cases = [
            (401, json!({"error": "No auth header"}), ExchangeRejected),
            (
                401,
                json!({"error": "Invalid basic auth header"}),
                ExchangeRejected,
            ),
            (
                401,
                json!({"error": "Could not parse basic auth header"}),
                ExchangeRejected,
            ),
            (401, json!({"error": "Invalid robot"}), RobotNotFound),
            (
                400,
                json!({"message": "Token does not match robot"}),
                RobotSubjectMismatch,
            ),
            (
                400,
                json!({"message": "issuer https://i.test not configured for this robot"}),
                IssuerNotConfigured,
            ),
            (
                400,
                json!({"message": "Robot does not have federated login configured"}),
                FederationMissing,
            ),
            (
                400,
                json!({"message": "Token does not contain issuer"}),
                IssuerNotConfigured,
            ),
            (
                400,
                json!({"message": "Invalid token: expired"}),
                ExchangeRejected,
            ),
            (
                400,
                json!({"message": "Invalid token: The specified alg value is not allowed"}),
                UnsupportedAlgorithm,
            ),
            (
                400,
                json!({"message": "Could not find robot with specified username"}),
                RobotNotFound,
            ),
            (500, json!({}), UnsupportedAlgorithm),
            (
                500,
                json!({"message": "Unknown service key"}),
                ExchangeSkipped,
            ),
            (503, json!({}), ExchangeUnreachable),
            (302, json!({}), ExchangeRejected),
            (404, json!({}), ExchangeUnreadable),
            (200, json!({}), ExchangeUnreadable),
            (200, json!({"token": "opaque"}), ExchangeUnreadable),
            (200, json!({"token": "sent.jwt.x"}), ExchangeSkipped),
        ];
        for (status, body, expected) in cases {
            let error = answer(status, &body).unwrap_err();
            assert_eq!(error.code, expected, "{status} {body}");
            assert!(error.detail.contains("quay.test") && error.detail.contains("prod+argocd"));
        }
    }
}
