//! The identity API's envelope: an HTTP request flows in, an
//! [`IdentityResponse`] or an [`ApiError`] flows out.
//!
//! Order matters: nothing is read on behalf of a caller whose own token has
//! not been accepted. Tokens appear in no log line and no error.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::rand;
use axum::{
    Json, Router,
    body::{self, Body},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use control_plane_core::settings::IssuerUrl;
use jiff::Timestamp;
use secrecy::SecretString;
use shared::{
    binding::CredentialKind,
    errors::{Code, Named},
    identity_api::{ApiError, IdentityRequest, IdentityResponse, PATH},
};
use tokio::sync::Semaphore;

use super::{
    authorize::{self, Grant, Policy},
    keys::Keyring,
    metrics::Metrics,
    reviewer::Reviewer,
    svid,
    token_request::Minter,
};

/// Two tokens and two names fit many times.
const BODY_LIMIT: usize = 64 * 1024;
/// Requests that are worked on at once; each makes four calls to the API
/// server, and for a service account's token four more.
const CONCURRENCY: usize = 32;
/// From the head of the request to the answer, waiting for a turn included.
const DEADLINE: Duration = Duration::from_secs(15);

/// What the identity API needs.
pub struct IdentityApi {
    /// Whom it serves.
    pub policy: Policy,
    /// The way to the API server.
    pub reviewer: Reviewer,
    /// Has service account tokens made.
    pub minter: Minter,
    /// The signing key.
    pub keyring: Keyring,
    /// The `iss` of the tokens.
    pub issuer: IssuerUrl,
    /// Life of a token.
    pub lifetime: Duration,
    /// Counts every answer.
    pub metrics: Metrics,
}

/// Serves the identity API.
pub fn router(api: IdentityApi) -> Router {
    let shell = Shell {
        api,
        turns: Semaphore::new(CONCURRENCY),
    };
    Router::new()
        .route(PATH, routing::post(serve))
        .with_state(Arc::new(shell))
}

struct Shell {
    api: IdentityApi,
    turns: Semaphore,
}

async fn serve(State(shell): State<Arc<Shell>>, request: Request) -> Response {
    let work = async {
        let _turn = shell.turns.acquire().await;
        shell.api.answer(request).await
    };
    let answer = tokio::time::timeout(DEADLINE, work)
        .await
        .unwrap_or_else(|_elapsed| {
            let seconds = DEADLINE.as_secs();
            Err(Named::new(
                Code::IssuerUnavailable,
                format!("no answer within {seconds} s"),
            ))
        });
    match answer {
        Ok(identity) => {
            shell.api.metrics.answered(None);
            ([(header::CACHE_CONTROL, "no-store")], Json(identity)).into_response()
        }
        Err(error) => {
            shell.api.metrics.answered(Some(error.code));
            tracing::warn!(code = %error.code, detail = error.detail, "refused an identity");
            refusal(&error)
        }
    }
}

fn refusal(error: &Named) -> Response {
    let body = ApiError {
        code: error.code.as_str().to_owned(),
        message: error.to_string(),
    };
    (status(error.code), Json(body)).into_response()
}

/// The HTTP status of a code. Whatever the Secret itself is to blame for is a
/// conflict: asking again does not help until it changes.
fn status(code: Code) -> StatusCode {
    match code {
        Code::BadRequest => StatusCode::BAD_REQUEST,
        Code::AgentTokenRejected => StatusCode::UNAUTHORIZED,
        Code::AgentNotAuthorized
        | Code::AgentTokenUnbound
        | Code::PodTokenRejected
        | Code::PodTokenUnbound
        | Code::NodeMismatch
        | Code::NotAConsumer => StatusCode::FORBIDDEN,
        Code::BindingNotFound | Code::ServiceAccountMissing => StatusCode::NOT_FOUND,
        Code::IssuerUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::CONFLICT,
    }
}

impl IdentityApi {
    async fn answer(&self, request: Request) -> Result<IdentityResponse, Named> {
        let (head, body) = request.into_parts();
        let agent_token = bearer(&head.headers)?;
        let asked = read(&head.headers, body).await?;
        let agent = authorize::agent(&self.reviewer.review(&agent_token).await?, &self.policy)?;
        let (namespace, name) = self.binding_name(&asked)?;
        let reviewed = self.reviewer.review(&asked.pod_token).await?;
        let consumer = authorize::consumer(&reviewed, &agent, namespace)?;
        let (pod, binding) = tokio::join!(
            self.reviewer.pod(namespace, &consumer),
            self.reviewer.binding(namespace, name),
        );
        let binding = binding?;
        let now = Timestamp::now();
        let grant = authorize::grant(&consumer, &pod?, name, &binding.spec, now)?;
        if let Some(lacks) = binding.lacks {
            return Err(lacks);
        }
        let identity = grant.identity();
        let (token, expires_at) = match identity.credential {
            CredentialKind::SpiffeJWT => self.sign(&grant, now)?,
            CredentialKind::ServiceAccountToken => {
                let minted = self.minter.mint(&grant, &binding.secret, self.lifetime);
                let minted = minted.await?;
                (minted.token, minted.expires_at)
            }
            kind @ CredentialKind::SpiffeCertificate => {
                let detail = format!("CredentialBinding {namespace}/{name}: {kind:?}");
                return Err(Named::new(Code::IdentityNotAvailable, detail));
            }
        };
        let subject = identity.subject.clone();
        tracing::info!(
            namespace,
            binding = name,
            subject,
            audience = identity.audience,
            node = agent.node_name(),
            pod = consumer.pod_name(),
            pod_uid = consumer.pod_uid(),
            %expires_at,
            "issued an identity"
        );
        Ok(IdentityResponse {
            token,
            subject,
            audience: identity.audience.clone(),
            expires_at,
        })
    }

    fn sign(&self, grant: &Grant, now: Timestamp) -> Result<(SecretString, Timestamp), Named> {
        let key = self.keyring.current();
        let svid = svid::issue(&key, &self.issuer, grant, self.lifetime, now, &token_id()?);
        let svid = svid.map_err(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "a token could not be signed");
            Named::new(Code::IssuerUnavailable, "signing")
        })?;
        Ok((svid.token, svid.expires_at))
    }

    /// The binding that is asked for, if its Secret may be read at all.
    fn binding_name<'a>(&self, asked: &'a IdentityRequest) -> Result<(&'a str, &'a str), Named> {
        let (namespace, name) = (asked.namespace.as_str(), asked.binding.as_str());
        // The name becomes a part of a URL.
        if !is_object_name(name) {
            return Err(Named::new(Code::BadRequest, "`binding` is no object name"));
        }
        if !self
            .policy
            .argocd_namespaces
            .iter()
            .any(|known| known == namespace)
        {
            let shown: String = namespace.chars().take(63).collect();
            return Err(Named::new(
                Code::BindingNotFound,
                format!("namespace `{}` is not served", shown.escape_debug()),
            ));
        }
        Ok((namespace, name))
    }
}

