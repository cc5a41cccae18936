//! What is left out and overridden in the headers that pass. Pure.

use http::HeaderMap;
use http::header::{
    AUTHORIZATION, CONNECTION, EXPECT, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};

/// RFC 9110 section 11.6.3.
const AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("authentication-info");

/// Removes what concerns one connection only (RFC 9110 section 7.6.1), with
/// everything that `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
}

/// Prepares a request for the bound host. `Authorization` becomes ours, none
/// where we have none yet, and stays only for requests without a credential of
/// ours (`pass_own`).
pub fn prepare(headers: &mut HeaderMap, authorization: Option<HeaderValue>, pass_own: bool) {
    strip_hop_by_hop(headers);
    // The client of the upstream connection writes its own.
    headers.remove(HOST);
    // It was answered when the body was first read.
    headers.remove(EXPECT);
    if !pass_own {
        headers.remove(AUTHORIZATION);
    }
    if let Some(mut authorization) = authorization {
        authorization.set_sensitive(true);
        headers.insert(AUTHORIZATION, authorization);
    }
}

/// Prepares an answer for the client: `hide` takes out what belongs to our
/// credential, so challenges, and sessions that it may have opened.
pub fn answer(headers: &mut HeaderMap, hide: bool) {
    strip_hop_by_hop(headers);
    if hide {
        for name in [WWW_AUTHENTICATE, SET_COOKIE, AUTHENTICATION_INFO] {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    name.parse::<HeaderName>().unwrap(),
                    value.parse::<HeaderValue>().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn ours_overrides_and_the_connections_own_stay_behind() {
        let mut given = headers(&[
            ("host", "quay.test"),
            ("authorization", "Basic inherited"),
            ("authorization", "Basic twice"),
            ("proxy-authorization", "Basic key"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("accept", "a"),
        ]);
        let mut without = given.clone();
        prepare(
            &mut given,
            Some(HeaderValue::from_static("Basic ours")),
            false,
        );
        assert_eq!(
            given,
            headers(&[("accept", "a"), ("authorization", "Basic ours")])
        );
        prepare(&mut without, None, false);
        assert_eq!(without, headers(&[("accept", "a")]));
    }

    #[test]
    fn a_request_outside_the_binding_keeps_its_own() {
        let mut given = headers(&[
            ("authorization", "Bearer anonymous"),
            ("proxy-authorization", "k"),
        ]);
        prepare(&mut given, None, true);
        assert_eq!(given, headers(&[("authorization", "Bearer anonymous")]));
    }

    #[test]
    fn challenges_are_hidden_where_they_are_ours() {
        let mut given = headers(&[
            ("www-authenticate", "Basic"),
            ("set-cookie", "session=1"),
            ("etag", "1"),
        ]);
        answer(&mut given, true);
        assert_eq!(given, headers(&[("etag", "1")]));
    }

    proptest! {
        #[test]
        fn the_key_never_passes(connection in "[ -~]{0,30}", pass_own: bool) {
            let mut given = headers(&[("proxy-authorization", "Basic key"), ("connection", &connection)]);
            prepare(&mut given, None, pass_own);
            prop_assert!(!given.contains_key(PROXY_AUTHORIZATION) && !given.contains_key(CONNECTION));
        }
    }
}
