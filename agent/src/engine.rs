//! The one task that owns all state. Publish and unpublish events, bindings,
//! ended attempts and time flow in; attempts are started, volumes are brought
//! up to date and reports flow out.
//!
//! ```text
//!  csi ──Published/Unpublished──▶ ┌────────┐ ──Attempt──▶ acquire (tasks)
//!  bindings ──(watch)───────────▶ │ engine │ ◀──Outcome──
//!  timer ───────────────────────▶ └────────┘ ──▶ volumes (files), reports
//! ```
//!
//! It is level-triggered: after any burst of events the demand is computed
//! anew, the machine takes its steps, and each volume is compared with what it
//! should hold. Writing is cheap (a tmpfs, and unchanged files are left alone),
//! so it happens in place.

mod clock;
mod handle;
mod volumes;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shared::allow_list::AllowList;
use shared::errors::{Code, Named};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::acquire::{Acquirer, PodTokens, failed};
use crate::demand::{BindingRef, Bindings, Consumer, Demand, Holder, Key, View, demand};
use crate::exchange::Credential;
use crate::identity::IdentitySource;
use crate::refresh::{self, Action, Attempt, Machine, Outcome};
use crate::report::{Reports, Rotation, node_statuses};

pub use clock::Clock;
pub use handle::{Event, Handle, channel};
use volumes::Volumes;

/// The clocks are compared at least this often: one of them may have jumped.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// After a start kubelet needs this long to publish every volume again; until
/// then a binding without a consumer may have one.
const SETTLING: Duration = Duration::from_secs(120);

/// The state.
pub struct Engine<S> {
    node: String,
    clock: Clock,
    acquirer: Arc<Acquirer<S>>,
    reports: watch::Sender<Reports>,
    consumers: BTreeMap<PathBuf, Consumer>,
    volumes: Volumes,
    /// `None` until the first list is complete: nobody loses anything because
    /// the API server has not answered yet.
    bindings: Option<Arc<Bindings>>,
    demand: Demand,
    machine: Machine<Key, Holder, Credential>,
    rotations: BTreeMap<BindingRef, Rotation>,
    tasks: JoinSet<Outcome<Holder, Credential>>,
    running: HashMap<Id, Attempt<Key, Holder>>,
    waiting: Vec<oneshot::Sender<()>>,
}

impl<S: IdentitySource> Engine<S> {
    /// An engine for `node` that reports to `reports`. Credential proxies are
    /// told `allowed_hosts`.
    pub fn new(
        node: String,
        clock: Clock,
        acquirer: Acquirer<S>,
        allowed_hosts: AllowList,
        reports: watch::Sender<Reports>,
    ) -> Self {
        Self {
            node,
            clock,
            acquirer: Arc::new(acquirer),
            reports,
            consumers: BTreeMap::new(),
            volumes: Volumes::new(allowed_hosts),
            bindings: None,
            demand: Demand::default(),
            machine: Machine::default(),
            rotations: BTreeMap::new(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            waiting: Vec::new(),
        }
    }

    /// Takes over volumes of an earlier process. Expired files go at once.
    pub fn adopt(&mut self, volumes: impl IntoIterator<Item = (PathBuf, View)>) {
        for (volume, view) in volumes {
            self.volumes.open(volume, view);
        }
        self.write_volumes();
    }

    /// Runs until every [`Handle`] is gone.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut bindings: watch::Receiver<Option<Arc<Bindings>>>,
    ) {
        while self.turn(&mut events, &mut bindings).await {}
    }

