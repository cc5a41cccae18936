//! What the stand-ins of the public clouds share.
//!
//! ```text
//!   assertion   identity tokens, verified against their issuer's keys
//!   front       the real registry behind a cloud's token realm
//!   journal     who was asked, and answers that a test prescribes
//! ```

pub(crate) mod assertion;
mod front;
mod journal;

use anyhow::{Context as _, Result};
use aws_lc_rs::rand;
use axum::extract::{FromRequest, Request as HttpRequest};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use url::form_urlencoded;

pub(crate) use front::{Front, LIFE, login};
pub(crate) use journal::Journal;
pub use journal::{Prescribed, Request};

/// Names and values of a form or a query.
pub(crate) type Fields = Vec<(String, String)>;

/// The body of a request as a form.
pub(crate) struct Form(pub(crate) Fields);

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = StatusCode;

    async fn from_request(request: HttpRequest, state: &S) -> Result<Self, StatusCode> {
        let media_type = request.headers().get(CONTENT_TYPE);
        if media_type.is_none_or(|it| it != "application/x-www-form-urlencoded") {
            return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let body = axum::body::Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| rejection.status())?;
        Ok(Self(form_urlencoded::parse(&body).into_owned().collect()))
    }
}

/// The value of a form's field, or of a query's.
pub(crate) fn field<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields
        .iter()
        .find(|(key, _)| key == name)
        .map_or("", |(_, value)| value)
}

/// A token that nobody can read anything from, as long as real ones are.
pub(crate) fn opaque(prefix: &str) -> Result<String> {
    let mut bytes = [0; 96];
    rand::fill(&mut bytes).context("no randomness")?;
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}
