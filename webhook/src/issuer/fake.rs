//! A stateful stand-in for the few calls that the issuer makes to the API
//! server. Tests only; the real one is met in the integration tests.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use axum::{
    body::{Body as Answer, Bytes},
    http::{Method, Request, Response},
};
use futures::{FutureExt, StreamExt, channel::mpsc, future::BoxFuture, stream};
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::{TokenReview, TokenReviewStatus},
        core::v1::{Pod, Secret},
    },
};
use kube::{Client, client::Body};
use serde_json::{Value, json};

#[derive(Clone, Default)]
pub(crate) struct Cluster(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    secrets: HashMap<(String, String), Secret>,
    pods: HashMap<(String, String), Pod>,
    accounts: HashMap<(String, String), Value>,
    /// The answer to every TokenRequest, and what was asked for last.
    made: Option<Result<String, (u16, Value)>>,
    asked: Option<Value>,
    tokens: HashMap<(String, Option<String>), TokenReviewStatus>,
    calls: Vec<String>,
    hanging: Vec<String>,
    /// Who watches Secrets of which namespace, and whether anybody may.
    watches: Vec<(String, mpsc::UnboundedSender<Value>)>,
    are_watches_broken: bool,
    down: bool,
}

impl Cluster {
    pub(crate) fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    pub(crate) fn add_secret(&self, namespace: &str, name: &str, values: &[(&str, &str)]) {
        let value = |text: &str| ByteString(text.as_bytes().to_vec());
        let data = values
            .iter()
            .map(|(key, text)| ((*key).to_owned(), value(text)));
        let mut secret = Secret {
            data: Some(data.collect()),
            ..Secret::default()
        };
        secret.metadata.namespace = Some(namespace.to_owned());
        secret.metadata.name = Some(name.to_owned());
        self.put_secret(secret);
    }

    pub(crate) fn put_secret(&self, secret: Secret) {
        let namespace = secret.metadata.namespace.clone().unwrap();
        let name = secret.metadata.name.clone().unwrap();
        let mut state = self.0.lock().unwrap();
        state.tell("MODIFIED", &namespace, &name);
        state.secrets.insert((namespace, name), secret);
    }

