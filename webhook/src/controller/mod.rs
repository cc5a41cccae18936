//! Controller: Secrets of the Argo CD namespaces flow in, CredentialBindings,
//! their conditions and events flow out.
//!
//! ```text
//! watches ─▶ world (pure) ─▶ queue (pure) ─▶ bindings: GET Secret, derive, plan (pure)
//!   Secrets, service accounts,                   │
//!   nodes: metadata only                         ├─▶ apply or delete the binding
//!   pods, the installation's keys                │
//!   CredentialBindings                           └─▶ status (pure) ─▶ conditions, events
//!                                                      ▲ conflicts (pure)
//! ```
//!
//! Secrets are watched by metadata, so that their values are in this process
//! only while one of them is being looked at. Everything is level-triggered: a
//! key in the queue means "look again", and looking again changes nothing when
//! nothing has changed.

pub mod binding;
pub mod bindings;
mod events;
pub mod metrics;
pub mod pod;
pub mod queue;
pub mod status;
#[cfg(test)]
mod testing;
pub mod world;

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use control_plane_core::secret::SECRET_TYPE;
use futures::{StreamExt, stream::BoxStream, stream::FuturesUnordered, stream::select_all};
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, PartialObjectMeta, Resource},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout};

use self::{
    bindings::{Failure, Reconciler},
    metrics::Metrics,
    queue::Queue,
    world::{Change, Key, World},
};
use crate::{
    issuer::keys::InForce,
    lease::{ApiLease, Election, Timing},
};
use control_plane_core::derive::Derivation;

/// Name of the Lease, in the installation's namespace.
pub const LEASE: &str = "argocd-identity-controller";
/// Field manager of what the controller applies; also its name in events.
pub const FIELD_MANAGER: &str = "argocd-identity";

/// Bindings that are worked on at once.
const CONCURRENCY: usize = 4;
/// For one look at one binding, all calls together.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the controller is given.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// The installation's namespace, in which the Lease is.
    pub namespace: String,
    /// Namespaces whose Secrets it looks at.
    pub argocd_namespaces: Vec<String>,
    /// What makes a binding of a Secret.
    pub derivation: Derivation,
    /// What the issuer signs with, which not every registry takes.
    pub signature: InForce,
    /// Unique name of this process, such as its pod's name; holds the Lease
    /// and reports events.
    pub instance: String,
}

/// A name for [`ControllerConfig::instance`]: `pod`'s name, and what tells this
/// process from an earlier one of the same pod.
pub fn instance(pod: Option<&str>) -> String {
    let pod = pod.unwrap_or(FIELD_MANAGER);
    let (process, started) = (std::process::id(), jiff::Timestamp::now().as_nanosecond());
    format!("{pod}_{process:x}-{started:x}")
}

/// The controller ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("the controller's watches ended")]
pub struct Ended;

