//! An upstream's answer: read whole within limits, and what may be told of it.

use std::error::Error as StdError;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use shared::errors::{Code, Named};
use zeroize::Zeroizing;

use crate::refresh::Failure;

/// Largest answer that is read.
const LARGEST: usize = 1 << 20;
/// The upstream's words are cut here.
const LONGEST_WORDS: usize = 300;

/// An upstream's answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Headers; of no use to a log, since they may hold a credential.
    pub headers: HeaderMap,
    /// The body; may hold a credential.
    pub body: Zeroizing<Vec<u8>>,
}

/// The fields that registries and token services use for their errors.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    error: Option<serde_json::Value>,
    error_description: Option<String>,
    message: Option<String>,
    detail: Option<String>,
    errors: Vec<ErrorEntry>,
}

/// OCI distribution specification, "error codes"; and the object that Google's
/// services have in `error`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ErrorEntry {
    #[serde(deserialize_with = "text_or_none")]
    code: Option<String>,
    status: Option<String>,
    message: Option<String>,
}

fn text_or_none<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let value = serde_json::Value::deserialize(input)?;
    Ok(value.as_str().map(str::to_owned))
}

impl Answer {
    pub(super) async fn read(response: Response) -> Result<Self, String> {
        Ok(Self {
            status: response.status(),
            headers: response.headers().clone(),
            body: read_body(response, LARGEST).await?,
        })
    }

    /// The body as JSON; `None` for anything else. serde's own words may
    /// repeat what is in it.
    pub fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The upstream's own words: known fields only, shortened, and without
    /// anything that looks like a token.
    pub fn words(&self) -> String {
        let body: ErrorBody = self.json().unwrap_or_default();
        let error = body.error.as_ref();
        let object: Option<ErrorEntry> =
            error.and_then(|error| serde_json::from_value(error.clone()).ok());
        let mut fields = vec![error.and_then(serde_json::Value::as_str).map(str::to_owned)];
        for entry in object.into_iter().chain(body.errors) {
            fields.extend([entry.code, entry.status, entry.message]);
        }
        fields.extend([body.error_description, body.message, body.detail]);
        redact(&fields.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }

    /// Which error a status means that says nothing of the request: the
    /// upstream is not well, or wants to be left alone.
    pub fn outage(&self) -> Option<Code> {
        match self.status.as_u16() {
            429 => Some(Code::ExchangeThrottled),
            408 | 500 | 502..=504 => Some(Code::ExchangeUnreachable),
            _ => None,
        }
    }

    /// How long the upstream wants to be left alone (RFC 9110, 10.2.3), by
    /// seconds or by a date.
    pub fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        Duration::try_from(at.duration_since(Timestamp::now())).ok()
    }

    /// The failure of this answer, by its name.
    pub fn failure(&self, error: Named) -> Failure {
        Failure {
            error,
            retry_after: self.retry_after(),
        }
    }
}

/// Words of another program: shortened, and without anything that looks like a
/// token.
pub(crate) fn redact(words: &str) -> String {
    let like_a_token = |word: &str| {
        word.contains("eyJ")
            || word
                .split(['/', '.', ':', '-'])
                .any(|run| run.len() >= 40 && run.chars().any(|c| c.is_ascii_digit()))
    };
    let words: Vec<&str> = words
        .split_whitespace()
        .map(|word| {
            if like_a_token(word) {
                "[redacted]"
            } else {
                word
            }
        })
        .collect();
    let words: String = words
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST_WORDS)
        .collect();
    words
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// The reason, without any content.
pub(crate) async fn read_body(
    mut response: Response,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut body = Zeroizing::new(Vec::with_capacity(limit.min(16 << 10)));
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| causes(&error.without_url()))?
    {
        if body.len() + chunk.len() > limit {
            return Err(format!("the answer has more than {limit} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An error and its causes, each once.
pub(crate) fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// An answer with this status and JSON.
    pub(crate) fn answer(status: u16, body: &Value) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Zeroizing::new(body.to_string().into_bytes()),
        }
    }

    #[test]
    fn the_upstreams_words_are_known_fields_without_tokens() {
        for (body, expected) in [
            (
                json!({"message": "issuer https://a.test/long-path not configured for this robot", "token": "x"}),
                "issuer https://a.test/long-path not configured for this robot",
            ),
            (
                json!({"error": "Invalid token: eyJhbGciOiJub25lIn0.e30. is bad"}),
                "Invalid token: [redacted] is bad",
            ),
            (
                json!({"error": "invalid_grant", "error_description": "Mapped attribute too long"}),
                "invalid_grant; Mapped attribute too long",
            ),
            (
                json!({"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "denied"}}),
                "PERMISSION_DENIED; denied",
            ),
            (
                json!({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required", "detail": {"a": "secret"}}]}),
                "UNAUTHORIZED; authentication required",
            ),
            (json!("<html>secret</html>"), ""),
            (json!({"error": {"secret": 1}}), ""),
        ] {
            assert_eq!(answer(400, &body).words(), expected);
        }
    }

    #[test]
    fn a_pause_is_told_in_seconds_or_by_a_date() {
        let after = |text: &str| {
            let mut answer = answer(429, &json!({}));
            answer.headers.insert(RETRY_AFTER, text.parse().unwrap());
            answer.retry_after()
        };
        assert_eq!(after("17"), Some(Duration::from_secs(17)));
        assert!(after("Fri, 31 Dec 2100 23:59:59 GMT") > Some(Duration::from_secs(3600)));
        assert_eq!(after("Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!(after("-1"), None);
        assert_eq!(after("soon"), None);
    }
}