    /// Waits for something to happen, and deals with it and with all that
    /// happened meanwhile: one write for a burst. False when every [`Handle`]
    /// is gone.
    async fn turn(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        bindings: &mut watch::Receiver<Option<Arc<Bindings>>>,
    ) -> bool {
        let wake_at = self.wake_at();
        let mut changed = false;
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => {
                    self.take(event);
                    changed = true;
                }
                None => return false,
            },
            Ok(()) = bindings.changed() => {
                self.bindings.clone_from(&bindings.borrow_and_update());
                changed = true;
            }
            Some(ended) = self.tasks.join_next_with_id() => self.conclude(ended),
            () = sleep_until(wake_at) => self.step(refresh::Event::Tick),
        }
        while let Ok(event) = events.try_recv() {
            self.take(event);
            changed = true;
        }
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.conclude(ended);
        }
        if changed {
            self.want();
        }
        self.write_volumes();
        self.report();
        for done in self.waiting.drain(..) {
            let _ = done.send(());
        }
        true
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Published { consumer, done } => {
                self.volumes.open(consumer.volume.clone(), consumer.view);
                self.consumers.insert(consumer.volume.clone(), consumer);
                self.waiting.push(done);
            }
            Event::Unpublished { volume, done } => {
                self.consumers.remove(&volume);
                self.volumes.close(&volume);
                self.waiting.push(done);
            }
        }
    }

    /// Computes the demand anew, and lets the machine know.
    fn want(&mut self) {
        let Some(bindings) = &self.bindings else {
            return;
        };
        self.demand = demand(self.consumers.values(), bindings);
        self.rotations
            .retain(|binding, _| self.demand.served.contains_key(binding));
        self.step(refresh::Event::Wanted(self.demand.wanted.clone()));
    }

    fn step(&mut self, event: refresh::Event<Key, Holder, Credential>) {
        let now = self.clock.now();
        for action in self.machine.step(event, now, jitter()) {
            match action {
                Action::Acquire(attempt) => self.start(attempt),
                Action::Deliver(holder) => {
                    tracing::info!(binding = %holder.binding, service_account = holder.service_account, "credential obtained");
                    let rotation = self.rotations.entry(holder.binding).or_default();
                    // Several service accounts of one binding are one rotation.
                    if rotation.at != Some(now.wall) {
                        rotation.count += 1;
                        rotation.at = Some(now.wall);
                    }
                }
                Action::Withdraw(holder) => {
                    tracing::info!(binding = %holder.binding, service_account = holder.service_account, "credential withdrawn");
                }
            }
        }
    }

    fn start(&mut self, attempt: Attempt<Key, Holder>) {
        let pods = self.pod_tokens(&attempt.holders);
        let acquirer = Arc::clone(&self.acquirer);
        let task = {
            let attempt = attempt.clone();
            async move { acquirer.acquire(attempt, pods).await }
        };
        self.running.insert(self.tasks.spawn(task).id(), attempt);
    }

    /// For each holder the token that lives longest.
    fn pod_tokens(&self, holders: &[Holder]) -> PodTokens {
        let now = self.clock.now().wall;
        holders
            .iter()
            .filter_map(|holder| {
                let consumer = self
                    .consumers
                    .values()
                    .filter(|it| {
                        it.namespace == holder.binding.namespace
                            && it.service_account == holder.service_account
                            && it.token_expires_at > now
                    })
                    .max_by_key(|it| it.token_expires_at)?;
                Some((holder.clone(), consumer.token.clone()))
            })
            .collect()
    }

    fn conclude(&mut self, ended: Result<(Id, Outcome<Holder, Credential>), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(attempt) = self.running.remove(&id) else {
            return;
        };
        let outcome = match ended {
            Ok((_, outcome)) => outcome,
            Err(error) => {
                tracing::error!(%error, "an attempt broke off");
                failed(
                    &attempt,
                    &Named::new(Code::ExchangeUnreachable, "the attempt broke off"),
                )
            }
        };
        log_failures(&attempt, &outcome);
        self.step(refresh::Event::Acquired {
            key: attempt.key,
            number: attempt.number,
            outcome,
        });
    }

    fn wake_at(&self) -> Instant {
        let now = self.clock.now();
        let inherited = self.volumes.next_expiry().map(|at| {
            now.mono + Duration::try_from(at.duration_since(now.wall)).unwrap_or_default()
        });
        let heartbeat = now.mono + HEARTBEAT;
        let wakes = self.machine.wake_at().into_iter().chain(inherited);
        self.clock.start + wakes.fold(heartbeat, Duration::min)
    }

    fn write_volumes(&mut self) {
        let now = self.clock.now().wall;
        self.volumes.write(&self.demand, &self.machine, now);
    }

    /// Tells how every binding stands that has a consumer here, and who has none.
    fn report(&self) {
        let Some(bindings) = &self.bindings else {
            return;
        };
        let nodes = node_statuses(
            &self.node,
            &self.demand,
            &self.machine,
            &self.rotations,
            &self.volumes.errors,
        );
        let settled = self.clock.now().mono >= SETTLING;
        let left = bindings
            .iter()
            .filter(|(reference, binding)| {
                settled && binding.reported_here && !nodes.contains_key(reference)
            })
            .map(|(reference, _)| reference.clone())
            .collect();
        let empty = self.demand.empty.clone();
        let reports = Reports { nodes, left, empty };
        self.reports.send_if_modified(|current| {
            let changed = *current != reports;
            *current = reports;
            changed
        });
    }
}

fn log_failures(attempt: &Attempt<Key, Holder>, outcome: &Outcome<Holder, Credential>) {
    for (holder, proof) in &outcome.proofs {
        if let Err(error) = proof {
            tracing::warn!(binding = %holder.binding, code = %error.code, "no identity: {error}");
        }
    }
    if let Some(Err(refresh::Failure { error, .. })) = &outcome.credential {
        tracing::warn!(identity = attempt.key.subject, code = %error.code, "no credential: {error}");
    }
}

/// A number from 0 to 1 that differs between nodes and calls. `RandomState` is
/// seeded by the system; nothing here needs to be unpredictable.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
