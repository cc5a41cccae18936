//! Who is asked for credentials, and what is known of how they are: how many
//! attempts are under way, and whether to ask at all. PURE: beginnings and ends
//! of attempts flow in, whose turn it is flows out.
//!
//! ```text
//!              failure that says nothing of the identity
//!   open ──────────────────────────────────────────────────▶ failing ──┐ failure:
//!    ▲  eight at a time                     one at a time,     │  ▲    │ back off
//!    │                                      after a back-off   │  └────┘
//!    └───────────────────── success ───────────────────────────┘
//! ```
//!
//! An outage is the upstream's, not that of the identities that met it: they
//! stay due, and go as soon as one of them succeeds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use shared::errors::{Code, Named};

use super::lease::{COLD_CAP, COLD_FIRST, Failure, LONGEST_ATTEMPT, back_off};

/// What a credential is obtained for.
pub trait Target {
    /// Who is asked for it, `host:port`. All targets of one upstream share its
    /// limit and its outages; `None` where nobody has to be spared.
    fn upstream(&self) -> Option<String>;
}

/// Attempts that are under way at one upstream.
const PARALLEL: usize = 8;
/// An upstream that asks for more time gets this much while nobody has a
/// credential to lose.
const LONGEST_REST: Duration = Duration::from_secs(300);

/// One upstream.
#[derive(Debug, Default)]
pub(super) struct Upstream {
    /// Attempts by number, and when each began.
    in_flight: BTreeMap<u64, Duration>,
    outage: Option<Outage>,
    /// The deadlines of all leases there, due or not, with how many have each.
    deadlines: BTreeMap<Duration, usize>,
    /// Tells whether others succeeded between two failures of one key.
    pub(super) successes: u64,
}

#[derive(Debug)]
struct Outage {
    failures: u32,
    /// When the last failure came.
    failed_at: Duration,
    again_at: Duration,
    /// Attempts above this number began after the last failure.
    known: u64,
    error: Named,
}

/// An attempt that failed for the upstream's sake.
pub(super) struct Failed<'a> {
    /// The upstream's name.
    pub(super) upstream: &'a str,
    pub(super) began: Began,
    pub(super) failure: &'a Failure,
    /// The shortest [`Lease::cap`](super::Lease::cap) of those that are due there.
    pub(super) cap: Option<Duration>,
    /// The number of the newest attempt of all.
    pub(super) newest: u64,
}

/// An attempt that was under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Began {
    number: u64,
    at: Duration,
}

impl Upstream {
    /// Whether the failure says nothing of the identity that met it.
    pub(super) fn is_to_blame(failure: &Failure) -> bool {
        matches!(
            failure.error.code,
            Code::ExchangeUnreachable | Code::ExchangeThrottled
        )
    }

    pub(super) fn begin(&mut self, number: u64, now: Duration) {
        self.in_flight.insert(number, now);
    }

    /// Forgets the attempt; `None` if it did not ask here.
    pub(super) fn end(&mut self, number: u64) -> Option<Began> {
        let at = self.in_flight.remove(&number)?;
        Some(Began { number, at })
    }

