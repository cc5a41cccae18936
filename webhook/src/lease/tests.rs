use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, advance},
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn lease(version: &str, holder: &str, seconds: i32) -> Lease {
    Lease {
        metadata: ObjectMeta {
            resource_version: Some(version.into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        }),
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_lapses_when_it_does_not_change() {
    let start = Instant::now();
    assert_eq!(decide(None, "me", start), Step::Create);
    let seen = Seen::update(None, lease("1", "other", 15), start);
    assert_eq!(
        decide(Some(&seen), "me", start),
        Step::Wait(start + 15 * SECOND)
    );

    // The same version, looked at later, does not start anew.
    let seen = Seen::update(Some(seen), lease("1", "other", 15), start + 10 * SECOND);
    assert_eq!(
        decide(Some(&seen), "me", start + 14 * SECOND),
        Step::Wait(start + 15 * SECOND)
    );
    assert_eq!(
        decide(Some(&seen), "me", start + 15 * SECOND),
        Step::Acquire
    );

    // Another one does.
    let seen = Seen::update(Some(seen), lease("2", "other", 15), start + 14 * SECOND);
    assert_eq!(
        decide(Some(&seen), "me", start + 20 * SECOND),
        Step::Wait(start + 29 * SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn free_and_own_leases_are_taken_at_once() {
    let now = Instant::now();
    for holder in ["", "me"] {
        let seen = Seen::update(None, lease("1", holder, 15), now);
        assert_eq!(decide(Some(&seen), "me", now), Step::Acquire, "{holder:?}");
    }
    let mut bare = lease("1", "", 15);
    bare.spec = None;
    let seen = Seen::update(None, bare, now);
    assert_eq!(decide(Some(&seen), "me", now), Step::Acquire);
}

#[test]
fn transitions_count_holders_not_renewals() {
    let wall = Timestamp::UNIX_EPOCH;
    let spec = |lease: Lease| lease.spec.unwrap();
    let first = claimed(lease("1", "other", 15), "me", 15 * SECOND, wall);
    assert_eq!(first.spec.as_ref().unwrap().lease_transitions, Some(1));
    let later = wall + 5 * SECOND;
    let again = spec(claimed(first, "me", 15 * SECOND, later));
    assert_eq!(again.lease_transitions, Some(1));
    assert_eq!(again.acquire_time, Some(MicroTime(wall)));
    assert_eq!(again.renew_time, Some(MicroTime(later)));
}

/// An API server with one lease; `down` makes every call hang.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Server>>);

#[derive(Default)]
struct Server {
    lease: Option<Lease>,
    version: u64,
    down: bool,
}

impl Fake {
    fn down(&self, down: bool) {
        self.0.lock().unwrap().down = down;
    }

    fn holder(&self) -> Option<String> {
        self.0.lock().unwrap().lease.clone()?.spec?.holder_identity
    }

    /// Somebody changes the lease by hand.
    fn overwrite(&self, holder: &str) {
        let mut server = self.0.lock().unwrap();
        server.version += 1;
        server.lease = Some(lease(&server.version.to_string(), holder, 15));
    }

    async fn up(&self) {
        while self.0.lock().unwrap().down {
            sleep(SECOND / 10).await;
        }
    }

    fn store(&self, mut lease: Lease) -> Lease {
        let mut server = self.0.lock().unwrap();
        server.version += 1;
        lease.metadata.resource_version = Some(server.version.to_string());
        server.lease = Some(lease.clone());
        lease
    }
}

impl LeaseStore for Fake {
    async fn read(&self) -> Result<Option<Lease>, LeaseError> {
        self.up().await;
        Ok(self.0.lock().unwrap().lease.clone())
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        self.up().await;
        if self.0.lock().unwrap().lease.is_some() {
            return Err(LeaseError::Conflict);
        }
        Ok(self.store(lease.clone()))
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        self.up().await;
        let current = self.0.lock().unwrap().lease.clone();
        if current.as_ref().and_then(version) != version(lease) {
            return Err(LeaseError::Conflict);
        }
        Ok(self.store(lease.clone()))
    }
}

/// A candidate whose work counts itself while it runs.
struct Candidate {
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
    claim: Claim,
}

impl Candidate {
    fn start(name: &str, server: &Fake, working: &Arc<AtomicUsize>) -> Self {
        let election = Election::new(server.clone(), name.to_owned(), Timing::default());
        let candidacy = election.start();
        let (stop, stopped) = oneshot::channel::<()>();
        let (mut claim, working) = (candidacy.claim(), working.clone());
        let shown = claim.clone();
        let task = tokio::spawn(async move {
            let work = async {
                loop {
                    claim.held().await;
                    assert_eq!(working.fetch_add(1, Ordering::SeqCst), 0, "two leaders");
                    let _working = Working(working.clone());
                    claim.ended().await;
                }
            };
            tokio::select! {
                () = work => {}
                _ = stopped => {}
            }
            candidacy.release().await;
        });
        Self {
            stop: Some(stop),
            task,
            claim: shown,
        }
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
        assert!(!self.claim.is_held());
    }
}

struct Working(Arc<AtomicUsize>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Lets the paused clock run in small steps, so that every timer fires in turn.
async fn run_for(duration: Duration) {
    let step = SECOND / 20;
    let mut left = duration;
    while left > Duration::ZERO {
        advance(step).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        left = left.saturating_sub(step);
    }
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_hands_over_at_shutdown() {
    let (server, working) = (Fake::default(), Arc::default());
    let a = Candidate::start("a", &server, &working);
    run_for(SECOND).await;
    let b = Candidate::start("b", &server, &working);
    run_for(60 * SECOND).await;
    assert_eq!(server.holder().as_deref(), Some("a"));
    assert_eq!(working.load(Ordering::SeqCst), 1);

    a.stop().await;
    assert_eq!(server.holder(), None, "released");
    run_for(3 * SECOND).await;
    assert_eq!(server.holder().as_deref(), Some("b"));
    assert_eq!(working.load(Ordering::SeqCst), 1);
    b.stop().await;
    assert_eq!(working.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_holder_stops_before_its_lease_lapses_and_starts_again() {
    let (server, working) = (Fake::default(), Arc::default());
    let a = Candidate::start("a", &server, &working);
    run_for(SECOND).await;
    assert_eq!(working.load(Ordering::SeqCst), 1);
    server.down(true);
    run_for(13 * SECOND).await;
    assert_eq!(
        working.load(Ordering::SeqCst),
        0,
        "stopped within the lease's 15 s"
    );
    server.down(false);
    run_for(5 * SECOND).await;
    assert_eq!(working.load(Ordering::SeqCst), 1);
    a.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_crashed_holder_is_followed_when_its_lease_lapses() {
    let (server, working) = (Fake::default(), Arc::default());
    server.overwrite("crashed");
    let a = Candidate::start("a", &server, &working);
    run_for(14 * SECOND).await;
    assert_eq!(server.holder().as_deref(), Some("crashed"));
    run_for(4 * SECOND).await;
    assert_eq!(server.holder().as_deref(), Some("a"));
    a.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_taken_by_hand_is_lost_at_the_next_renewal() {
    let (server, working) = (Fake::default(), Arc::default());
    let a = Candidate::start("a", &server, &working);
    run_for(SECOND).await;
    server.overwrite("other");
    run_for(3 * SECOND).await;
    assert_eq!(working.load(Ordering::SeqCst), 0);
    assert_eq!(server.holder().as_deref(), Some("other"));
    a.stop().await;
    assert_eq!(
        server.holder().as_deref(),
        Some("other"),
        "another's lease is not released"
    );
}

#[tokio::test(start_paused = true)]
async fn a_claim_ends_by_itself_when_nobody_renews_it() {
    let (server, working) = (Fake::default(), Arc::default());
    let a = Candidate::start("a", &server, &working);
    run_for(SECOND).await;
    assert!(a.claim.is_held());
    server.down(true);
    // Not even the task that renews gets its turn.
    tokio::time::advance(11 * SECOND).await;
    assert!(!a.claim.is_held());
    server.down(false);
    run_for(5 * SECOND).await;
    assert!(a.claim.is_held());
    a.stop().await;
}

/// In real time: work that never awaits, three times as long as a lease that is
/// not renewed is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_computation_does_not_lose_the_lease() {
    let timing = Timing {
        lease: 2 * SECOND,
        renew_deadline: SECOND,
        retry: SECOND / 20,
    };
    let server = Fake::default();
    let candidacy = Election::new(server.clone(), "a".to_owned(), timing).start();
    let mut claim = candidacy.claim();
    let computed = tokio::spawn(async move {
        claim.held().await;
        for _ in 0..30 {
            std::thread::sleep(SECOND / 10);
            assert!(claim.is_held());
        }
    });
    computed.await.unwrap();
    assert_eq!(server.holder().as_deref(), Some("a"));
    let spec = server.0.lock().unwrap().lease.clone().unwrap().spec;
    assert_eq!(spec.unwrap().lease_transitions, Some(1));
    candidacy.release().await;
    assert_eq!(server.holder(), None);
}