/// Runs the controller whenever this process leads, until `shutdown`.
///
/// # Errors
/// When the watches end, which they do not do on their own: failures of the
/// API server are waited out.
pub async fn run(
    client: Client,
    config: ControllerConfig,
    metrics: Metrics,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Ended> {
    let lease = ApiLease::new(client.clone(), &config.namespace, LEASE);
    let election = Election::new(lease, config.instance.clone(), Timing::default());
    let work = || {
        let leading = metrics.lead();
        let control = control(client.clone(), &config, &metrics);
        async move {
            let _leading = leading;
            control.await
        }
    };
    match election.run_while_leader(shutdown, work).await {
        None => Ok(()),
        Some(ended) => Err(ended),
    }
}

/// The controller itself, without the Lease. Ends only with an error.
pub async fn control(client: Client, config: &ControllerConfig, metrics: &Metrics) -> Ended {
    let mut changes = changes(&client, config);
    let reconciler = Arc::new(Reconciler::new(
        client,
        config.derivation.clone(),
        config.signature.clone(),
        &config.instance,
    ));
    let mut world = World::default();
    let mut queue = Queue::default();
    let mut running = FuturesUnordered::new();
    let mut busy: HashSet<Key> = HashSet::new();
    loop {
        let now = Instant::now();
        while running.len() < CONCURRENCY {
            let is_free = |key: &Key| !busy.contains(key) && world.is_known(&key.namespace);
            let Some(key) = queue.take(now, is_free) else {
                break;
            };
            busy.insert(key.clone());
            let snapshot = world.snapshot(&key);
            let reconciler = Arc::clone(&reconciler);
            running.push(async move {
                let work = timeout(DEADLINE, reconciler.reconcile(&key, &snapshot)).await;
                (key, work.unwrap_or(Err(Failure::Timeout)))
            });
        }
        let is_free = |key: &Key| !busy.contains(key) && world.is_known(&key.namespace);
        let due = queue
            .next_due(is_free)
            .filter(|_| running.len() < CONCURRENCY);
        tokio::select! {
            change = changes.next() => match change {
                None => return Ended,
                Some(change) => {
                    let now = Instant::now();
                    for key in world.apply(change) {
                        queue.add(key, now);
                    }
                }
            },
            Some((key, result)) = running.next() => {
                busy.remove(&key);
                metrics.reconciled(result.is_ok());
                match result {
                    Ok(again) => queue.succeeded(key, again.map(|after| Instant::now() + after)),
                    Err(error) => {
                        let (namespace, name) = (&key.namespace, &key.name);
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(namespace, name, error, "a binding could not be brought up to date");
                        queue.failed(key, Instant::now());
                    }
                }
            },
            () = sleep_until(due.unwrap_or(now)), if due.is_some() => {}
        }
    }
}

/// Everything that is watched, in one stream that recovers from failures.
fn changes(client: &Client, config: &ControllerConfig) -> BoxStream<'static, Change> {
    let metadata = |error: &watcher::Error, what: &'static str| {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            what,
            "a watch failed; it is started again"
        );
    };
    let nodes: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
    let mut streams = vec![watch(
        nodes,
        watcher::Config::default(),
        "nodes",
        metadata,
        Change::Node,
    )];
    let signature = config.signature.changes();
    streams.push(signature.map(|()| Change::Keys).boxed());
    for namespace in &config.argocd_namespaces {
        let secrets: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), namespace);
        let ours = watcher::Config::default().labels(SECRET_TYPE);
        let to = namespace.clone();
        streams.push(watch(secrets, ours, "secrets", metadata, move |event| {
            Change::Secret(to.clone(), event)
        }));
        let accounts: Api<PartialObjectMeta<ServiceAccount>> =
            Api::namespaced(client.clone(), namespace);
        let to = namespace.clone();
        let all = watcher::Config::default();
        streams.push(watch(
            accounts,
            all.clone(),
            "service accounts",
            metadata,
            move |event| Change::ServiceAccount(to.clone(), event),
        ));
        let pods: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<Pod>(&()));
        let to = namespace.clone();
        streams.push(watch(pods, all.clone(), "pods", metadata, move |event| {
            Change::Pod(to.clone(), event)
        }));
        // Untyped, so that one object with a strange shape breaks no watch.
        let resource = binding::resource();
        let bindings: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), namespace, &resource);
        let to = namespace.clone();
        streams.push(watch(bindings, all, "bindings", metadata, move |event| {
            Change::Binding(to.clone(), event)
        }));
    }
    select_all(streams).boxed()
}

fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    what: &'static str,
    failed: impl Fn(&watcher::Error, &'static str) + Send + 'static,
    change: impl Fn(Event<K>) -> Change + Send + 'static,
) -> BoxStream<'static, Change>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher(api, config)
        .default_backoff()
        .filter_map(move |event| {
            let change = match event {
                Ok(event) => Some(change(event)),
                Err(error) => {
                    failed(&error, what);
                    None
                }
            };
            futures::future::ready(change)
        })
        .boxed()
}
