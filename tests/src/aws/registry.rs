//! A private registry: who the password is of and what its role may do is decided here, the content is the real
//! registry's behind.

use axum::Json;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::json;
use shared::clouds::aws::EcrHost;

use super::ecr::user;
use super::{Answered, State};
use crate::relay::relay;

pub(super) async fn answer(
    state: &State,
    host: &str,
    place: &EcrHost,
    mut request: Request,
) -> Answered {
    let Some(text) = password(request.headers()) else {
        let challenge = format!("Basic realm=\"https://{host}/\",service=\"ecr.amazonaws.com\"");
        let refusal = (
            StatusCode::UNAUTHORIZED,
            [(WWW_AUTHENTICATE, challenge)],
            "Not Authorized\n",
        );
        return (refusal.into_response(), None);
    };
    let Some(password) = state.account.password(&text) else {
        return (denied("Your Authorization Token is invalid."), None);
    };
    let caller = Some((password.role.clone(), password.session.clone()));
    if password.expires_at <= Timestamp::now() {
        let message = "Your authorization token has expired. Reauthenticate and try again.";
        return (denied(message), caller);
    }
    if let Some(repository) = repository(request.uri().path()) {
        let role = state.account.role(&password.role);
        if !role.is_some_and(|role| role.may_use(&format!("{host}/{repository}"))) {
            let message = format!(
                "User: {} is not authorized to perform: ecr:BatchGetImage on resource: \
                 arn:aws:ecr:{}:{}:repository/{repository} because no identity-based policy allows the \
                 ecr:BatchGetImage action",
                user(&password.role, &password.session),
                place.region,
                place.account,
            );
            return (denied(&message), caller);
        }
    }
    let Some(registry) = &state.registry else {
        return (StatusCode::NOT_FOUND.into_response(), caller);
    };
    request.headers_mut().remove(AUTHORIZATION);
    (
        relay(&state.upstream, registry, host, request).await,
        caller,
    )
}

fn denied(message: &str) -> Response {
    let body = json!({ "errors": [{ "code": "DENIED", "message": message }] });
    (StatusCode::FORBIDDEN, Json(body)).into_response()
}

/// The password of `Basic AWS:<password>`.
fn password(headers: &HeaderMap) -> Option<String> {
    let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let decoded = STANDARD
        .decode(encoded)
        .ok()
        .filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let decoded = String::from_utf8(decoded).ok()?;
    decoded.strip_prefix("AWS:").map(str::to_owned)
}

/// `charts/app` of `/v2/charts/app/manifests/1.0.0`; `None` for `/v2/` itself.
fn repository(path: &str) -> Option<&str> {
    let path = path.strip_prefix("/v2/")?;
    ["/manifests/", "/blobs/", "/tags/", "/referrers/"]
        .into_iter()
        .filter_map(|part| path.rfind(part))
        .min()
        .map(|end| &path[..end])
        .or_else(|| Some(path).filter(|rest| !rest.is_empty()))
}
