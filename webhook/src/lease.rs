//! Leader election: a Lease object and the time flow in, a [`Claim`] flows out.
//!
//! The lease is renewed by a task of its own, which no work can starve. Whoever
//! works looks at the claim: it ends by itself when it is not renewed in time.
//!
//! The core is pure: [`decide`] looks at a lease as it was last seen. Like
//! client-go, it never compares clocks of two machines: a lease has lapsed when
//! it has not *changed* for its duration, by the local monotonic clock. The
//! holder gives up well before that.

mod claim;

use std::{future::Future, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

pub use self::claim::{Candidacy, Claim};

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long others wait for a holder that is silent.
    pub lease: Duration,
    /// This long after a renewal the holder's claim ends. Shorter
    /// than `lease` by what stopping and a call to the API server take.
    pub renew_deadline: Duration,
    /// Pause between two renewals, and between two looks at another's lease.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        // client-go's defaults.
        Self {
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// A lease as it was last seen.
#[derive(Debug, Clone)]
pub struct Seen {
    lease: Lease,
    /// When this version of it was first seen.
    since: Instant,
}

impl Seen {
    /// Notes a look at the lease. A version that was seen before keeps its time.
    pub fn update(before: Option<Self>, lease: Lease, now: Instant) -> Self {
        let since = match before {
            Some(before) if version(&before.lease) == version(&lease) => before.since,
            _ => now,
        };
        Self { lease, since }
    }
}

fn version(lease: &Lease) -> Option<&str> {
    lease.metadata.resource_version.as_deref()
}

/// What a candidate does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is no lease: create it.
    Create,
    /// The lease is free, lapsed or our own: write our name into it.
    Acquire,
    /// Somebody holds it, until then at least.
    Wait(Instant),
}

/// Decides what the candidate `me` does about the lease it sees.
pub fn decide(seen: Option<&Seen>, me: &str, now: Instant) -> Step {
    let Some(seen) = seen else {
        return Step::Create;
    };
    let spec = seen.lease.spec.as_ref();
    let holder = spec
        .and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or_default();
    if holder.is_empty() || holder == me {
        return Step::Acquire;
    }
    let seconds = spec
        .and_then(|spec| spec.lease_duration_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or_default();
    let lapses = seen.since + Duration::from_secs(seconds);
    if lapses <= now {
        Step::Acquire
    } else {
        Step::Wait(lapses)
    }
}

/// The lease with `me` as its holder, renewed at `wall`.
fn claimed(lease: Lease, me: &str, duration: Duration, wall: Timestamp) -> Lease {
    let before = lease.spec.unwrap_or_default();
    let is_renewal = before.holder_identity.as_deref() == Some(me);
    let transitions = before.lease_transitions.unwrap_or(0);
    Lease {
        spec: Some(LeaseSpec {
            holder_identity: Some(me.to_owned()),
            lease_duration_seconds: Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)),
            renew_time: Some(MicroTime(wall)),
            acquire_time: match is_renewal {
                true => before.acquire_time,
                false => Some(MicroTime(wall)),
            },
            lease_transitions: Some(match is_renewal {
                true => transitions,
                false => transitions.saturating_add(1),
            }),
            ..LeaseSpec::default()
        }),
        metadata: lease.metadata,
    }
}

/// Why the lease was not written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// Somebody else wrote it in between.
    #[error("the lease was changed by somebody else")]
    Conflict,
    /// The API server refused or did not answer.
    #[error("the lease cannot be read or written")]
    Api(#[source] Box<kube::Error>),
}

/// Where the lease is kept. Writes are guarded by its resource version.
pub trait LeaseStore: Send + Sync {
    /// The lease, if there is one.
    fn read(&self) -> impl Future<Output = Result<Option<Lease>, LeaseError>> + Send;
    /// Creates it; a [`LeaseError::Conflict`] if somebody was faster.
    fn create(&self, lease: &Lease) -> impl Future<Output = Result<Lease, LeaseError>> + Send;
    /// Replaces the version that `lease` carries; a [`LeaseError::Conflict`]
    /// if there is another one by now.
    fn replace(&self, lease: &Lease) -> impl Future<Output = Result<Lease, LeaseError>> + Send;
}

/// A Lease object of the API server.
#[derive(Clone)]
pub struct ApiLease {
    api: Api<Lease>,
    name: String,
}

impl ApiLease {
    /// The Lease `namespace/name`.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
        }
    }

    fn error(error: kube::Error) -> LeaseError {
        match error {
            kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => {
                LeaseError::Conflict
            }
            error => LeaseError::Api(Box::new(error)),
        }
    }
}

impl LeaseStore for ApiLease {
    async fn read(&self) -> Result<Option<Lease>, LeaseError> {
        self.api.get_opt(&self.name).await.map_err(Self::error)
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        let mut lease = lease.clone();
        lease.metadata = ObjectMeta {
            name: Some(self.name.clone()),
            ..ObjectMeta::default()
        };
        let parameters = PostParams::default();
        self.api
            .create(&parameters, &lease)
            .await
            .map_err(Self::error)
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        let parameters = PostParams::default();
        let replaced = self.api.replace(&self.name, &parameters, lease).await;
        replaced.map_err(Self::error)
    }
}

