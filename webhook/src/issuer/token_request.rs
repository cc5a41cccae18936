//! Tokens of Kubernetes service accounts: a grant flows in, a token that the
//! API server made, or a named refusal, flows out.
//!
//! [`request`], [`refusal`] and [`accept`] decide; [`Minter`] asks the API
//! server. A token that this cluster's own API server accepts would be a way
//! into this cluster, so none is handed out: the API server itself is asked
//! about every token, and what it has called its own is not asked for again.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use control_plane_core::{
    derive::{meaning::Owner, object_name},
    identity::authorize::{Grant, ReviewedToken},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, api::PostParams, core::Status};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use shared::{
    binding::is_mintable,
    errors::{Code, Named},
};

use super::reviewer::{Reviewer, unavailable};

/// Kubernetes makes none of a shorter life.
const SHORTEST: Duration = Duration::from_secs(600);
/// Of the API server's words, what is repeated.
const LONGEST_WORDS: usize = 400;

/// A token that the API server made.
#[derive(Debug)]
pub struct Minted {
    /// The token in compact form.
    pub token: SecretString,
    /// Its `exp`.
    pub expires_at: Timestamp,
}

/// Has tokens of service accounts made.
pub struct Minter {
    client: Client,
    reviewer: Reviewer,
    /// Audiences that the API server has been seen to take for its own.
    api_server: Mutex<BTreeSet<String>>,
}

impl Minter {
    /// One that asks through `client`.
    pub fn new(client: Client, reviewer: Reviewer) -> Self {
        Self {
            client,
            reviewer,
            api_server: Mutex::default(),
        }
    }

    /// Has a token made for a grant, bound to the Secret of its binding.
    ///
    /// # Errors
    /// [`Code::ServiceAccountForbidden`], [`Code::ServiceAccountMissing`],
    /// [`Code::AudienceForbidden`], [`Code::TokenRequestRefused`],
    /// [`Code::BindingNotFound`] when the Secret has just gone,
    /// [`Code::IdentityMismatch`] when the API server made another token than
    /// was asked for, [`Code::IssuerUnavailable`].
    pub async fn mint(
        &self,
        grant: &Grant,
        secret: &Owner,
        lifetime: Duration,
    ) -> Result<Minted, Named> {
        let asked = request(grant, secret, lifetime)?;
        let audience = grant.identity().audience.as_str();
        if self.api_servers().contains(audience) {
            return Err(audience_forbidden(grant, secret));
        }
        let account = &grant.identity().service_account;
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), grant.namespace());
        let parameters = PostParams::default();
        let made = accounts.create_token_request(account, &parameters, &asked);
        let token = match made.await {
            Ok(made) => match made.status {
                Some(status) => SecretString::from(status.token),
                None => return Err(named(Code::IdentityMismatch, grant, secret, "no token")),
            },
            Err(kube::Error::Api(status)) => return Err(refusal(&status, grant, secret)),
            Err(error) => return Err(unavailable("TokenRequest", &error)),
        };
        let (ours, own) = tokio::try_join!(
            self.reviewer.review_for(&token, Some(audience)),
            self.reviewer.review_for(&token, None),
        )?;
        if own.authenticated {
            let mut known = self.api_servers();
            known.insert(audience.to_owned());
            known.extend(own.audiences);
            return Err(audience_forbidden(grant, secret));
        }
        let expires_at = accept(&token, &ours, grant, secret)?;
        Ok(Minted { token, expires_at })
    }

    fn api_servers(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        // Every write adds whole values, so a panic leaves it usable.
        self.api_server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to ask the API server for.
///
/// # Errors
/// [`Code::ServiceAccountForbidden`]: checked once more, next to the request.
pub fn request(grant: &Grant, secret: &Owner, lifetime: Duration) -> Result<TokenRequest, Named> {
    let identity = grant.identity();
    if !is_mintable(&identity.service_account) {
        return Err(named(Code::ServiceAccountForbidden, grant, secret, ""));
    }
    let seconds = lifetime.max(SHORTEST).as_secs();
    Ok(TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![identity.audience.clone()],
            // It ends with the Secret, wherever it is reviewed.
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Secret".to_owned()),
                name: Some(secret.name.clone()),
                uid: Some(secret.uid.clone()),
            }),
            expiration_seconds: i64::try_from(seconds).ok(),
        },
        ..TokenRequest::default()
    })
}

/// Why the API server made no token.
pub fn refusal(status: &Status, grant: &Grant, secret: &Owner) -> Named {
    let of = status.details.as_ref().map(|details| details.kind.as_str());
    let words: String = status.message.chars().take(LONGEST_WORDS).collect();
    let words = words.escape_debug().to_string();
    match status.code {
        // The Secret that the token would be bound to.
        404 if of == Some("secrets") => named(Code::BindingNotFound, grant, secret, ""),
        404 => named(Code::ServiceAccountMissing, grant, secret, ""),
        429 | 500.. => {
            tracing::error!(words, "the API server made no token");
            Named::new(Code::IssuerUnavailable, "TokenRequest")
        }
        _ => named(Code::TokenRequestRefused, grant, secret, &words),
    }
}

