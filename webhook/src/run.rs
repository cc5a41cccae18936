//! Starts the parts of the control plane and stops them in order.
//!
//! Admission starts first and is ready as soon as it has its certificate; it
//! asks nobody anything. The identity API answers from the start, and says so
//! where it has no signing key yet; with an issuer's URL there are a key and
//! documents, without one neither. The controller works while this process
//! holds the Lease.

use std::{future::Future, sync::Arc};

use anyhow::Context;
use aws_lc_rs::rand;
use control_plane_core::{
    admission::{Rules, pods::PodConfig, secrets::SecretRules},
    identity::authorize::Policy,
    settings::{Image, Namespace},
};
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    config::{Config, ServeArgs},
    connections::Limits,
    controller::{self, ControllerConfig},
    issuer::{
        self, documents,
        issue::{IdentityApi, Signer},
        key_source::{KeySource, KeySourceError},
        keys::{InForce, Keyring, StoredKeys},
        reviewer::Reviewer,
        token_request::Minter,
    },
    kube::client::client,
    metrics::Metrics,
    probe,
    readiness::{Gate, Readiness},
    report::chain,
    server::{self, Drain},
    serving_metrics::ServingMetrics,
    tls::{ClientAuthority, Reloader},
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
    let clients = config.admission_client_ca.as_deref();
    let clients = clients.map(ClientAuthority::open).transpose();
    let clients = clients.context("--admission-client-ca")?;
    let observability = server::bind(config.metrics_address).context("--metrics-address")?;

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let serving_metrics = ServingMetrics::register(&mut registry);
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
    let (certificates, reloader) = Reloader::open(config.tls_dir.clone(), serving_metrics).await;
    background.spawn(async move {
        reloader.run().await;
        Ok(())
    });
    let address = admission.local_addr().context("--admission-address")?;
    let probe = probe::probe(
        address,
        certificates.clone(),
        readiness.gate(server::ADMISSION),
    );
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
    let tls = certificates.server_config(clients.as_ref());
    let serve = server::serve_tls(
        admission,
        server::admission_routes(rules, metrics),
        tls.context("TLS cannot be configured")?,
        Limits::ADMISSION,
        stopping.clone(),
        Drain::default(),
    );
    parts.spawn(async { serve.await.context("the admission listener failed") });

    let tls = || {
        let config = certificates.server_config(None);
        config.context("TLS cannot be configured")
    };
    let signature = InForce::default();
    let signer = match &config.issuer_url {
        Some(issuer) => {
            let signer = Signer {
                issuer: issuer.clone(),
                keyring: Keyring::empty(config.token_lifetime),
            };
            let source = KeySource::new(
                client.clone(),
                config.namespace.as_str(),
                config.issuer_algorithm,
            );
            let gates = [
                readiness.gate(server::IDENTITY),
                readiness.gate(server::ISSUER),
            ];
            let take = taking(signer.keyring.clone(), signature.clone(), gates);
            background.spawn(async move {
                source.follow(take).await;
                Ok(())
            });
            let documents = server::serve_tls(
                server::bind(config.issuer_address).context("--issuer-address")?,
                documents::router(signer.issuer.clone(), signer.keyring.clone()),
                tls()?,
                Limits::DOCUMENTS,
                stopping.clone(),
                Drain::default(),
            );
            parts.spawn(async { documents.await.context("the documents' listener failed") });
            Some(signer)
        }
        None => {
            readiness.gate(server::IDENTITY).open();
            None
        }
    };
    let identity = server::serve_tls(
        identity,
        issuer::api::router(identity_api(&config, &client, signer, issuer_metrics)),
        tls()?,
        Limits::IDENTITY,
        stopping.clone(),
        Drain::default(),
    );
    parts.spawn(async { identity.await.context("the identity API's listener failed") });

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

fn identity_api(
    config: &Config,
    client: &Client,
    signer: Option<Signer>,
    metrics: issuer::metrics::Metrics,
) -> IdentityApi {
    let reviewer = Reviewer::new(client.clone(), config.derivation());
    IdentityApi {
        policy: Policy {
            namespace: config.namespace.to_string(),
            agent_service_account: config.agent_service_account.to_string(),
            argocd_namespaces: names(&config.argocd_namespaces),
        },
        minter: Minter::new(client.clone(), reviewer.clone()),
        reviewer,
        signer,
        lifetime: config.token_lifetime,
        metrics,
    }
}

/// Takes over what each look at the issuer's Secret finds. Once there is a key,
/// the last good one stays whatever happens.
fn taking(
    keyring: Keyring,
    signature: InForce,
    gates: [Gate; 2],
) -> impl FnMut(Result<StoredKeys, KeySourceError>) {
    move |found| match found {
        Ok(keys) => {
            signature.set(keys.signing.public().algorithm());
            let kid = keys.signing.public().kid.clone();
            if keyring.replace(keys) {
                tracing::info!(kid, "took over a signing key");
            }
            gates.iter().for_each(Gate::open);
        }
        Err(error) => {
            let error = chain(&error);
            let has_one = keyring.current().is_some();
            tracing::error!(error, has_one, "the signing key could not be read");
            if !has_one {
                gates.iter().for_each(|gate| gate.close(error.clone()));
            }
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

#[cfg(test)]
mod tests;