/// One candidate for a lease.
#[derive(Debug)]
pub struct Election<S> {
    store: S,
    me: String,
    timing: Timing,
}

/// A lease that is held.
struct Held {
    lease: Lease,
    /// Taken before the call that renewed it: others count from later on.
    renewed: Instant,
}

impl<S: LeaseStore> Election<S> {
    /// A candidate. `me` is unique among all processes that ever were one,
    /// such as a pod's name and uid.
    pub fn new(store: S, me: String, timing: Timing) -> Self {
        Self { store, me, timing }
    }

    /// Takes part in the election from now on, in a task of its own.
    pub fn start(self) -> Candidacy
    where
        S: 'static,
    {
        let (publish, claim) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(async move { self.run(&publish, stopped).await });
        Candidacy {
            claim: Claim(claim),
            stop,
            task,
        }
    }

    async fn run(&self, claim: &watch::Sender<Option<Instant>>, stop: oneshot::Receiver<()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let mut held = tokio::select! {
                _ = &mut stop => return,
                held = self.acquire() => held,
            };
            tracing::info!(me = self.me, "leading");
            let is_lost = tokio::select! {
                _ = &mut stop => false,
                () = self.hold(&mut held, claim) => true,
            };
            claim.send_replace(None);
            if !is_lost {
                return self.release(held).await;
            }
            tracing::warn!(me = self.me, "lost the lease");
        }
    }

    async fn acquire(&self) -> Held {
        let mut seen = None;
        loop {
            let started = Instant::now();
            let deadline = started + self.timing.renew_deadline;
            match timeout_at(deadline, self.try_acquire(&mut seen)).await {
                Ok(Ok(Ok(lease))) => {
                    return Held {
                        lease,
                        renewed: started,
                    };
                }
                Ok(Ok(Err(free))) => {
                    sleep_until(free.min(Instant::now() + self.timing.retry)).await
                }
                Ok(Err(LeaseError::Conflict)) => sleep(self.timing.retry).await,
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "no look at the lease"
                    );
                    sleep(self.timing.retry).await;
                }
                Err(_elapsed) => tracing::warn!("no look at the lease: no answer in time"),
            }
        }
    }

    /// One look at the lease. Returns the held lease, or when it may be free.
    async fn try_acquire(
        &self,
        seen: &mut Option<Seen>,
    ) -> Result<Result<Lease, Instant>, LeaseError> {
        let lease = self.store.read().await?;
        *seen = lease.map(|lease| Seen::update(seen.take(), lease, Instant::now()));
        let claim = |lease| claimed(lease, &self.me, self.timing.lease, Timestamp::now());
        match decide(seen.as_ref(), &self.me, Instant::now()) {
            Step::Create => self.store.create(&claim(Lease::default())).await.map(Ok),
            Step::Acquire => {
                let lease = seen.as_ref().map(|seen| seen.lease.clone());
                self.store
                    .replace(&claim(lease.unwrap_or_default()))
                    .await
                    .map(Ok)
            }
            Step::Wait(until) => Ok(Err(until)),
        }
    }

    /// Renews the lease and the claim; returns when it is lost.
    async fn hold(&self, held: &mut Held, claim: &watch::Sender<Option<Instant>>) {
        loop {
            let deadline = held.renewed + self.timing.renew_deadline;
            claim.send_replace(Some(deadline));
            if timeout_at(deadline, sleep(self.timing.retry))
                .await
                .is_err()
            {
                return;
            }
            let started = Instant::now();
            match timeout_at(deadline, self.renew(&held.lease)).await {
                Ok(Ok(Some(lease))) => {
                    *held = Held {
                        lease,
                        renewed: started,
                    }
                }
                Ok(Ok(None)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the lease was not renewed"
                    );
                }
            }
        }
    }

    /// Returns the renewed lease, or `None` if somebody else holds it.
    async fn renew(&self, lease: &Lease) -> Result<Option<Lease>, LeaseError> {
        let claim = |lease| claimed(lease, &self.me, self.timing.lease, Timestamp::now());
        match self.store.replace(&claim(lease.clone())).await {
            Err(LeaseError::Conflict) => {}
            result => return result.map(Some),
        }
        // Changed or deleted by hand, perhaps; still ours only if it says so.
        let is_mine = |lease: &Lease| {
            lease
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.as_deref())
                == Some(&self.me)
        };
        match self.store.read().await? {
            Some(lease) if is_mine(&lease) => self.store.replace(&claim(lease)).await.map(Some),
            _ => Ok(None),
        }
    }

    /// Lets the next candidate in at once. If that fails, the lease lapses.
    async fn release(&self, held: Held) {
        let mut lease = held.lease;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        let deadline = Instant::now() + self.timing.retry;
        match timeout_at(deadline, self.store.replace(&lease)).await {
            Ok(Ok(_)) => tracing::info!(me = self.me, "released the lease"),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the lease was not released"
                );
            }
            Err(_elapsed) => tracing::warn!("the lease was not released in time"),
        }
    }
}

#[cfg(test)]
mod tests;
