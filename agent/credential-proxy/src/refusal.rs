//! Named errors as HTTP answers. The code is in the reason phrase as well,
//! which is all that Go's and git's clients show of a refused CONNECT.

use http::header::{CONTENT_TYPE, HeaderValue, PROXY_AUTHENTICATE, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::ext::ReasonPhrase;
use shared::errors::{Code, Named};

use crate::Body;

/// The status for an error.
pub fn status(code: Code) -> StatusCode {
    match code {
        Code::ProxyAuthorizationInvalid
        | Code::ProxyBindingUnknown
        | Code::ProxyKeyRejected
        | Code::ProxyHostMismatch => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
        Code::ProxyRequestRefused => StatusCode::BAD_REQUEST,
        Code::CredentialMissing | Code::CredentialExpired => StatusCode::SERVICE_UNAVAILABLE,
        Code::RegistryRefused
        | Code::ScopeEmpty
        | Code::AddressRefused
        | Code::PlainHttpRefused => StatusCode::FORBIDDEN,
        _ => StatusCode::BAD_GATEWAY,
    }
}

/// The answer for an error: its text, which holds no credential.
pub fn answer(error: &Named) -> Response<Body> {
    let text = format!("{error}\n");
    let body = Full::from(text).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    let status = status(error.code);
    *response.status_mut() = status;
    let phrase = format!(
        "{} ({})",
        status.canonical_reason().unwrap_or_default(),
        error.code
    );
    if let Ok(phrase) = ReasonPhrase::try_from(phrase) {
        response.extensions_mut().insert(phrase);
    }
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        let challenge = HeaderValue::from_static("Basic realm=\"credential-proxy\"");
        headers.insert(PROXY_AUTHENTICATE, challenge);
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}
