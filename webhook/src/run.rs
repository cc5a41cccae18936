//! Starts the parts of the control plane and stops them in order.
//!
//! Admission starts first and needs nothing but its certificate. The issuer's
//! listeners answer once there is a signing key; the controller works while
//! this process holds the Lease.

use std::{future::Future, net::TcpListener, sync::Arc};

use anyhow::Context;
use aws_lc_rs::rand;
use futures::future::try_join;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    admission::{Rules, pods::PodConfig, secrets::SecretRules},
    config::{Config, Image, Namespace, ServeArgs},
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
    key_secret,
    metrics::Metrics,
    proxy_key::{ProxyKeyring, ProxyKeys},
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

/// The way to the API server, by the environment.
///
/// # Errors
/// When there is none.
pub async fn client() -> anyhow::Result<Client> {
    let config = kube::Config::infer().await.context(
        "there is no way to the API server: run in a pod with a service account, or set KUBECONFIG",
    )?;
    controller::client(config).context("the way to the API server cannot be used")
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
    let probe = readiness::probe(address, certificates.clone(), readiness.gate("admission"));
    background.spawn(async move {
        probe.await;
        Ok(())
    });

    let proxy_keys = ProxyKeyring::default();
    let follow = follow_proxy_keys(
        client.clone(),
        config.namespace.clone(),
        proxy_keys.clone(),
        readiness.gate("proxy-key"),
    );
    background.spawn(async move {
        follow.await;
        Ok(())
    });
    let proxy_image = config.proxy_image.as_ref().map(Image::to_string);
    let rules = Rules {
        secrets: SecretRules {
            derivation: config.derivation(Some(proxy_keys.clone())),
            credential_proxy: proxy_image.is_some(),
        },
        pods: PodConfig {
            spiffe_csi_driver: config.spiffe_csi_driver,
            proxy_image,
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
    parts.spawn(issuer.serve(readiness.gate("issuer"), stopping.clone()));

    let controller = ControllerConfig {
        namespace: config.namespace.to_string(),
        argocd_namespaces: names(&config.argocd_namespaces),
        derivation: config.derivation(Some(proxy_keys)),
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
        let reviewer = Reviewer::new(self.client.clone(), config.derivation(None));
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

/// Keeps `ring` at what the Secret of the proxy keys has.
async fn follow_proxy_keys(client: Client, namespace: Namespace, ring: ProxyKeyring, gate: Gate) {
    let keys = key_secret::KeySource::<ProxyKeys>::new(client, namespace.as_str());
    ring.replace(keys.first(&gate).await);
    keys.follow(move |keys| ring.replace(keys)).await;
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
