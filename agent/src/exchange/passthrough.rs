//! Passthrough: the identity token itself is the password.
//!
//! There is nothing to exchange, so that a registry which does not take the
//! token would be noticed by nobody before the first pull. Registries are
//! therefore logged in at, as `docker login` does: `GET /v2/` without a
//! credential, then what the challenge asks for (OCI distribution specification,
//! end-1). Git and chart servers have no such endpoint, and are not asked.

use crate::docker_config::BasicCredential;
use agent_net::challenge::{self, Challenge};
use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use shared::binding::Exchange as Parameters;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;
use url::Url;

use super::http::{Answer, Outlet};
use super::login::{self, Realm};
use super::{Credential, Exchange, trade};
use crate::identity::IdentityToken;
use crate::refresh::{Failure, Fresh};

/// Where nothing else is said. Registries that read the token ignore the name,
/// but want one (Zot).
const USERNAME: &str = "jwt";

/// Passthrough: the identity token itself is the password.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passthrough {
    /// The registry.
    pub host: RegistryHost,
    /// The account at the registry.
    pub username: Option<String>,
    /// Whether the distribution API is there.
    pub is_registry: bool,
}

impl Passthrough {
    pub(super) fn of(
        parameters: &Parameters,
        host: &RegistryHost,
        is_registry: bool,
    ) -> Result<Self, Named> {
        Ok(Self {
            host: host.clone(),
            username: trade::username(parameters)?,
            is_registry,
        })
    }

    async fn log_in(&self, outlet: &Outlet, basic: &BasicCredential) -> Result<(), Failure> {
        let url = format!("https://{}/v2/", self.host);
        let answer = outlet.send(outlet.request(Method::GET, &url)?).await?;
        match next(&answer, outlet).map_err(|error| answer.failure(error))? {
            Next::Nothing => Ok(()),
            Next::Basic => {
                let request = outlet
                    .request(Method::GET, &url)?
                    .basic_auth(&basic.username, Some(basic.secret.expose_secret()));
                let answer = outlet.send(request).await?;
                judge(&answer, outlet).map_err(|error| answer.failure(error))
            }
            Next::Bearer(realm) => {
                let credential = Credential::Basic(basic.clone());
                login::log_in(outlet, &realm, &credential, Code::AudienceMismatch).await
            }
        }
    }
}

impl Exchange for Passthrough {
    fn upstream(&self) -> String {
        trade::upstream(None, &self.host)
    }

    async fn exchange(
        &self,
        outlet: &Outlet,
        identity: &IdentityToken,
    ) -> Result<Fresh<Credential>, Failure> {
        let username = self.username.as_deref().unwrap_or(USERNAME);
        let basic = BasicCredential {
            username: username.to_owned(),
            secret: identity.token.clone(),
        };
        if self.is_registry {
            self.log_in(outlet, &basic).await?;
        }
        Ok(Fresh {
            credential: Credential::Basic(basic),
            expires_at: identity.expires_at,
        })
    }
}

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    Basic,
    Bearer(Realm),
}

/// What follows from its answer to nobody.
fn next(answer: &Answer, outlet: &impl std::fmt::Display) -> Result<Next, Named> {
    match answer.status {
        StatusCode::OK => return Ok(Next::Nothing),
        StatusCode::UNAUTHORIZED => {}
        _ => return Err(unexpected(answer, outlet)),
    }
    let lines = answer.headers.get_all(WWW_AUTHENTICATE).iter();
    let challenge = challenge::parse(lines.map(HeaderValue::as_bytes))
        .map_err(|error| Named::new(error.code, format!("{outlet}: {}", error.detail)))?;
    let (realm, service) = match challenge {
        Challenge::Basic => return Ok(Next::Basic),
        Challenge::Bearer { realm, service, .. } => (realm, service),
    };
    let missing =
        |reason: &str| Named::new(Code::BearerRealmMissing, format!("{outlet}: {reason}"));
    let realm = realm.ok_or_else(|| missing("the challenge has no realm"))?;
    let url = Url::parse(&realm).map_err(|error| missing(&error.to_string()))?;
    if url.scheme() != "https" {
        return Err(missing("the realm is not https"));
    }
    Ok(Next::Bearer(Realm { url, service }))
}

