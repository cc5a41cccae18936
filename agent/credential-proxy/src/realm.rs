//! A registry's token realm (distribution token authentication): a challenge
//! and a credential flow in, a registry token and its life flow out.

use std::time::Duration;

use agent_net::challenge;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use secrecy::SecretString;
use serde::Deserialize;
use shared::errors::{Code, Named};
use shared::proxy_view::{ProxyBinding, ProxyCredential};
use url::Url;
use zeroize::Zeroizing;

use crate::parse::target::Authority;
use crate::sync::Roots;
use crate::tokens::DEFAULT_LIFE;
use crate::upstream::{Reach, Upstream};
use crate::{Body, scope};

/// Largest answer that is read.
const LARGEST: usize = 1 << 20;
/// For reading it.
const READ: Duration = Duration::from_secs(20);

/// Where a token is asked for: the binding's own realm, else the one that the
/// registry announces, with the service and our scope. Pure.
///
/// # Errors
/// [`Code::BearerRealmMissing`] where there is none, [`Code::RealmRefused`] unless it is https, without user information, on the
/// target's own host and port or on a host that the binding allows.
pub fn locate(
    binding: &ProxyBinding,
    announced: Option<&str>,
    service: Option<&str>,
    repository: Option<&str>,
) -> Result<(Authority, Url), Named> {
    let refuse = |reason: &str| {
        let detail = format!("binding {}: {reason}", binding.name);
        Named::new(Code::RealmRefused, detail)
    };
    let (url, service) = match (&binding.realm, announced) {
        (Some(realm), _) => (realm.url.clone(), realm.service.as_deref().or(service)),
        (None, Some(announced)) => {
            let url = Url::parse(announced).map_err(|error| refuse(&error.to_string()))?;
            (url, service)
        }
        (None, None) => {
            let detail = format!("binding {}, host {}", binding.name, binding.target);
            return Err(Named::new(Code::BearerRealmMissing, detail));
        }
    };
    if url.scheme() != "https" {
        return Err(refuse("the realm is not https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("the realm has user information"));
    }
    let host = url.host_str().unwrap_or_default();
    let text = format!("{host}:{}", url.port().unwrap_or(443));
    let authority = Authority::parse(&text).map_err(|error| refuse(&error.detail))?;
    let port = url.port().unwrap_or(443);
    let allowed = Authority::from(&binding.target) == authority
        || binding.allowed_hosts.permission(host, port).is_some();
    if !allowed {
        return Err(refuse(&format!("the realm is on {authority}")));
    }
    let scope = repository.map(scope::pull);
    let url = challenge::token_url(url, service, scope.as_deref());
    Ok((authority, url))
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<Zeroizing<String>>,
    #[serde(default)]
    access_token: Option<Zeroizing<String>>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// Fetches a token.
///
/// # Errors
/// Those of [`Upstream::send`]; [`Code::RegistryRefused`] for a status that is
/// not 200 (redirects are not followed), [`Code::ExchangeSkipped`] where Quay
/// does not know who signed the password, [`Code::ExchangeUnreadable`] for an
/// answer without token, [`Code::ScopeEmpty`] for a token that does not let
/// anybody pull from the `repository`.
pub async fn fetch(
    upstream: &Upstream,
    roots: &Roots,
    binding: &ProxyBinding,
    credential: &ProxyCredential,
    (authority, url): (Authority, Url),
    repository: Option<&str>,
) -> Result<(SecretString, Duration), Named> {
    let named = |code, reason: String| {
        Named::new(
            code,
            format!("binding {}, realm on {authority}: {reason}", binding.name),
        )
    };
    let unreadable = |reason: String| named(Code::ExchangeUnreadable, reason);
    // A client certificate is for the bound host alone.
    let authorization = credential.authorization().ok_or_else(|| {
        named(
            Code::RegistryRefused,
            "it wants a password, and the binding has a certificate".into(),
        )
    })?;
    let mut authorization =
        HeaderValue::from_str(&authorization).map_err(|error| unreadable(error.to_string()))?;
    authorization.set_sensitive(true);
    let body: Body = Empty::new().map_err(|never| match never {}).boxed();
    let request = Request::get(url.as_str())
        .header(AUTHORIZATION, authorization)
        .header(ACCEPT, "application/json")
        .body(body)
        .map_err(|error| unreadable(error.to_string()))?;
    // A Secret's `insecure` counts for content only, unless the administrator
    // says otherwise for this host.
    let permission = binding
        .allowed_hosts
        .permission(&authority.host, authority.port);
    let reach = Reach {
        binding,
        target: &authority,
        own_roots: roots.get(&authority.host).map(Vec::as_slice),
        insecure: binding.insecure && permission.is_some_and(|it| it.insecure),
        certificate: None,
    };
    let response = upstream.send(reach, request).await?;
    let status = response.status();
    if !matches!(status, StatusCode::OK | StatusCode::INTERNAL_SERVER_ERROR) {
        return Err(named(Code::RegistryRefused, format!("status {status}")));
    }
    let read = Limited::new(response.into_body(), LARGEST).collect();
    let bytes = match tokio::time::timeout(READ, read).await {
        Ok(read) => read
            .map_err(|error| unreadable(error.to_string()))?
            .to_bytes(),
        Err(_elapsed) => return Err(unreadable("no answer in time".into())),
    };
    if status != StatusCode::OK {
        return Err(match says_unknown_key(&bytes) {
            true => named(
                Code::ExchangeSkipped,
                format!("status {status}: {UNKNOWN_KEY}"),
            ),
            false => named(Code::RegistryRefused, format!("status {status}")),
        });
    }
    // serde_json's words may repeat a token.
    let answer: Answer = serde_json::from_slice(&bytes)
        .map_err(|error| unreadable(format!("line {}, column {}", error.line(), error.column())))?;
    let token = answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()))
        .ok_or_else(|| unreadable("it has no token".into()))?;
    if let Some(repository) = repository.filter(|it| lacks_pull(&token, it)) {
        return Err(named(Code::ScopeEmpty, format!("repository {repository}")));
    }
    let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
    Ok((token.as_str().into(), life))
}

/// Quay's words for a password that is a JWT of somebody else, or from before it
/// changed its signing key.
const UNKNOWN_KEY: &str = "Unknown service key";

fn says_unknown_key(body: &[u8]) -> bool {
    let known = |window: &[u8]| window.eq_ignore_ascii_case(UNKNOWN_KEY.as_bytes());
    body.windows(UNKNOWN_KEY.len()).any(known)
}

/// Whether a token says of itself that it lets nobody pull from `repository`:
/// realms drop denied scopes without a word. What is no JWT, or has no list of
/// rights, is for the registry to judge (distribution, "Token Authentication
/// Implementation").
fn lacks_pull(token: &str, repository: &str) -> bool {
    let parts: Vec<&str> = token.split('.').collect();
    let [_, payload, _] = parts[..] else {
        return false;
    };
    let Ok(payload) = URL_SAFE_NO_PAD.decode(payload) else {
        return false;
    };
    let Ok(claims) = serde_json::from_slice::<serde_json::Value>(&Zeroizing::new(payload)) else {
        return false;
    };
    let pulls = |entry: &serde_json::Value| {
        let actions = entry["actions"].as_array();
        entry["name"] == repository
            && actions.is_some_and(|all| all.iter().any(|it| it == "pull" || it == "*"))
    };
    match claims.get("access") {
        Some(serde_json::Value::Null) => true,
        Some(serde_json::Value::Array(access)) => !access.iter().any(pulls),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::allow_list::AllowList;
    use shared::proxy_view::Realm;

    use super::*;
    use crate::authorize::tests::binding;

    fn ask(realm: &str) -> Result<String, Code> {
        let mut binding = binding("a", "a", "quay.test:8443", "a");
        binding.allowed_hosts = AllowList::parse("auth.test").unwrap();
        locate(&binding, Some(realm), Some("quay"), Some("a/b"))
            .map(|(_, url)| url.to_string())
            .map_err(|error| error.code)
    }

    #[test]
    fn the_realm_is_on_the_targets_host_or_an_allowed_one() {
        let query = "service=quay&scope=repository%3Aa%2Fb%3Apull";
        for (realm, expected) in [
            (
                "https://quay.test:8443/v2/auth",
                "https://quay.test:8443/v2/auth?",
            ),
            (
                "https://auth.test/token?account=x#y",
                "https://auth.test/token?account=x&",
            ),
            (
                "https://auth.test/?scope=repository:secret:push&service=x",
                "https://auth.test/?",
            ),
        ] {
            assert_eq!(ask(realm).unwrap(), format!("{expected}{query}"));
        }
        for realm in [
            "",
            "/v2/auth",
            "http://quay.test:8443/v2/auth",
            "https://quay.test/v2/auth",
            "https://evil.test/v2/auth",
            "https://quay.test:8443@evil.test/",
            "https://user@quay.test:8443/",
            "https://auth.test.evil.test/",
            "https://evil.test\\@auth.test/",
        ] {
            assert_eq!(ask(realm), Err(Code::RealmRefused), "{realm}");
        }
    }

    #[test]
    fn the_bindings_own_realm_comes_before_the_announced_one() {
        let ask = |allowed: &str, own_service: Option<&str>, announced, service| {
            let mut binding = binding("a", "a", "quay.test:8443", "a");
            binding.allowed_hosts = AllowList::parse(allowed).unwrap();
            binding.realm = Realm::parse("https://own.test/t", own_service.map(Into::into)).ok();
            locate(&binding, announced, service, None)
                .map(|(_, url)| url.to_string())
                .map_err(|error| error.code)
        };
        let announced = Some("https://quay.test:8443/v2/auth");
        for (own, announced, service, expected) in [
            (Some("own"), announced, Some("quay"), "?service=own"),
            (None, announced, Some("quay"), "?service=quay"),
            (None, None, None, ""),
        ] {
            let expected = Ok(format!("https://own.test/t{expected}"));
            assert_eq!(ask("own.test", own, announced, service), expected);
        }
        assert_eq!(ask("", None, announced, None), Err(Code::RealmRefused));

        let binding = binding("a", "a", "quay.test", "a");
        let error = locate(&binding, None, Some("quay"), None).unwrap_err();
        assert_eq!(error.code, Code::BearerRealmMissing);
    }

    #[test]
    fn a_token_that_grants_something_else_is_known_by_its_claims() {
        let token = |claims: &str| format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims));
        let grants = r#"{"type":"repository","name":"a/b","actions":["pull","push"]}"#;
        for (claims, lacks) in [
            (format!(r#"{{"access":[{grants}]}}"#), false),
            (grants_of("a/b", "*"), false),
            (grants_of("a/b", "push"), true),
            (grants_of("a/bc", "pull"), true),
            (r#"{"access":[]}"#.into(), true),
            (r#"{"access":null}"#.into(), true),
            (r#"{"access":"all"}"#.into(), false),
            (r#"{"scope":"x"}"#.into(), false),
            ("nonsense".into(), false),
        ] {
            assert_eq!(lacks_pull(&token(&claims), "a/b"), lacks, "{claims}");
        }
        for opaque in ["", "opaque", "a.b", "a.b.c", "a.b.c.d"] {
            assert!(!lacks_pull(opaque, "a/b"), "{opaque}");
        }
    }

    fn grants_of(name: &str, action: &str) -> String {
        format!(r#"{{"access":[{{"type":"repository","name":"{name}","actions":["{action}"]}}]}}"#)
    }

    proptest! {
        #[test]
        fn no_token_panics(token in "\\PC*|([A-Za-z0-9_-]{0,20}\\.){2}[a-z]{0,3}", claims in "\\PC*|[\\[\\]{}\":acces,0]{0,30}") {
            let _ = lacks_pull(&token, "a/b");
            let token = format!("a.{}.c", URL_SAFE_NO_PAD.encode(&claims));
            let _ = lacks_pull(&token, "a/b");
        }

        #[test]
        fn no_realm_leads_elsewhere(realm in "https://[a-z.@:\\\\/?#\\[\\]%0-9]{0,30}|\\PC*") {
            if let Ok(url) = ask(&realm) {
                let url = Url::parse(&url).unwrap();
                prop_assert!(["quay.test", "auth.test"].contains(&url.host_str().unwrap()));
            }
        }
    }
}