/// The expiry of a token, if it is the one that was asked for. The API server
/// vouches for its signature; that it does so for this audience also shows
/// that nothing else kept it from taking the token for itself.
///
/// # Errors
/// [`Code::TokenRequestRefused`] when the API server does not stand by it,
/// [`Code::IdentityMismatch`].
pub fn accept(
    token: &SecretString,
    reviewed: &ReviewedToken,
    grant: &Grant,
    secret: &Owner,
) -> Result<Timestamp, Named> {
    let identity = grant.identity();
    let (subject, audience) = (identity.subject.as_str(), identity.audience.as_str());
    let of_audience = reviewed.audiences.iter().any(|found| found == audience);
    if !reviewed.authenticated || !of_audience {
        let words: String = reviewed.words.chars().take(LONGEST_WORDS).collect();
        let words = format!("TokenReview: {}", words.escape_debug());
        return Err(named(Code::TokenRequestRefused, grant, secret, &words));
    }
    let mismatch = |what| named(Code::IdentityMismatch, grant, secret, what);
    let claims = claims(token).ok_or_else(|| mismatch("its claims cannot be read"))?;
    if reviewed.username != subject || claims.sub != subject {
        return Err(mismatch("another subject"));
    }
    if claims.aud.0 != [audience] {
        return Err(mismatch("another audience"));
    }
    Timestamp::from_second(claims.exp).map_err(|_out_of_range| mismatch("its expiry"))
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Audiences,
    exp: i64,
    jti: Option<String>,
}

/// One or several (RFC 7519 section 4.1.3).
#[derive(Deserialize)]
#[serde(from = "OneOrMany")]
struct Audiences(Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Audiences {
    fn from(found: OneOrMany) -> Self {
        match found {
            OneOrMany::One(audience) => Self(vec![audience]),
            OneOrMany::Many(audiences) => Self(audiences),
        }
    }
}

/// When a JWT says that it ends. No signature is checked.
pub(super) fn expiry(token: &SecretString) -> Option<Timestamp> {
    Timestamp::from_second(claims(token)?.exp).ok()
}

/// What tells a token from every other: its `jti`, and the `kid` of the key
/// that signed it. No signature is checked.
pub(super) fn ids(token: &SecretString) -> (Option<String>, Option<String>) {
    #[derive(Deserialize)]
    struct Header {
        kid: Option<String>,
    }
    let header = token.expose_secret().split('.').next();
    let header = header.and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let header: Option<Header> = header.and_then(|json| serde_json::from_slice(&json).ok());
    let jti = claims(token).and_then(|claims| claims.jti);
    (jti, header.and_then(|header| header.kid))
}

/// The claims of a JWT in compact form. No signature is checked.
fn claims(token: &SecretString) -> Option<Claims> {
    let mut parts = token.expose_secret().split('.');
    let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

fn audience_forbidden(grant: &Grant, secret: &Owner) -> Named {
    let what = format!("audience `{}`", grant.identity().audience.escape_debug());
    named(Code::AudienceForbidden, grant, secret, &what)
}

fn named(code: Code, grant: &Grant, secret: &Owner, what: &str) -> Named {
    let (namespace, account) = (grant.namespace(), &grant.identity().service_account);
    let object = object_name(namespace, &secret.name);
    let mut detail = format!("{object}: ServiceAccount {namespace}/{account}");
    if !what.is_empty() {
        detail.push_str(": ");
        detail.push_str(what);
    }
    Named::new(code, detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(claims: &str) -> SecretString {
        format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims)).into()
    }

    #[test]
    fn an_audience_may_be_one_or_a_list() {
        for (aud, expected) in [(r#""a""#, vec!["a"]), (r#"["a","b"]"#, vec!["a", "b"])] {
            let claims = claims(&token(&format!(r#"{{"sub":"s","aud":{aud},"exp":7}}"#)));
            let claims = claims.unwrap();
            assert_eq!((claims.sub.as_str(), claims.exp), ("s", 7));
            assert_eq!(claims.aud.0, expected);
        }
        assert!(claims(&token(r#"{"sub":"s","exp":7}"#)).is_none());
        assert!(claims(&token(r#"{"sub":"s","aud":"a"}"#)).is_none());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_fail(text in ".{0,60}", parts in r"[A-Za-z0-9_.=-]{0,60}") {
            for text in [text, parts] {
                let read = claims(&text.clone().into());
                prop_assert!(read.is_none(), "{text}");
            }
        }
    }
}
