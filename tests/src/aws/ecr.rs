//! `GetAuthorizationToken` of ECR and of ECR Public: awsJson1.1, in a role's session (API references of both).

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::account::{Role, Session};
use super::{Answered, Api, State};

/// What a target header must be.
const TARGETS: [&str; 2] = [
    "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
    "SpencerFrontendService.GetAuthorizationToken",
];

pub(super) fn answer(state: &State, api: Api, host: &str, headers: &HeaderMap) -> Answered {
    let bad = StatusCode::BAD_REQUEST;
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|it| it.to_str().ok())
            .unwrap_or_default()
    };
    let (target, service) = match api {
        Api::EcrPublic => (TARGETS[1], "ecr-public"),
        _ => (TARGETS[0], "ecr"),
    };
    if text("x-amz-target") != target {
        return (refuse(bad, "UnknownOperationException", ""), None);
    }
    let Some(scope) = Scope::read(text(AUTHORIZATION.as_str())) else {
        let message = "Request is missing Authentication Token";
        return (
            refuse(bad, "MissingAuthenticationTokenException", message),
            None,
        );
    };
    if scope.service != service || !host.contains(scope.region) {
        let message = format!(
            "Credential should be scoped to a valid region, not {}",
            scope.region
        );
        return (refuse(bad, "InvalidSignatureException", &message), None);
    }
    let session = state.account.session(scope.key_id);
    let Some(session) = session.filter(|it| it.token == text("x-amz-security-token")) else {
        let message = "The security token included in the request is invalid.";
        return (refuse(bad, "UnrecognizedClientException", message), None);
    };
    let caller = Some((session.role.clone(), session.name.clone()));
    if session.expires_at <= Timestamp::now() {
        let message = "The security token included in the request is expired";
        return (refuse(bad, "ExpiredTokenException", message), caller);
    }
    let allowed = |role: Role| match api {
        Api::EcrPublic => role.authorizes_public,
        _ => role.authorizes,
    };
    if !state.account.role(&session.role).is_some_and(allowed) {
        let message = format!(
            "User: {} is not authorized to perform: {service}:GetAuthorizationToken on resource: * because no \
             identity-based policy allows the {service}:GetAuthorizationToken action",
            user(&session.role, &session.name)
        );
        return (refuse(bad, "AccessDeniedException", &message), caller);
    }
    (
        json(StatusCode::OK, &authorization(state, api, &session)),
        caller,
    )
}

fn authorization(state: &State, api: Api, session: &Session) -> Value {
    let data = state
        .account
        .authorize(session)
        .map(|(password, expires_at)| {
            json!({
                "authorizationToken": STANDARD.encode(format!("AWS:{password}")),
                "expiresAt": expires_at.as_second(),
            })
        });
    match api {
        Api::EcrPublic => json!({ "authorizationData": data }),
        _ => json!({ "authorizationData": Vec::from_iter(data) }),
    }
}

/// A session as AWS' words name it.
pub(super) fn user(role: &str, session: &str) -> String {
    let role = role
        .replace(":iam:", ":sts:")
        .replace(":role/", ":assumed-role/");
    format!("{role}/{session}")
}

/// `AWS4-HMAC-SHA256 Credential=<key ID>/<date>/<region>/<service>/aws4_request, …`.
struct Scope<'a> {
    key_id: &'a str,
    region: &'a str,
    service: &'a str,
}

impl<'a> Scope<'a> {
    fn read(header: &'a str) -> Option<Self> {
        let (_, rest) = header.split_once("Credential=")?;
        let mut parts = rest.split(',').next()?.split('/');
        let (key_id, _date) = (parts.next()?, parts.next()?);
        let (region, service) = (parts.next()?, parts.next()?);
        Some(Self {
            key_id,
            region,
            service,
        })
    }
}

/// An error as both services answer it.
pub(super) fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    json(status, &json!({ "__type": code, "message": message }))
}

fn json(status: StatusCode, body: &Value) -> Response {
    (
        status,
        [(CONTENT_TYPE, "application/x-amz-json-1.1")],
        body.to_string(),
    )
        .into_response()
}
