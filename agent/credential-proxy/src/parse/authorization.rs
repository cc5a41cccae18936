//! The `Proxy-Authorization` header: `Basic base64(binding:key)` (RFC 7617).

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;
use shared::errors::{Code, Named};
use shared::proxy_view::KeyHash;
use zeroize::Zeroizing;

/// Which binding a request names, and the hash of the key that it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// Name of the binding.
    pub binding: String,
    /// The key itself is forgotten at once.
    pub key: KeyHash,
}

/// Reads the header.
///
/// # Errors
/// [`Code::ProxyAuthorizationInvalid`] when it is absent, there twice, or not
/// of this form.
pub fn parse(headers: &HeaderMap) -> Result<Presented, Named> {
    let refuse = |reason: &str| Named::new(Code::ProxyAuthorizationInvalid, reason);
    let mut values = headers.get_all(PROXY_AUTHORIZATION).iter();
    let value = values.next().ok_or_else(|| refuse("there is none"))?;
    if values.next().is_some() {
        return Err(refuse("there are several"));
    }
    let encoded = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .map(|(_, encoded)| encoded.trim())
        .ok_or_else(|| refuse("not Basic"))?;
    let pair = STANDARD.decode(encoded).map(Zeroizing::new).ok();
    let (binding, key) = pair
        .as_ref()
        .and_then(|pair| std::str::from_utf8(pair).ok())
        .and_then(|pair| pair.split_once(':'))
        .filter(|(binding, key)| !binding.is_empty() && !key.is_empty())
        .ok_or_else(|| refuse("not base64 of binding:key"))?;
    if binding.len() > 253 || binding.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(refuse("not the name of a Secret"));
    }
    Ok(Presented {
        binding: binding.to_owned(),
        key: KeyHash::of(key.as_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn check(values: &[&[u8]]) -> Result<Presented, Named> {
        let mut headers = HeaderMap::new();
        for value in values {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(PROXY_AUTHORIZATION, value);
            }
        }
        parse(&headers)
    }

    #[test]
    fn names_the_binding_and_hashes_the_key() {
        let presented = check(&[b"basic cHJvZDprOmV5"]).unwrap();
        assert_eq!(presented.binding, "prod");
        assert_eq!(presented.key, KeyHash::of(b"k:ey"));
    }

    #[test]
    fn anything_else_is_refused_without_repeating_it() {
        for values in [
            &[][..],
            &[&b"Bearer aHVudGVyMg=="[..]],
            &[b"Basic"],
            &[b"Basic !"],
            &[b"Basic aHVudGVyMg=="],
            &[b"Basic Omh1bnRlcjI="],
            &[b"Basic cHJvZDo="],
            &[b"Basic cHJvZDprZXk=", b"Basic cHJvZDprZXk="],
        ] {
            let error = check(values).unwrap_err();
            assert_eq!(error.code, Code::ProxyAuthorizationInvalid);
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(value in any::<Vec<u8>>()) {
            let _ = check(&[&value]);
        }

        #[test]
        fn round_trip(name in "[a-z0-9.-]{1,40}", key in "\\PC{1,40}") {
            let value = format!("Basic {}", STANDARD.encode(format!("{name}:{key}")));
            let presented = check(&[value.as_bytes()]).unwrap();
            prop_assert_eq!(presented, Presented { binding: name, key: KeyHash::of(key.as_bytes()) });
        }
    }
}
