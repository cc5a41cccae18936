//! Wires the tasks: CSI service → engine ← bindings, engine → status and events;
//! registration and health beside them.

use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::acquire::Acquirer;
use crate::config::{Arguments, Config};
use crate::csi::registration::State;
use crate::demand::Bindings;
use crate::engine::{self, Clock, Engine};
use crate::exchange::http::{self, Upstream};
use crate::health::Readiness;
use crate::identity::control_plane::ControlPlane;
use crate::identity::sources::Sources;
use crate::report::Reports;
use crate::store::Program;
use crate::{authorities, bindings, csi, health, notices, status};

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
/// the next process takes over. The sockets go, so that kubelet knows.
///
/// # Errors
/// When the socket cannot be served, or a task breaks off.
pub async fn run(
    config: Config,
    client: Client,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let control_plane = ControlPlane::new(
        &config.control_plane_url,
        config.control_plane_ca,
        config.token_file,
        config.spiffe.issuer.clone(),
    );
    let identities = Sources::start(control_plane, config.spiffe);
    let (roots, authorities) = watch::channel(Arc::default());
    let settings = http::Settings {
        proxy: config.proxy,
        authorities,
        ..http::Settings::new(config.allowed_hosts.clone())
    };
    let upstream = Upstream::new(settings, config.upstream_ca.as_deref())?;
    let acquirer = Acquirer::new(identities, upstream);

    let (reports, reported) = watch::channel(Reports::default());
    let (maps, current) = watch::channel::<Option<Arc<Bindings>>>(None);
    let (handle, events) = engine::channel();
    let mut engine = Engine::new(
        config.node_name.clone(),
        Clock::system(),
        acquirer,
        config.allowed_hosts,
        reports,
    );
    let settings = csi::Settings {
        node: config.node_name.clone(),
        program: Arc::new(Program::load(&config.exec_auth)?),
        kubelet_dir: config.kubelet_dir,
    };
    let left = csi::mount::volumes_below(&settings.kubelet_dir)
        .with_context(|| format!("--kubelet-dir {}", settings.kubelet_dir.display()))?;
    // What has expired goes before anything else is done.
    engine.adopt(left.iter().cloned());
    csi::upgrade(&left, &settings);

    // Kubelet calls the driver as soon as it finds it registered, so its socket
    // comes second; one that was left by an earlier process goes first.
    if let Some(registration) = &config.registration {
        registration.remove_stale()?;
    }
    let (listener, _bound) = csi::socket::bind(&config.csi_socket, csi::SOCKET_FLAG)?;
    let (registered, registration_state) = watch::channel(State::Waiting);
    let readiness = Readiness {
        registration: config.registration.is_some().then_some(registration_state),
        bindings: current.clone(),
    };
    let health = match config.metrics_address {
        Some(address) => Some(health::bind(address).await?),
        None => None,
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
    let trust = tokio::spawn(authorities::watch(client.clone(), roots));
    let tell = tokio::spawn(notices::tell(
        client.clone(),
        config.node_name.clone(),
        reported.clone(),
    ));
    let write = tokio::spawn(status::write(client, config.node_name, reported));
    // First kubelet is told that the driver goes, then the calls that are under
    // way are finished.
    let withdrawn = async move {
        match config.registration {
            Some(registration) => registration.run(registered, shutdown).await,
            None => shutdown.await,
        }
    };
    let serve = csi::serve(listener, settings, handle, withdrawn);
    tokio::select! {
        result = serve => result,
        ended = engine => ended.context("the engine broke off"),
        ended = watch => ended.context("the watch of bindings broke off"),
        ended = trust => ended.context("the watch of argocd-tls-certs-cm broke off"),
        ended = tell => ended.context("the writer of events broke off"),
        ended = write => ended.context("the status writer broke off"),
        result = health::serve(health, readiness) => result,
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
