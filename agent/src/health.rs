//! `/healthz` on plain HTTP, for kubelet's liveness probe. Nothing flows in;
//! 200 flows out while the process turns its tasks.

use std::net::SocketAddr;

use anyhow::Context;
use axum::{Router, routing::get};
use tokio::net::TcpListener;

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
pub async fn serve(listener: Option<TcpListener>) -> anyhow::Result<()> {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let router = Router::new().route("/healthz", get(|| async { "ok" }));
    axum::serve(listener, router)
        .await
        .context("serve /healthz")
}
