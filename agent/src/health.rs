//! `/healthz` and `/readyz` on plain HTTP, for kubelet's probes. The standing of
//! registration and bindings flows in. `/healthz` is 200 while the process turns
//! its tasks; `/readyz` is 200 once pods of this node get their credentials,
//! else 503 with one line for each thing that is missing.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Router, routing::get};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::csi::registration;
use crate::demand::Bindings;

/// What readiness depends on. An upstream is not among it: credentials that are
/// there stay, and a rollout of the agents must not wait for a registry.
#[derive(Debug, Clone)]
pub struct Readiness {
    /// How the registration stands, if the agent registers itself.
    pub registration: Option<watch::Receiver<registration::State>>,
    /// Something once the first list of bindings is complete.
    pub bindings: watch::Receiver<Option<Arc<Bindings>>>,
}

impl Readiness {
    /// What is missing, in sentences; empty when the agent is ready.
    pub fn missing(&self) -> Vec<String> {
        let registration = self.registration.as_ref();
        let registration = registration.and_then(|state| state.borrow().missing());
        let listed = self.bindings.borrow().is_some();
        let bindings = "the first list of CredentialBindings is not complete";
        registration
            .into_iter()
            .chain((!listed).then(|| bindings.to_owned()))
            .collect()
    }
}

/// Binds the address.
///
/// # Errors
/// When it cannot be bound.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("--metrics-address {address}"))
}

/// Serves on the listener; never ends when there is none.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: Option<TcpListener>, readiness: Readiness) -> anyhow::Result<()> {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .with_state(readiness);
    axum::serve(listener, router)
        .await
        .context("serve /healthz and /readyz")
}

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, String) {
    match readiness.missing() {
        missing if missing.is_empty() => (StatusCode::OK, "ok".to_owned()),
        missing => (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use registration::State as Registered;

    #[tokio::test]
    async fn readyz_says_what_is_missing() {
        let (registration, registered) = watch::channel(Registered::Waiting);
        let (maps, bindings) = watch::channel(None);
        let readiness = Readiness {
            registration: Some(registered),
            bindings,
        };
        let answer = || readyz(State(readiness.clone()));
        let (status, body) = answer().await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body.lines().count(), 2, "{body}");

        maps.send_replace(Some(Arc::default()));
        registration.send_replace(Registered::Refused("kubelet's words".into()));
        let (status, body) = answer().await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            body.starts_with("registration-refused") && body.contains("kubelet's words"),
            "{body}"
        );
        assert_eq!(body.lines().count(), 1, "{body}");

        registration.send_replace(Registered::Registered);
        assert_eq!(answer().await, (StatusCode::OK, "ok".to_owned()));
        let unregistered = Readiness {
            registration: None,
            ..readiness
        };
        assert!(unregistered.missing().is_empty());
        maps.send_replace(None);
        assert_eq!(unregistered.missing().len(), 1);
    }

    #[tokio::test]
    async fn both_probes_are_served() {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_maps, bindings) = watch::channel(None);
        let readiness = Readiness {
            registration: None,
            bindings,
        };
        tokio::spawn(serve(Some(listener), readiness));
        for (probe, expected) in [("healthz", 200), ("readyz", 503)] {
            let url = format!("http://{address}/{probe}");
            let answer = reqwest::Client::builder()
                .no_proxy()
                .build()
                .unwrap()
                .get(url)
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status().as_u16(), expected, "{probe}");
        }
    }
}