/// What its answer to the token means.
fn judge(answer: &Answer, outlet: &impl std::fmt::Display) -> Result<(), Named> {
    match answer.status {
        StatusCode::OK => Ok(()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(named(Code::AudienceMismatch, answer, outlet))
        }
        _ => Err(unexpected(answer, outlet)),
    }
}

fn unexpected(answer: &Answer, outlet: &impl std::fmt::Display) -> Named {
    let code = answer.outage().unwrap_or(Code::ExchangeUnreadable);
    named(code, answer, outlet)
}

fn named(code: Code, answer: &Answer, outlet: &impl std::fmt::Display) -> Named {
    let (status, words) = (answer.status.as_u16(), answer.words());
    Named::new(
        code,
        format!("{outlet}: GET /v2/ answered with status {status}: {words}"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::exchange::http::answer_of;

    fn challenged(text: &str) -> Result<Next, Code> {
        let mut answer = answer_of(401, &json!({}));
        if let Ok(value) = HeaderValue::from_str(text) {
            answer.headers.insert(WWW_AUTHENTICATE, value);
        }
        next(&answer, &"registry r.test").map_err(|error| error.code)
    }

    #[test]
    fn the_challenge_says_what_is_shown_to_whom() {
        assert_eq!(challenged("Basic realm=\"zot\""), Ok(Next::Basic));
        let realm = |service: Option<&str>| {
            Ok(Next::Bearer(Realm {
                url: Url::parse("https://auth.test/token").unwrap(),
                service: service.map(Into::into),
            }))
        };
        let text = r#"Bearer realm="https://auth.test/token",service="zot",scope="x""#;
        assert_eq!(challenged(text), realm(Some("zot")));
        let text = r#"Bearer realm="https://auth.test/token""#;
        assert_eq!(challenged(text), realm(None));
        for text in [
            "Bearer service=\"zot\"",
            "Bearer realm=\"zot\"",
            "Bearer realm=\"/auth/token\"",
            "Bearer realm=\"http://auth.test/token\"",
            "Bearer realm=\"\"",
        ] {
            assert_eq!(challenged(text), Err(Code::BearerRealmMissing), "{text}");
        }
        for text in ["Digest realm=\"a\"", "Bearer realm=\"", ""] {
            assert_eq!(challenged(text), Err(Code::ChallengeUnreadable), "{text}");
        }
    }

    #[test]
    fn every_status_has_its_name() {
        use Code::*;
        for (status, to_nobody, to_the_token) in [
            (200, None, None),
            (204, Some(ExchangeUnreadable), Some(ExchangeUnreadable)),
            (302, Some(ExchangeUnreadable), Some(ExchangeUnreadable)),
            (401, Some(ChallengeUnreadable), Some(AudienceMismatch)),
            (403, Some(ExchangeUnreadable), Some(AudienceMismatch)),
            (404, Some(ExchangeUnreadable), Some(ExchangeUnreadable)),
            (429, Some(ExchangeThrottled), Some(ExchangeThrottled)),
            (503, Some(ExchangeUnreachable), Some(ExchangeUnreachable)),
        ] {
            let answer = answer_of(status, &json!({"message": "words"}));
            let code = |found: Option<Named>| found.map(|it| it.code);
            let outlet = "registry r.test";
            assert_eq!(code(next(&answer, &outlet).err()), to_nobody, "{status}");
            let judged = judge(&answer, &outlet).err();
            if let Some(error) = &judged {
                assert!(error.detail.ends_with(&format!("{status}: words")));
            }
            assert_eq!(code(judged), to_the_token, "{status}");
        }
    }

    proptest! {
        #[test]
        fn no_challenge_leads_to_a_realm_without_tls(text in "(Basic|Bearer) realm=\"[a-z:/.]{0,20}\"|\\PC*") {
            if let Ok(Next::Bearer(realm)) = challenged(&text) {
                prop_assert_eq!(realm.url.scheme(), "https");
            }
        }
    }
}