fn bearer(headers: &HeaderMap) -> Result<SecretString, Named> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
        .map(|(_, token)| SecretString::from(token))
        .ok_or_else(|| Named::new(Code::AgentTokenRejected, "there is no bearer token"))
}

async fn read(headers: &HeaderMap, body: Body) -> Result<IdentityRequest, Named> {
    let refuse = |reason: String| Named::new(Code::BadRequest, reason);
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        return Err(refuse(
            "the content type is not application/json".to_owned(),
        ));
    }
    let bytes = body::to_bytes(body, BODY_LIMIT)
        .await
        .map_err(|_incomplete| {
            refuse(format!(
                "the body is longer than {BODY_LIMIT} bytes or incomplete"
            ))
        })?;
    // serde's words may repeat a value, and a value may be a token.
    serde_json::from_slice(&bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        refuse(format!("the body is wrong at line {line}, column {column}"))
    })
}

/// A DNS-1123 subdomain, as every Secret's name is.
fn is_object_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 253
        && name.bytes().all(allowed)
        && ends(name.chars().next())
        && ends(name.chars().next_back())
        && !name.contains("..")
}

fn token_id() -> Result<String, Named> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes)
        .map_err(|_unspecified| Named::new(Code::IssuerUnavailable, "drawing a token id"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests;
