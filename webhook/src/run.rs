//! Starts the parts of the control plane and stops them in order.

use std::{future::Future, sync::Arc};

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    admission::{Rules, pods::PodConfig},
    config::{Cli, Command, Config},
    metrics::Metrics,
    readiness::{self, Readiness},
    server::{self, Drain},
    tls::Reloader,
};

/// Runs what the command line asks for.
///
/// # Errors
/// When a setting cannot be used, or a part fails.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(args) => {
            let config = Config::try_from(*args)?;
            serve(config, terminated()?).await
        }
    }
}

/// Runs the control plane until `stop` completes, then drains.
///
/// # Errors
/// When an address cannot be bound, or a part ends on its own.
pub async fn serve(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    // Other parts register metrics of their own here.

    let readiness = Readiness::default();
    let drain = Drain::default();
    let (stop_servers, stopping) = watch::channel(false);
    // Servers end when they are told to; the rest is dropped after them.
    let mut servers = JoinSet::new();
    let mut background = JoinSet::new();

    let (certificates, reloader) = Reloader::open(config.tls_dir.clone(), metrics.clone()).await;
    background.spawn(reloader.run());

    let rules = Rules {
        pods: PodConfig {
            spiffe_csi_driver: config.spiffe_csi_driver,
        },
        secrets: config.derivation(),
    };
    let admission = server::bind(config.admission_address).context("--admission-address")?;
    let address = admission.local_addr().context("--admission-address")?;
    tracing::info!(%address, "admission");
    background.spawn(readiness::probe(
        address,
        certificates.clone(),
        readiness.gate("admission"),
    ));
    servers.spawn(server::serve_tls(
        admission,
        server::admission_routes(rules, metrics.clone()),
        certificates.clone(),
        stopping.clone(),
        drain,
    ));

    // Here follow the controller (a background part with a gate) and the
    // issuer's two listeners: identity API and documents, both through
    // `server::serve_tls` with `certificates` and `stopping`.

    let observability = server::bind(config.metrics_address).context("--metrics-address")?;
    let routes = server::observability_routes(Arc::new(registry), readiness.clone());
    background.spawn(async move {
        if let Err(error) = server::serve_plain(observability, routes).await {
            tracing::error!(error = &error as &dyn std::error::Error, "probes and metrics");
        }
    });

    tokio::select! {
        () = stop => tracing::info!("stopping"),
        Some(ended) = servers.join_next() => {
            ended.context("a listener panicked")?.context("a listener failed")?;
            anyhow::bail!("a listener ended");
        }
        Some(ended) = background.join_next() => {
            ended.context("a background part panicked")?;
            anyhow::bail!("a background part ended");
        }
    }
    readiness.drain();
    stop_servers.send_replace(true);
    while let Some(ended) = servers.join_next().await {
        ended.context("a listener panicked")?.context("a listener failed")?;
    }
    Ok(())
}

/// Completes at SIGTERM or SIGINT.
fn terminated() -> anyhow::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}
