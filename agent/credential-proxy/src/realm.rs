//! A registry's token realm (distribution token authentication): a challenge
//! and a credential flow in, a registry token and its life flow out.

use std::time::Duration;

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

/// Where a token is asked for: `realm` with the service and our scope. Pure.
///
/// # Errors
/// [`Code::RealmRefused`] unless it is https, without user information, on the
/// target's own host and port or on a host that the binding allows.
pub fn locate(
    binding: &ProxyBinding,
    realm: &str,
    service: Option<&str>,
    repository: Option<&str>,
) -> Result<(Authority, Url), Named> {
    let refuse = |reason: &str| {
        let detail = format!("binding {}: {reason}", binding.name);
        Named::new(Code::RealmRefused, detail)
    };
    let mut url = Url::parse(realm).map_err(|error| refuse(&error.to_string()))?;
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
    url.set_fragment(None);
    // The scope is ours alone, whatever the realm's URL carries.
    let kept: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| !matches!(&**name, "scope" | "service"))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    url.set_query(None);
    {
        let mut query = url.query_pairs_mut();
        query.extend_pairs(kept);
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        if let Some(repository) = repository {
            query.append_pair("scope", &scope::pull(repository));
        }
    }
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
/// not 200 (redirects are not followed), [`Code::ExchangeUnreadable`] for an
/// answer without token.
pub async fn fetch(
    upstream: &Upstream,
    roots: &Roots,
    binding: &ProxyBinding,
    credential: &ProxyCredential,
    (authority, url): (Authority, Url),
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
    let mut basic =
        HeaderValue::from_str(&authorization).map_err(|error| unreadable(error.to_string()))?;
    basic.set_sensitive(true);
    let body: Body = Empty::new().map_err(|never| match never {}).boxed();
    let request = Request::get(url.as_str())
        .header(AUTHORIZATION, basic)
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
    if status != StatusCode::OK {
        return Err(named(Code::RegistryRefused, format!("status {status}")));
    }
    let read = Limited::new(response.into_body(), LARGEST).collect();
    let bytes = match tokio::time::timeout(READ, read).await {
        Ok(read) => read
            .map_err(|error| unreadable(error.to_string()))?
            .to_bytes(),
        Err(_elapsed) => return Err(unreadable("no answer in time".into())),
    };
    // serde_json's words may repeat a token.
    let answer: Answer = serde_json::from_slice(&bytes)
        .map_err(|error| unreadable(format!("line {}, column {}", error.line(), error.column())))?;
    let token = answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()))
        .ok_or_else(|| unreadable("it has no token".into()))?;
    let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
    Ok((token.as_str().into(), life))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::allow_list::AllowList;

    use super::*;
    use crate::authorize::tests::binding;

    fn ask(realm: &str) -> Result<String, Code> {
        let mut binding = binding("a", "a", "quay.test:8443", "a");
        binding.allowed_hosts = AllowList::parse("auth.test").unwrap();
        locate(&binding, realm, Some("quay"), Some("a/b"))
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

    proptest! {
        #[test]
        fn no_realm_leads_elsewhere(realm in "https://[a-z.@:\\\\/?#\\[\\]%0-9]{0,30}|\\PC*") {
            if let Ok(url) = ask(&realm) {
                let url = Url::parse(&url).unwrap();
                prop_assert!(["quay.test", "auth.test"].contains(&url.host_str().unwrap()));
            }
        }
    }
}
