//! A stand-in for the API server that keeps one Secret and notes every call.
//! Tests only; the real one is met in the integration tests.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use axum::http::{Method, Request, Response};
use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, client::Body};
use serde_json::{Value, json};

#[derive(Clone, Default)]
pub(super) struct Api(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    secret: Option<Secret>,
    refusal: Option<(u16, String)>,
    calls: Vec<(String, Value)>,
}

impl Api {
    pub(super) fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    pub(super) fn put(&self, secret: Secret) {
        self.0.lock().unwrap().secret = Some(secret);
    }

    /// Bindings are refused with these words from now on.
    pub(super) fn refuse(&self, code: u16, words: &str) {
        self.0.lock().unwrap().refusal = Some((code, words.to_owned()));
    }

    /// `METHOD last/part/of/path` and body of each call since the last time.
    pub(super) fn calls(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        let mut state = self.0.lock().unwrap();
        let kept = path.split("/namespaces/argocd/").last().unwrap();
        state.calls.push((format!("{method} {kept}"), body.clone()));
        let refused = |code: u16, message: &str| {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Refused",
                "code": code, "message": message,
            });
            (code, status)
        };
        match (kept.split('/').next().unwrap(), &state.refusal) {
            ("secrets", _) => match &state.secret {
                Some(secret) => (200, json!(secret)),
                None => refused(404, "no such Secret"),
            },
            ("credentialbindings", Some((code, message))) => refused(*code, message),
            _ => (200, body),
        }
    }
}

impl tower::Service<Request<Body>> for Api {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let api = self.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let (status, answer) = api.answer(&head.method, head.uri.path(), body);
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            Ok(Response::builder().status(status).body(body).unwrap())
        }
        .boxed()
    }
}
