//! The `WWW-Authenticate` header (RFC 9110 section 11.6.1) of a registry:
//! several challenges in one line or several, quoted strings with escapes.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
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
        realm: String,
        /// Name of the registry for the token endpoint.
        service: Option<String>,
        /// What the request needed.
        scope: Option<String>,
    },
}

/// The challenge to answer: Bearer where it is offered, else Basic.
///
/// # Errors
/// [`Code::ChallengeUnreadable`] when neither is offered, a Bearer challenge
/// has no realm, or a header is malformed or over 8 KiB.
pub fn parse(headers: &HeaderMap) -> Result<Challenge, Named> {
    let mut basic = false;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let text = value
            .to_str()
            .ok()
            .filter(|text| text.len() <= LONGEST)
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
                        realm: find("realm")?.ok_or_else(|| refuse("Bearer without realm"))?,
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
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn check(values: &[&str]) -> Result<Challenge, Named> {
        let mut headers = HeaderMap::new();
        for value in values {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.append(WWW_AUTHENTICATE, value);
            }
        }
        parse(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
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
            &["Bearer service=\"a\""],
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
    }
}
