//! The identity API's envelope: an HTTP request flows in, identities or an
//! [`ApiError`] flow out.
//!
//! ```text
//! request ─▶ a place of its address ─▶ body ─▶ who calls ─▶ a turn of its node ─▶ issue
//! ```
//!
//! Whoever may connect may fill what is before the turns, and only its own
//! share of it: a turn is for an agent that is known. Order matters, too:
//! nothing is read on behalf of a caller whose own token has not been accepted.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing,
};
use control_plane_core::identity::authorize::Agent;
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use shared::{
    errors::{Code, Named},
    identity_api::{Answer, ApiError, BATCH_PATH, IdentitiesResponse, PATH},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{callers::Callers, issue::IdentityApi};
use crate::{
    body::{self, BodyError},
    connections::peer,
    limits::{Peer, Place, Shares},
};

/// Two tokens and a hundred names fit.
const BODY_LIMIT: usize = 64 * 1024;
/// For a body, from the request's head on. An agent's comes in one piece.
const BODY_TIME: Duration = Duration::from_secs(2);
/// Requests that are under way, and those of one address: where pods' addresses
/// are hidden, the agents of several nodes have one.
const REQUESTS: (usize, usize) = (1024, 128);
/// Bytes of bodies that are held, and those of one address.
const BYTES: (usize, usize) = (16 << 20, 4 << 20);
/// Requests of agents that are worked on at once, and those of one node. Each
/// makes four calls to the API server, and for a service account's token four
/// more. An agent has no more than eight under way.
const TURNS: (usize, usize) = (32, 8);
/// From the head of the request to the answer, waiting for a turn included.
const DEADLINE: Duration = Duration::from_secs(15);
/// When to ask again, in seconds.
const RETRY_AFTER: &str = "2";

/// Serves the identity API.
pub fn router(api: IdentityApi) -> Router {
    let shares = |(all, each)| Shares::new(all, each);
    let shell = Arc::new(Shell {
        callers: Callers::new(api.policy.clone(), api.reviewer.clone()),
        requests: shares(REQUESTS),
        bytes: shares(BYTES),
        turns: Shares::new(TURNS.0, TURNS.1),
        api,
    });
    let one = async |State(shell): State<Arc<Shell>>, request| shell.one(request).await;
    let several = async |State(shell): State<Arc<Shell>>, request| shell.several(request).await;
    Router::new()
        .route(PATH, routing::post(one))
        .route(BATCH_PATH, routing::post(several))
        .with_state(shell)
}

struct Shell {
    api: IdentityApi,
    callers: Callers,
    requests: Shares<Peer>,
    bytes: Shares<Peer>,
    /// By the node's uid.
    turns: Shares<String>,
}

/// A request of a known agent, and what it holds while it is worked on.
struct Accepted<T> {
    asked: T,
    agent: Agent,
    _request: Place<Peer>,
    _bytes: Place<Peer>,
    _turn: Place<String>,
}

impl Shell {
    async fn one(&self, request: Request) -> Response {
        let work = async {
            let accepted = self.accept(request).await?;
            self.api.one(&accepted.agent, &accepted.asked).await
        };
        match in_time(work, Instant::now() + DEADLINE).await {
            Ok(identity) => {
                self.api.metrics.answered(None);
                kept_by_nobody(Json(identity))
            }
            Err(error) => self.refuse(&error),
        }
    }

    async fn several(&self, request: Request) -> Response {
        let deadline = Instant::now() + DEADLINE;
        let work = async {
            let accepted = self.accept(request).await?;
            let (agent, asked) = (&accepted.agent, &accepted.asked);
            self.api.several(agent, asked, deadline).await
        };
        let answers = match in_time(work, deadline).await {
            Ok(answers) => answers,
            Err(error) => return self.refuse(&error),
        };
        let answers = answers.into_iter().map(|(name, answer)| {
            let answer = match answer {
                Ok(identity) => {
                    self.api.metrics.answered(None);
                    Answer::Issued(identity)
                }
                Err(error) => Answer::Refused(self.refusal(&error)),
            };
            (name, answer)
        });
        kept_by_nobody(Json(IdentitiesResponse {
            answers: answers.collect(),
        }))
    }

    async fn accept<T: DeserializeOwned>(&self, request: Request) -> Result<Accepted<T>, Named> {
        let peer = peer(&request);
        let (head, body) = request.into_parts();
        let busy = || Named::new(Code::IssuerUnavailable, "too many requests are under way");
        let place = self.requests.try_take(&peer, 1).ok_or_else(busy)?;
        let mut bytes = self.bytes.try_take(&peer, 0).ok_or_else(busy)?;
        let token = bearer(&head.headers)?;
        let refuse = |reason: String| Named::new(Code::BadRequest, reason);
        if !body::is_json(&head.headers) {
            return Err(refuse(
                "the content type is not application/json".to_owned(),
            ));
        }
        let read = timeout(BODY_TIME, body::read(body, BODY_LIMIT, &mut bytes));
        let body = match read.await {
            Ok(Ok(body)) => body,
            Ok(Err(BodyError::Busy)) => return Err(busy()),
            Ok(Err(error)) => return Err(refuse(error.to_string())),
            Err(_elapsed) => {
                let seconds = BODY_TIME.as_secs();
                return Err(refuse(format!("the body did not come within {seconds} s")));
            }
        };
        // serde's words may repeat a value, and a value may be a token.
        let asked = serde_json::from_slice(&body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            refuse(format!("the body is wrong at line {line}, column {column}"))
        })?;
        drop(body);
        let agent = self.callers.agent(peer, &token).await?;
        let turn = self.turns.take(&agent.node_uid().to_owned()).await;
        Ok(Accepted {
            asked,
            agent,
            _request: place,
            _bytes: bytes,
            _turn: turn,
        })
    }

    fn refuse(&self, error: &Named) -> Response {
        let status = status(error.code);
        let refused = (status, Json(self.refusal(error)));
        match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                ([(header::RETRY_AFTER, RETRY_AFTER)], refused).into_response()
            }
            _ => refused.into_response(),
        }
    }

    /// Counts a refusal, and says it to the log and to the agent.
    fn refusal(&self, error: &Named) -> ApiError {
        self.api.metrics.answered(Some(error.code));
        tracing::warn!(code = %error.code, detail = error.detail, "refused an identity");
        ApiError {
            code: error.code.as_str().to_owned(),
            message: error.to_string(),
        }
    }
}

async fn in_time<T>(
    work: impl Future<Output = Result<T, Named>>,
    deadline: Instant,
) -> Result<T, Named> {
    timeout_at(deadline, work).await.unwrap_or_else(|_elapsed| {
        let detail = format!("no answer within {} s", DEADLINE.as_secs());
        Err(Named::new(Code::IssuerUnavailable, detail))
    })
}

fn kept_by_nobody(answer: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], answer).into_response()
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

fn bearer(headers: &HeaderMap) -> Result<SecretString, Named> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
        .map(|(_, token)| SecretString::from(token))
        .ok_or_else(|| Named::new(Code::AgentTokenRejected, "there is no bearer token"))
}

#[cfg(test)]
mod tests;