    pub(crate) fn delete_secret(&self, namespace: &str, name: &str) {
        let mut state = self.0.lock().unwrap();
        state.tell("DELETED", namespace, name);
        state
            .secrets
            .remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Watches are answered, and nothing comes.
    pub(crate) fn break_watches(&self) {
        self.0.lock().unwrap().are_watches_broken = true;
    }

    /// A watch of the Secrets' metadata.
    fn watch(&self, namespace: &str) -> Answer {
        let (sender, events) = mpsc::unbounded();
        let mut state = self.0.lock().unwrap();
        state.watches.push((namespace.to_owned(), sender));
        let lines = events.map(|event| Ok::<_, Infallible>(format!("{event}\n")));
        // The head comes at once, even if nothing follows.
        Answer::from_stream(stream::iter([Ok(String::new())]).chain(lines))
    }

    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Option<Secret> {
        let key = (namespace.to_owned(), name.to_owned());
        self.0.lock().unwrap().secrets.get(&key).cloned()
    }

    pub(crate) fn put_pod(&self, namespace: &str, name: &str, pod: Value) {
        let key = (namespace.to_owned(), name.to_owned());
        let pod = serde_json::from_value(pod).unwrap();
        self.0.lock().unwrap().pods.insert(key, pod);
    }

    pub(crate) fn put_account(&self, namespace: &str, name: &str, annotations: Value) {
        let key = (namespace.to_owned(), name.to_owned());
        let account = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"namespace": namespace, "name": name, "annotations": annotations},
        });
        self.0.lock().unwrap().accounts.insert(key, account);
    }

    /// Answers every TokenRequest from now on with this token, or with this
    /// code and these details of a refusal.
    pub(crate) fn make(&self, answer: Result<&str, (u16, Value)>) {
        self.0.lock().unwrap().made = Some(answer.map(str::to_owned));
    }

    /// The spec of the last TokenRequest.
    pub(crate) fn asked(&self) -> Option<Value> {
        self.0.lock().unwrap().asked.clone()
    }

    /// What a review for our audience says.
    pub(crate) fn put_token(&self, token: &str, status: TokenReviewStatus) {
        self.put_review(token, Some("argocd-identity"), status);
    }

    /// What a review for this audience says; `None` is the API server's own.
    pub(crate) fn put_review(
        &self,
        token: &str,
        audience: Option<&str>,
        status: TokenReviewStatus,
    ) {
        let key = (token.to_owned(), audience.map(str::to_owned));
        self.0.lock().unwrap().tokens.insert(key, status);
    }

    /// A call that has this text in its path or body is never answered.
    pub(crate) fn hang(&self, text: &str) {
        self.0.lock().unwrap().hanging.push(text.to_owned());
    }

    fn hangs(&self, path: &str, body: &[u8]) -> bool {
        let body = String::from_utf8_lossy(body);
        let hanging = &self.0.lock().unwrap().hanging;
        hanging
            .iter()
            .any(|text| path.contains(text) || body.contains(text))
    }

    /// Every call fails from now on.
    pub(crate) fn down(&self) {
        self.0.lock().unwrap().down = true;
    }

    /// Calls so far, as `METHOD path`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.0.lock().unwrap().calls.clone()
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> Result<Value, (u16, Value)> {
        let mut state = self.0.lock().unwrap();
        state.calls.push(format!("{method} {path}"));
        let refuse = |code, reason: &str| Err((code, refusal(code, reason, Value::Null)));
        if state.down {
            return refuse(500, "InternalError");
        }
        let found = |object: Option<Value>| object.map_or_else(|| refuse(404, "NotFound"), Ok);
        let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
        let key = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        match (method, parts.as_slice()) {
            (&Method::POST, ["apis", "authentication.k8s.io", "v1", "tokenreviews"]) => {
                let mut review: TokenReview = serde_json::from_slice(body).unwrap();
                let mut audiences = review.spec.audiences.clone().unwrap_or_default();
                assert!(audiences.len() <= 1, "{audiences:?}");
                let token = review.spec.token.clone().unwrap();
                review.status = state.tokens.get(&(token, audiences.pop())).cloned();
                Ok(json!(review))
            }
            (&Method::GET, ["api", "v1", "namespaces", namespace, "pods", name]) => {
                let pod = state.pods.get(&key(namespace, name));
                found(pod.map(|pod| json!(pod)))
            }
            (&Method::GET, ["api", "v1", "namespaces", namespace, "secrets", name]) => {
                let secret = state.secrets.get(&key(namespace, name));
                found(secret.map(|secret| json!(secret)))
            }
            (
                &Method::GET,
                [
                    "api",
                    "v1",
                    "namespaces",
                    namespace,
                    "serviceaccounts",
                    name,
                ],
            ) => found(state.accounts.get(&key(namespace, name)).cloned()),
            (&Method::POST, ["api", "v1", "namespaces", _, "serviceaccounts", _, "token"]) => {
                let mut request: Value = serde_json::from_slice(body).unwrap();
                state.asked = Some(request["spec"].clone());
                let token = state.made.clone().unwrap()?;
                request["status"] = json!({
                    "token": token, "expirationTimestamp": "2026-01-01T00:00:00Z",
                });
                Ok(request)
            }
            (&Method::GET, ["api", "v1", "namespaces", namespace, "secrets"]) => {
                let items = state.secrets.keys().filter(|(of, _)| of == namespace);
                let items: Vec<_> = items.map(|(of, name)| metadata(of, name)).collect();
                Ok(json!({
                    "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
                    "metadata": {"resourceVersion": "1"}, "items": items,
                }))
            }
            (&Method::POST, ["api", "v1", "namespaces", namespace, "secrets"]) => {
                let secret: Secret = serde_json::from_slice(body).unwrap();
                let key = key(namespace, secret.metadata.name.as_deref().unwrap());
                if state.secrets.contains_key(&key) {
                    return refuse(409, "AlreadyExists");
                }
                state.secrets.insert(key, secret.clone());
                Ok(json!(secret))
            }
            other => panic!("unexpected call {other:?}"),
        }
    }
}

/// A `Status` as the API server answers with one.
pub(crate) fn refusal(code: u16, words: &str, details: Value) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": words, "code": code, "message": words, "details": details,
    })
}

impl State {
    fn tell(&mut self, kind: &str, namespace: &str, name: &str) {
        let event = json!({"type": kind, "object": metadata(namespace, name)});
        if !self.are_watches_broken {
            let watches = self.watches.iter().filter(|(of, _)| of == namespace);
            watches.for_each(|(_, watch)| drop(watch.unbounded_send(event.clone())));
        }
    }
}

fn metadata(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"namespace": namespace, "name": name, "resourceVersion": "2"},
    })
}

impl tower::Service<Request<Body>> for Cluster {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Answer>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let cluster = self.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            if cluster.hangs(head.uri.path(), &body) {
                std::future::pending::<()>().await;
            }
            let query = head.uri.query().unwrap_or_default();
            let parts: Vec<_> = head.uri.path().split('/').collect();
            if let ["", "api", "v1", "namespaces", namespace, "secrets"] = parts[..]
                && query.contains("watch=")
            {
                return Ok(Response::new(cluster.watch(namespace)));
            }
            let (status, answer) = match cluster.answer(&head.method, head.uri.path(), &body) {
                Ok(answer) => (200, answer),
                Err(refusal) => refusal,
            };
            let body = Answer::from(Bytes::from(serde_json::to_vec(&answer).unwrap()));
            Ok(Response::builder().status(status).body(body).unwrap())
        }
        .boxed()
    }
}
