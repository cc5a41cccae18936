//! Wires the tasks: CSI service → engine ← bindings, engine → status.

use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::acquire::Acquirer;
use crate::config::{Arguments, Config};
use crate::demand::Bindings;
use crate::engine::{self, Clock, Engine};
use crate::exchange::http::Upstream;
use crate::identity::control_plane::ControlPlane;
use crate::report::Reports;
use crate::{bindings, csi, health, notices, status};

/// Reads arguments and environment, and runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the configuration is wrong, or a task ends that must not.
pub async fn main() -> anyhow::Result<()> {
    let config = Config::try_from(Arguments::parse())?;
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .init();
    let client = Client::try_default()
        .await
        .context("Kubernetes client (in-cluster or KUBECONFIG)")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run(config, client, shutdown).await
}

/// Runs until `shutdown`. Mounts and their credentials stay: pods go on, and
/// the next process takes over.
///
/// # Errors
/// When the socket cannot be served, or a task breaks off.
pub async fn run(
    config: Config,
    client: Client,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let identities = ControlPlane::new(
        &config.control_plane_url,
        config.control_plane_ca,
        config.token_file,
    );
    let upstream = Upstream::new(config.allowed_hosts, config.upstream_ca.as_deref())?;
    let acquirer = Acquirer::new(identities, upstream);

    let (reports, reported) = watch::channel(Reports::default());
    let (maps, current) = watch::channel::<Option<Arc<Bindings>>>(None);
    let (handle, events) = engine::channel();
    let mut engine = Engine::new(config.node_name.clone(), Clock::system(), acquirer, reports);
    engine.adopt(
        csi::mount::volumes_below(&config.kubelet_dir)
            .with_context(|| format!("--kubelet-dir {}", config.kubelet_dir.display()))?,
    );

    let health = match config.metrics_address {
        Some(address) => Some(health::bind(address).await?),
        None => None,
    };
    let listener = csi::bind(&config.csi_socket)?;
    let settings = csi::Settings {
        node: config.node_name.clone(),
        kubelet_dir: config.kubelet_dir,
        exec_auth: config.exec_auth,
    };
    tracing::info!(node = config.node_name, socket = %config.csi_socket.display(), "serving");

    // A panic in any of these ends the process: kubelet restarts the agent,
    // which takes over the volumes as they are.
    let engine = tokio::spawn(engine.run(events, current));
    let watch = tokio::spawn(bindings::watch(
        client.clone(),
        config.node_name.clone(),
        maps,
    ));
    let tell = tokio::spawn(notices::tell(
        client.clone(),
        config.node_name.clone(),
        reported.clone(),
    ));
    let write = tokio::spawn(status::write(client, config.node_name, reported));
    let serve = csi::serve(listener, settings, handle, shutdown);
    tokio::select! {
        result = serve => result,
        ended = engine => ended.context("the engine broke off"),
        ended = watch => ended.context("the watch of bindings broke off"),
        ended = tell => ended.context("the writer of events broke off"),
        ended = write => ended.context("the status writer broke off"),
        result = health::serve(health) => result,
    }
}
