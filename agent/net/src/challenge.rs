//! How a registry asks for authentication, and where a token is asked for then.
//! The lines of `WWW-Authenticate` (RFC 9110 section 11.6.1) flow in: several
//! challenges in one line or several, quoted strings with escapes. PURE.

use url::Url;

use shared::errors::{Code, Named};

/// More than this in one header is no registry's challenge.
const LONGEST: usize = 8 << 10;

/// What a server asks for, of the two schemes that registries use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// User name and password.
    Basic,
    /// A token from a realm (distribution token authentication).
    Bearer {
        /// URL of the token endpoint, as written.
        realm: Option<String>,
        /// Name of the registry for the token endpoint.
        service: Option<String>,
        /// What the request needed.
        scope: Option<String>,
    },
}

/// The challenge to answer: Bearer where it is offered, else Basic.
///
/// # Errors
/// [`Code::ChallengeUnreadable`] when neither is offered, or a line is malformed
/// or over 8 KiB.
pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Result<Challenge, Named> {
    let mut basic = false;
    for line in lines {
        let is_text = |b: &u8| *b == b'\t' || matches!(b, b' '..=b'~');
        let text = std::str::from_utf8(line)
            .ok()
            .filter(|_| line.len() <= LONGEST && line.iter().all(is_text))
            .ok_or_else(|| refuse("not text, or too long"))?;
        for (scheme, parameters) in challenges(text)? {
            let find = |name: &str| -> Result<Option<String>, Named> {
                let mut values = parameters.iter().filter(|(key, _)| key == name);
                match (values.next(), values.next()) {
                    (_, Some(_)) => Err(refuse("a parameter is there twice")),
                    (found, None) => Ok(found.map(|(_, value)| value.clone())),
                }
            };
            match scheme.as_str() {
                "basic" => basic = true,
                "bearer" => {
                    return Ok(Challenge::Bearer {
                        realm: find("realm")?,
                        service: find("service")?,
                        scope: find("scope")?,
                    });
                }
                _ => {}
            }
        }
    }
    if basic {
        Ok(Challenge::Basic)
    } else {
        Err(refuse("neither Basic nor Bearer"))
    }
}

/// Where a realm gives a token: its URL with this service and this scope, whatever
/// of the two the URL itself carries (distribution's token authentication).
pub fn token_url(mut realm: Url, service: Option<&str>, scope: Option<&str>) -> Url {
    realm.set_fragment(None);
    let kept: Vec<(String, String)> = realm
        .query_pairs()
        .filter(|(name, _)| !matches!(&**name, "scope" | "service"))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let ours = [("service", service), ("scope", scope)];
    let ours = ours
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    let query: Vec<_> = kept.into_iter().chain(ours).collect();
    realm.set_query(None);
    if !query.is_empty() {
        realm.query_pairs_mut().extend_pairs(query);
    }
    realm
}

type Parsed = (String, Vec<(String, String)>);

fn challenges(text: &str) -> Result<Vec<Parsed>, Named> {
    let mut cursor = Cursor { rest: text };
    let mut found: Vec<Parsed> = Vec::new();
    loop {
        cursor.skip(|c| matches!(c, ' ' | '\t' | ','));
        if cursor.rest.is_empty() {
            return Ok(found);
        }
        let word = cursor.token()?;
        cursor.blanks();
        if let Some(rest) = cursor.rest.strip_prefix('=')
            && !rest.starts_with('=')
        {
            cursor.rest = rest;
            cursor.blanks();
            let value = cursor.value()?;
            let (_, parameters) = found
                .last_mut()
                .ok_or_else(|| refuse("a parameter without scheme"))?;
            parameters.push((word, value));
            cursor.blanks();
            if !cursor.rest.is_empty() && !cursor.rest.starts_with(',') {
                return Err(refuse("parameters without a comma between them"));
            }
        } else {
            found.push((word, Vec::new()));
            cursor.token68();
        }
    }
}

struct Cursor<'a> {
    rest: &'a str,
}

impl Cursor<'_> {
    fn skip(&mut self, skipped: impl Fn(char) -> bool) {
        self.rest = self.rest.trim_start_matches(skipped);
    }

    fn blanks(&mut self) {
        self.skip(|c| matches!(c, ' ' | '\t'));
    }

    /// A token of RFC 9110 in lower case.
    fn token(&mut self) -> Result<String, Named> {
        let of_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let end = self.rest.find(|c| !of_token(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        if token.is_empty() {
            return Err(refuse("not a token"));
        }
        self.rest = rest;
        Ok(token.to_ascii_lowercase())
    }

    /// Skips data in place of parameters, such as Negotiate's. What is followed
    /// by `=` and a value is a parameter and stays.
    fn token68(&mut self) {
        let of_token68 = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
        let end = self
            .rest
            .find(|c| !of_token68(c))
            .unwrap_or(self.rest.len());
        let after = self.rest[end..].trim_start_matches('=');
        let after = after.trim_start_matches([' ', '\t']);
        let data = end > 0 && (after.is_empty() || after.starts_with(','));
        if data && !self.rest[..end].is_empty() {
            self.rest = after;
        }
    }

    fn value(&mut self) -> Result<String, Named> {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let end = self
                .rest
                .find([',', ' ', '\t', '"'])
                .unwrap_or(self.rest.len());
            let (value, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Ok(value.to_owned());
        };
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.rest = &quoted[at + 1..];
                    return Ok(value);
                }
                '\\' => match characters.next() {
                    Some((_, escaped)) => value.push(escaped),
                    None => break,
                },
                c => value.push(c),
            }
        }
        Err(refuse("a quoted string has no end"))
    }
}

