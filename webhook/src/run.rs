//! Starts the parts of the control plane and stops them in order.
//!
//! Admission starts first and needs nothing but its certificate. The issuer's
//! listeners answer once there is a signing key; the controller works while
//! this process holds the Lease.

use std::{future::Future, net::TcpListener, sync::Arc};

use anyhow::Context;
use aws_lc_rs::rand;
use control_plane_core::{
    admission::{Rules, pods::PodConfig, secrets::SecretRules},
    settings::{Image, Namespace},
};
use futures::future::try_join;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    config::{Config, ServeArgs},
    controller::{self, ControllerConfig},
    issuer::{
        self,
        api::IdentityApi,
        authorize::Policy,
        documents,
        keys::{InForce, KeySource, Keyring, StoredKeys},
        reviewer::Reviewer,
        token_request::Minter,
    },
    kube::client::client,
    metrics::Metrics,
    readiness::{self, Gate, Readiness},
    server::{self, Drain},
    tls::{Certificates, Reloader},
};

/// Runs the control plane as the command line says.
///
/// # Errors
/// When a setting cannot be used, or a part fails.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config = Config::try_from(args)?;
    serve(config, client().await?, terminated()?).await
}

/// Runs the control plane until `stop` completes, then drains.
///
/// # Errors
/// When an address cannot be bound, or a part ends on its own.
pub async fn serve(
    config: Config,
    client: Client,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let admission = server::bind(config.admission_address).context("--admission-address")?;
    let identity = server::bind(config.identity_address).context("--identity-address")?;
    let documents = server::bind(config.issuer_address).context("--issuer-address")?;
    let observability = server::bind(config.metrics_address).context("--metrics-address")?;

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let controller_metrics = controller::metrics::Metrics::register(&mut registry);
    let issuer_metrics = issuer::metrics::Metrics::register(&mut registry);
    let readiness = Readiness::default();
    // All of them before anybody can ask: a gate that does not exist yet keeps nobody out.
    let (admission_gate, issuer_gate) = (readiness.gate("admission"), readiness.gate("issuer"));
    let (stop_parts, stopping) = watch::channel(false);
    // Parts end when they are told to; what serves them is dropped after them.
    let mut parts = JoinSet::new();
    let mut background = JoinSet::new();

    let routes = server::observability_routes(Arc::new(registry), readiness.clone());
    background.spawn(async move {
        let served = server::serve_plain(observability, routes).await;
        served.context("the listener of --metrics-address failed")
    });
    let (certificates, reloader) = Reloader::open(config.tls_dir.clone(), metrics.clone()).await;
    background.spawn(async move {
        reloader.run().await;
        Ok(())
    });
    let address = admission.local_addr().context("--admission-address")?;
    let probe = readiness::probe(address, certificates.clone(), admission_gate);
    background.spawn(async move {
        probe.await;
        Ok(())
    });

    let proxy_image = config.proxy_image.as_ref().map(Image::to_string);
    let rules = Rules {
        namespaces: Some(names(&config.argocd_namespaces).into_iter().collect()),
        secrets: SecretRules {
            derivation: config.derivation(),
            credential_proxy: proxy_image.is_some(),
        },
        pods: PodConfig {
            spiffe_csi_driver: config.spiffe_csi_driver,
            proxy_image,
            sidecar: config.sidecar.clone(),
        },
    };
    let serve = server::serve_tls(
        admission,
        server::admission_routes(rules, metrics),
        certificates.clone(),
        stopping.clone(),
        Drain::default(),
    );
    parts.spawn(async { serve.await.context("the admission listener failed") });

    let signature = InForce::default();
    let issuer = Issuer {
        client: client.clone(),
        config: config.clone(),
        signature: signature.clone(),
        metrics: issuer_metrics,
        identity,
        documents,
        certificates,
    };
    parts.spawn(issuer.serve(issuer_gate, stopping.clone()));

    let controller = ControllerConfig {
        namespace: config.namespace.to_string(),
        argocd_namespaces: names(&config.argocd_namespaces),
        derivation: config.derivation(),
        signature,
        instance: instance()?,
    };
    let stopped = stopped(stopping);
    parts.spawn(async {
        let run = controller::run(client, controller, controller_metrics, stopped);
        run.await.context("the controller failed")
    });

    tokio::select! {
        () = stop => tracing::info!("stopping"),
        Some(ended) = parts.join_next() => {
            ended.context("a part panicked")??;
            anyhow::bail!("a part ended although nobody asked it to");
        }
        Some(ended) = background.join_next() => {
            ended.context("a part panicked")??;
            anyhow::bail!("a part ended although nobody asked it to");
        }
    }
    readiness.drain();
    stop_parts.send_replace(true);
    while let Some(ended) = parts.join_next().await {
        ended.context("a part panicked")??;
    }
    Ok(())
}

/// Identity API and issuer documents.
struct Issuer {
    client: Client,
    config: Config,
    signature: InForce,
    metrics: issuer::metrics::Metrics,
    identity: TcpListener,
    documents: TcpListener,
    certificates: Certificates,
}

impl Issuer {
    async fn serve(self, gate: Gate, stopping: watch::Receiver<bool>) -> anyhow::Result<()> {
        let config = self.config;
        let keys = KeySource::new(self.client.clone(), config.namespace.as_str())
            .making(config.issuer_algorithm);
        let signature = self.signature;
        let announce = move |keys: &StoredKeys| signature.set(keys.signing.public().algorithm());
        let keyring = tokio::select! {
            first = keys.first(&gate) => {
                announce(&first);
                Keyring::new(first, config.token_lifetime)
            }
            () = stopped(stopping.clone()) => return Ok(()),
        };
        let reviewer = Reviewer::new(self.client.clone(), config.derivation());
        let identity = issuer::api::router(IdentityApi {
            policy: Policy {
                namespace: config.namespace.to_string(),
                agent_service_account: config.agent_service_account.to_string(),
                argocd_namespaces: names(&config.argocd_namespaces),
            },
            minter: Minter::new(self.client, reviewer.clone()),
            reviewer,
            keyring: keyring.clone(),
            issuer: config.issuer_url.clone(),
            lifetime: config.token_lifetime,
            metrics: self.metrics,
        });
        let documents = documents::router(config.issuer_url, keyring.clone());
        let serve = |listener, routes| {
            let (certificates, stopping) = (self.certificates.clone(), stopping.clone());
            server::serve_tls(listener, routes, certificates, stopping, Drain::default())
        };
        let listeners = try_join(
            serve(self.identity, identity),
            serve(self.documents, documents),
        );
        tokio::select! {
            served = listeners => served.map(drop).context("a listener of the issuer failed"),
            () = keys.follow(move |found| {
                announce(&found);
                keyring.replace(found)
            }) => anyhow::bail!("the signing key is no longer followed"),
        }
    }
}

/// Completes when the parts have to stop.
async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the program is going down without a word.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

fn names(namespaces: &[Namespace]) -> Vec<String> {
    namespaces.iter().map(ToString::to_string).collect()
}

/// A name that no other process has: the pod's and a random suffix, because
/// outside a pod several processes share a host name.
fn instance() -> anyhow::Result<String> {
    let mut suffix = [0; 4];
    rand::fill(&mut suffix).context("no random bytes")?;
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_unset| "argocd-identity".to_owned());
    Ok(format!("{host}-{:08x}", u32::from_be_bytes(suffix)))
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
