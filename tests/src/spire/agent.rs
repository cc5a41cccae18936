//! How the stand-in treats every call of both APIs: it counts, suffers the faults of the test, answers.
//!
//! Flows in: requests without their transport. Flows out: answers, streams of answers, SPIRE's statuses.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;
use tonic::{Code, Status};

use super::journal::{Call, Journal, Method};
use super::world::{Entry, Fault, Scope, World};
use crate::quay::lock;

/// Messages of a stream, or how it ends.
pub(super) type Messages<M> = BoxStream<'static, Result<M, Status>>;

/// What both services share with the test.
pub(super) struct Agent {
    world: Mutex<World>,
    changes: watch::Sender<()>,
    pub(super) journal: Journal,
}

/// One call, from its arrival to its answer.
pub(super) struct Exchange {
    agent: Arc<Agent>,
    method: Method,
    selectors: BTreeSet<String>,
    audience: Vec<String>,
}

/// A message of a stream: whose SVIDs it has, and when it has to be made again at the latest.
pub(super) struct Composed<M> {
    pub(super) message: M,
    pub(super) entries: Vec<Entry>,
    pub(super) again_after: Option<Duration>,
}

impl<M> Composed<M> {
    /// A message that changes only when the test changes something.
    pub(super) fn lasting(message: M) -> Self {
        Self {
            message,
            entries: Vec::new(),
            again_after: None,
        }
    }
}

impl Agent {
    pub(super) fn new(world: World) -> Self {
        Self {
            world: Mutex::new(world),
            changes: watch::Sender::default(),
            journal: Journal::default(),
        }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// Changes the world; streams push what is new in it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let result = change(&mut self.world());
        self.changes.send_replace(());
        result
    }

    /// Begins a call: counts it, and waits for the faults of its method.
    pub(super) async fn arrive(
        self: &Arc<Self>,
        method: Method,
        selectors: BTreeSet<String>,
        audience: Vec<String>,
    ) -> Result<Exchange, Status> {
        self.journal.arrive(method);
        let exchange = Exchange {
            agent: Arc::clone(self),
            method,
            selectors,
            audience,
        };
        let suffered = self.suffer(&Scope::Method(method)).await;
        suffered.map_err(|status| exchange.refuse(status))?;
        Ok(exchange)
    }

    async fn suffer(&self, scope: &Scope) -> Result<(), Status> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let fault = self.world().fault(scope);
            match fault {
                None | Some(Fault::Silence) => return Ok(()),
                Some(Fault::Refuse(code, message)) => return Err(Status::new(code, message)),
                Some(Fault::Delay(delay)) => {
                    tokio::time::sleep(delay).await;
                    return Ok(());
                }
                Some(Fault::Hang) => {
                    // The sender lives as long as `self`.
                    let _ = changes.changed().await;
                }
            }
        }
    }
}

impl Exchange {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.agent.world()
    }

    pub(super) fn selectors(&self) -> &BTreeSet<String> {
        &self.selectors
    }

    /// Waits for the faults of the SPIFFE IDs that the answer is going to have.
    pub(super) async fn suffer(&self, entries: &[Entry]) -> Result<(), Status> {
        for entry in entries {
            let scope = Scope::SpiffeId(entry.spiffe_id.clone());
            self.agent.suffer(&scope).await?;
        }
        Ok(())
    }

    /// Writes the call down as refused.
    pub(super) fn refuse(&self, status: Status) -> Status {
        self.record(&[], status.code());
        status
    }

    /// Writes the call down as answered.
    pub(super) fn answer<M>(&self, entries: &[Entry], message: M) -> M {
        self.record(entries, Code::Ok);
        message
    }

    /// Streams what `compose` makes of the world, at first and whenever it is another than the last. An error
    /// ends the stream.
    pub(super) fn stream<M, F>(self, compose: F) -> Messages<M>
    where
        M: Clone + PartialEq + Send + 'static,
        F: FnMut(&mut World, &BTreeSet<String>) -> Result<Composed<M>, Status> + Send + 'static,
    {
        let changes = self.agent.changes.subscribe();
        let state = Some(Subscription {
            exchange: self,
            changes,
            compose,
            last: None,
        });
        stream::unfold(state, async |state| state?.next().await).boxed()
    }

    fn record(&self, entries: &[Entry], status: Code) {
        self.agent.journal.record(Call {
            method: self.method,
            selectors: self.selectors.iter().cloned().collect(),
            audience: self.audience.clone(),
            spiffe_ids: entries.iter().map(|it| it.spiffe_id.clone()).collect(),
            status,
        });
    }
}

struct Subscription<M, F> {
    exchange: Exchange,
    changes: watch::Receiver<()>,
    compose: F,
    last: Option<M>,
}

impl<M, F> Subscription<M, F>
where
    M: Clone + PartialEq,
    F: FnMut(&mut World, &BTreeSet<String>) -> Result<Composed<M>, Status>,
{
    /// The next message, and the subscription unless it has ended.
    async fn next(mut self) -> Option<(Result<M, Status>, Option<Self>)> {
        loop {
            self.changes.borrow_and_update();
            let again_after = match self.look() {
                Ok(None) => None,
                Ok(Some(composed)) => {
                    if self.last.as_ref() != Some(&composed.message) {
                        if self.last.is_none() {
                            self.exchange.record(&composed.entries, Code::Ok);
                        }
                        self.last = Some(composed.message.clone());
                        return Some((Ok(composed.message), Some(self)));
                    }
                    composed.again_after
                }
                Err(status) => return Some((Err(self.exchange.refuse(status)), None)),
            };
            let again = async {
                match again_after {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = again => {}
            }
        }
    }

    /// What there is to send, unless the stream is to be silent.
    fn look(&mut self) -> Result<Option<Composed<M>>, Status> {
        let mut world = self.exchange.agent.world();
        if world.fault(&Scope::Method(self.exchange.method)) == Some(Fault::Silence) {
            return Ok(None);
        }
        (self.compose)(&mut world, &self.exchange.selectors).map(Some)
    }
}
