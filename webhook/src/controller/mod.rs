//! Controller: Secrets of the Argo CD namespaces flow in, CredentialBindings,
//! their conditions and events flow out.
//!
//! ```text
//! watches ─▶ world ─▶ queue ─▶ bindings: GET Secret, derive, plan
//!   Secrets, service accounts,     │  (if it is another one)
//!   nodes: metadata only           ├─▶ apply or delete the binding
//!   pods, CredentialBindings       └─▶ status ─▶ conditions, events
//!                        ▲
//! lease: a task of its own ─▶ claim: looks while it is held
//! ```
//!
//! What decides (world, queue, plan, status) is in the core; here are the
//! watches, the calls and the lease.
//!
//! Secrets are watched by metadata, so that their values are in this process
//! only while one of them is being looked at. Everything is level-triggered: a
//! key in the queue means "look again", and looking again changes nothing when
//! nothing has changed.
//!
//! Every replica watches, so that the next leader knows everything already.
//! Nothing here computes for long without a pause, however long a list is.

pub mod bindings;
mod events;
#[cfg(test)]
mod fake;
mod look;
pub mod metrics;
mod objects;
#[cfg(test)]
mod testing;
mod watches;

use std::{
    collections::{BTreeSet, HashSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream, stream::FuturesUnordered};
use kube::Client;
use tokio::{
    task::yield_now,
    time::{Instant, sleep_until, timeout},
};

use self::{
    bindings::{Failure, Reconciler},
    metrics::Metrics,
};
use crate::{
    issuer::keys::InForce,
    lease::{ApiLease, Claim, Election, Timing},
};
use control_plane_core::{
    bindings::{
        queue::Queue,
        world::{Change, Key, Snapshot, World},
    },
    derive::Derivation,
};

/// Name of the Lease, in the installation's namespace.
pub const LEASE: &str = "argocd-identity-controller";

/// Bindings that are worked on at once.
const CONCURRENCY: usize = 4;
/// For one look at one binding, all calls together.
const DEADLINE: Duration = Duration::from_secs(30);
/// Looks at claims between two pauses; each takes some microseconds.
const STEPS: usize = 500;
/// How long events are taken in between two pauses.
const TURN: Duration = Duration::from_millis(10);

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

/// The controller ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("the controller's watches ended")]
pub struct Ended;

/// Watches until `shutdown`, and works whenever this process leads.
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
    let candidacy = election.start();
    let claim = candidacy.claim();
    // Calls that are under way end with this statement, before others lead.
    let ended = tokio::select! {
        () = shutdown => Ok(()),
        ended = control(client, &config, &metrics, claim) => Err(ended),
    };
    candidacy.release().await;
    ended
}

/// The controller itself, which works while `claim` is held. Ends only with an
/// error.
pub async fn control(
    client: Client,
    config: &ControllerConfig,
    metrics: &Metrics,
    mut claim: Claim,
) -> Ended {
    let mut changes = watches::changes(&client, config, metrics);
    let reconciler = Arc::new(Reconciler::new(
        client,
        config.derivation.clone(),
        config.signature.clone(),
        &config.instance,
    ));
    let mut known = Known::new();
    loop {
        if claim.is_held() {
            let _leading = metrics.lead();
            let work = work(&mut known, &mut changes, &reconciler, metrics);
            tokio::select! {
                // First, so that nothing is sent once the claim has ended.
                biased;
                () = claim.ended() => {}
                ended = work => return ended,
            }
        } else {
            tokio::select! {
                () = claim.held() => {}
                ended = follow(&mut known, &mut changes, metrics) => return ended,
            }
        }
    }
}

/// Keeps what is known up to date, and does nothing about it.
async fn follow(
    known: &mut Known,
    changes: &mut BoxStream<'static, Change>,
    metrics: &Metrics,
) -> Ended {
    loop {
        known.settle().await;
        known.show(metrics);
        let Some(change) = changes.next().await else {
            return Ended;
        };
        known.take_in(change);
        known.rest().await;
    }
}

/// Works until it is dropped.
async fn work(
    known: &mut Known,
    changes: &mut BoxStream<'static, Change>,
    reconciler: &Arc<Reconciler>,
    metrics: &Metrics,
) -> Ended {
    known.resume();
    let mut running = FuturesUnordered::new();
    loop {
        known.settle().await;
        known.show(metrics);
        while running.len() < CONCURRENCY {
            let Some((key, snapshot)) = known.next() else {
                break;
            };
            let reconciler = Arc::clone(reconciler);
            running.push(async move {
                let started = Instant::now();
                let work = timeout(DEADLINE, reconciler.reconcile(&key, &snapshot)).await;
                (
                    key,
                    work.unwrap_or(Err(Failure::Timeout)),
                    started.elapsed(),
                )
            });
        }
        let due = known.due().filter(|_| running.len() < CONCURRENCY);
        tokio::select! {
            change = changes.next() => match change {
                None => return Ended,
                Some(change) => known.take_in(change),
            },
            Some((key, result, took)) = running.next() => {
                metrics.reconciled(result.is_ok(), took);
                known.finish(key, result);
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        known.rest().await;
    }
}

/// What is known, and what is to be done about it.
struct Known {
    world: World,
    queue: Queue,
    busy: HashSet<Key>,
    /// When the last pause was.
    rested: std::time::Instant,
}

impl Known {
    fn new() -> Self {
        Self {
            world: World::default(),
            queue: Queue::default(),
            busy: HashSet::new(),
            rested: std::time::Instant::now(),
        }
    }

    fn take_in(&mut self, change: Change) {
        let keys = self.world.apply(change);
        self.add(keys);
    }

    fn add(&mut self, keys: BTreeSet<Key>) {
        let now = Instant::now().into_std();
        for key in keys {
            self.queue.add(key, now);
        }
    }

    /// Finds out who stands back for whom.
    async fn settle(&mut self) {
        loop {
            let (keys, is_settled) = self.world.settle(STEPS);
            self.add(keys);
            if is_settled {
                break;
            }
            yield_now().await;
        }
        for namespace in self.world.newly_known() {
            self.queue.open(&namespace);
        }
    }

    /// Lets other tasks have their turn, if this one has had its own for long.
    async fn rest(&mut self) {
        if self.rested.elapsed() > TURN {
            yield_now().await;
            self.rested = std::time::Instant::now();
        }
    }

    /// Puts back what was under way when the work was dropped.
    fn resume(&mut self) {
        let keys = std::mem::take(&mut self.busy);
        self.add(keys.into_iter().collect());
    }

    fn next(&mut self) -> Option<(Key, Snapshot)> {
        let now = Instant::now().into_std();
        let key = self.queue.take(now, |key| !self.busy.contains(key))?;
        self.busy.insert(key.clone());
        let snapshot = self.world.snapshot(&key);
        Some((key, snapshot))
    }

    fn due(&self) -> Option<Instant> {
        let due = self.queue.next_due(|key| !self.busy.contains(key));
        due.map(Instant::from_std)
    }

    fn finish(&mut self, key: Key, result: Result<Option<Duration>, Failure>) {
        self.busy.remove(&key);
        let now = Instant::now().into_std();
        match result {
            Ok(again) => self.queue.succeeded(key, again.map(|after| now + after)),
            Err(error) => {
                let (namespace, name) = (&*key.namespace, &*key.name);
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    namespace,
                    name,
                    error,
                    "a binding could not be brought up to date"
                );
                self.queue.failed(key, now);
            }
        }
    }

    fn show(&self, metrics: &Metrics) {
        let namespaces = self.world.known_namespaces();
        metrics.known(self.queue.len(), self.world.bindings(), namespaces);
    }
}