fn refuse(reason: &str) -> Named {
    Named::new(Code::ChallengeUnreadable, reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(values: &[&str]) -> Result<Challenge, Named> {
        parse(values.iter().map(|value| value.as_bytes()))
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: Some(realm.into()),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn what_registries_send() {
        let quay = r#"Bearer realm="https://quay.test/v2/auth",service="quay.test",scope="repository:a/b:pull,push""#;
        let expected = bearer(
            "https://quay.test/v2/auth",
            Some("quay.test"),
            Some("repository:a/b:pull,push"),
        );
        assert_eq!(check(&[quay]).unwrap(), expected);
        assert_eq!(check(&["Basic realm=\"x\"", quay]).unwrap(), expected);
        assert_eq!(
            check(&[&format!("Negotiate a87421==, Basic realm=\"a, b\", {quay}")]).unwrap(),
            expected
        );
        assert_eq!(check(&["basic"]).unwrap(), Challenge::Basic);
        assert_eq!(
            check(&[r#"BEARER Realm = "h\"t" , service=s"#]).unwrap(),
            bearer("h\"t", Some("s"), None)
        );
    }

    #[test]
    fn hostile_input_is_refused() {
        let long = format!("Bearer realm=\"{}\"", "a".repeat(LONGEST));
        for values in [
            &[][..],
            &["Digest realm=\"a\""],
            &["Basic realm=\"\u{e9}\""],
            &["Basic\nBasic"],
            &["Bearer realm=\"a"],
            &["Bearer realm=\"a\\"],
            &["Bearer realm=\"a\" service=\"b\""],
            &["Bearer realm=\"a\", realm=\"b\""],
            &["realm=\"a\""],
            &["\"\""],
            &[&long],
        ] {
            let error = check(values).unwrap_err();
            assert_eq!(error.code, Code::ChallengeUnreadable, "{values:?}");
        }
    }

    #[test]
    fn a_realm_may_be_missing() {
        let expected = Challenge::Bearer {
            realm: None,
            service: Some("a".into()),
            scope: None,
        };
        assert_eq!(check(&["Bearer service=\"a\""]).unwrap(), expected);
    }

    #[test]
    fn a_token_is_asked_for_with_our_service_and_scope_alone() {
        let ask = |realm: &str, service, scope| {
            token_url(Url::parse(realm).unwrap(), service, scope).to_string()
        };
        let carried = "https://a.test/t?account=x&scope=repository:secret:push&service=y#z";
        assert_eq!(
            ask(carried, Some("r:5000"), Some("repository:a/b:pull")),
            "https://a.test/t?account=x&service=r%3A5000&scope=repository%3Aa%2Fb%3Apull"
        );
        assert_eq!(ask(carried, None, None), "https://a.test/t?account=x");
        assert_eq!(
            ask("https://a.test/t?scope=b", None, None),
            "https://a.test/t"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics_or_hangs(text in "\\PC*|[a-zA-Z =,\"\\\\/]{0,60}") {
            let _ = check(&[&text]);
        }

        #[test]
        fn quoted_strings_round_trip(realm in "[ -~]{0,30}", scope in "[ -~]{0,30}") {
            let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let text = format!("Bearer scope=\"{}\",realm=\"{}\"", quote(&scope), quote(&realm));
            prop_assert_eq!(check(&[&text]).unwrap(), bearer(&realm, None, Some(&scope)));
        }

        #[test]
        fn a_token_url_has_one_scope_and_stays_where_it_is(query in "[a-z&=%#?]{0,20}", scope in "\\PC{0,20}") {
            let realm = Url::parse(&format!("https://a.test/t?scope=x&{query}")).unwrap();
            let url = token_url(realm, Some("s"), Some(&scope));
            prop_assert!(url.as_str().starts_with("https://a.test/t?"));
            let scopes: Vec<_> = url.query_pairs().filter(|(name, _)| name == "scope").collect();
            prop_assert_eq!(scopes, [("scope".into(), scope.as_str().into())]);
        }
    }
}