    pub(super) fn idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// A lease there was replaced; these are the deadlines of both.
    pub(super) fn protect(&mut self, old: Option<Duration>, new: Option<Duration>) {
        if old == new {
            return;
        }
        if let Some(old) = old
            && let Some(count) = self.deadlines.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.deadlines.remove(&old);
            }
        }
        if let Some(new) = new {
            *self.deadlines.entry(new).or_default() += 1;
        }
    }

    /// These are the deadlines of all leases there.
    pub(super) fn protect_only(&mut self, deadlines: Vec<Duration>) {
        self.deadlines.clear();
        for deadline in deadlines {
            self.protect(None, Some(deadline));
        }
    }

    /// When an attempt must give up: while the upstream is failing one runs at
    /// a time, and its time is that of every credential there.
    pub(super) fn deadline(&self) -> Duration {
        self.deadlines
            .keys()
            .next()
            .copied()
            .unwrap_or(LONGEST_ATTEMPT)
    }

    pub(super) fn succeeded(&mut self) {
        self.successes += 1;
        self.outage = None;
    }

    /// Takes a failure. The wait counts from the attempt's beginning, so that
    /// one that hung has waited already.
    pub(super) fn failed(&mut self, failed: &Failed<'_>, now: Duration, jitter: f64) {
        let (first, cap) = match failed.cap {
            Some(cap) => (cap / 8, cap),
            None => (COLD_FIRST, COLD_CAP),
        };
        let (failures, known, mut again_at) = match &self.outage {
            // It began before the last failure came: the same news again.
            Some(outage) if failed.began.number <= outage.known => {
                (outage.failures, outage.known, outage.again_at)
            }
            outage => {
                let failures = outage.as_ref().map_or(0, |it| it.failures);
                let failures = failures.saturating_add(1);
                let wait = back_off(first, cap, failures, jitter);
                let again_at = (failed.began.at + wait).max(now + first);
                (failures, failed.newest, again_at)
            }
        };
        if let Some(rest) = failed.failure.retry_after {
            again_at = again_at.max(now + rest.min(failed.cap.unwrap_or(LONGEST_REST)));
        }
        let detail = format!(
            "{}: an attempt failed there; this one waits for its turn",
            failed.upstream
        );
        self.outage = Some(Outage {
            failures,
            failed_at: now,
            again_at,
            known,
            error: Named::new(failed.failure.error.code, detail),
        });
    }

    /// Why attempts wait, if the upstream is failing. Names it alone: another
    /// key's error is nobody else's business.
    pub(super) fn error(&self) -> Option<&Named> {
        self.outage.as_ref().map(|outage| &outage.error)
    }

    /// Whether one more attempt may be under way.
    fn has_room(&self, changed: bool) -> bool {
        let probed = |outage: &Outage| self.in_flight.range(outage.known + 1..).next().is_some();
        self.in_flight.len() < PARALLEL && (changed || !self.outage.as_ref().is_some_and(probed))
    }

    /// When an attempt may begin that is ready at `ready`, and whose lease must
    /// not wait for longer than `cap`; `None` if another has to end first.
    pub(super) fn turn(
        &self,
        ready: Duration,
        cap: Option<Duration>,
        changed: bool,
    ) -> Option<Duration> {
        if !self.has_room(changed) {
            return None;
        }
        let Some(outage) = self.outage.as_ref().filter(|_| !changed) else {
            return Some(ready);
        };
        let latest = cap.map_or(Duration::MAX, |cap| ready.max(outage.failed_at) + cap);
        Some(ready.max(outage.again_at.min(latest)))
    }

    pub(super) fn is_failing(&self) -> bool {
        self.outage.is_some()
    }
}

/// Who goes first: what somebody has just repaired, what has not failed for
/// reasons of its own (a hanging proof would hold a place), at a failing
/// upstream what was not tried for longest, what expires first, what is due
/// longest. Credentials come before what has none to lose.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) unchanged: bool,
    pub(super) failing: bool,
    pub(super) tried: u64,
    pub(super) expiry: Duration,
    pub(super) ready: Duration,
}

/// Those that may begin at one upstream.
#[derive(Debug)]
pub(super) struct Queue<'a, K>(Vec<Reverse<(Rank, &'a K)>>);

impl<K> Default for Queue<'_, K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'a, K: Ord + Clone> Queue<'a, K> {
    pub(super) fn push(&mut self, rank: Rank, key: &'a K) {
        self.0.push(Reverse((rank, key)));
    }

    /// Who begins: as many as the upstream has room for, and one at a time
    /// while it is failing, except for what somebody changed.
    pub(super) fn admit(self, upstream: &Upstream) -> Vec<K> {
        let room = PARALLEL.saturating_sub(upstream.in_flight.len());
        let mut ready = BinaryHeap::from(self.0);
        let mut admitted = Vec::new();
        while admitted.len() < room
            && let Some(Reverse((rank, key))) = ready.pop()
        {
            if rank.unchanged && upstream.is_failing() && !admitted.is_empty() {
                break;
            }
            admitted.push(key.clone());
        }
        admitted
    }
}
