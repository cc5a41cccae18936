//! What is known of one key: its credential, its holders, what is under way and
//! what is due. PURE: outcomes and the time flow in, what to prove and when to
//! look again flow out.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use shared::errors::{Code, Named};

use super::Outcome;
use super::agenda::Nap;
use super::lease::{
    COLD_CAP, Failure, Fresh, LONGEST_ATTEMPT, Lease, Now, REFUSED_CAP, cold_cap, cold_wait,
};
use super::upstream::Rank;

#[derive(Debug)]
pub(super) struct Entry<H, C> {
    /// Who is asked for the credential.
    pub(super) upstream: Option<String>,
    pub(super) holders: BTreeMap<H, Holding<C>>,
    pub(super) lease: Option<Lease<C>>,
    pub(super) in_flight: Option<InFlight<H>>,
    pub(super) failures: u32,
    pub(super) retry_at: Duration,
    pub(super) error: Option<Named>,
    /// Since when a credential is due, as far as a step has seen it.
    pub(super) due_since: Option<Duration>,
    /// Somebody changed a binding: it does not wait for a failing upstream.
    pub(super) changed: bool,
    /// The last attempt, if it failed for the upstream's sake.
    blamed: Option<Blamed>,
}

#[derive(Debug, Clone, Copy)]
struct Blamed {
    number: u64,
    /// How often the upstream had served others.
    successes: u64,
}

#[derive(Debug)]
pub(super) struct InFlight<H> {
    pub(super) number: u64,
    pub(super) renew: bool,
    /// Of each holder that is being proved, as it was at the start.
    pub(super) revisions: BTreeMap<H, i64>,
}

#[derive(Debug)]
pub(super) struct Holding<C> {
    pub(super) revision: i64,
    pub(super) held: Option<Lease<C>>,
    /// Proved for this lease of the entry.
    pub(super) proved: Option<u64>,
    pub(super) failures: u32,
    pub(super) retry_at: Duration,
    pub(super) error: Option<Named>,
}

impl<H, C> Entry<H, C> {
    pub(super) fn new(upstream: Option<String>, now: Now) -> Self {
        Self {
            upstream,
            holders: BTreeMap::new(),
            lease: None,
            in_flight: None,
            failures: 0,
            retry_at: now.mono,
            error: None,
            due_since: Some(now.mono),
            changed: false,
            blamed: None,
        }
    }
}

impl<C> Holding<C> {
    pub(super) fn new(revision: i64, now: Now) -> Self {
        Self {
            revision,
            held: None,
            proved: None,
            failures: 0,
            retry_at: now.mono,
            error: None,
        }
    }
}

impl<H: Ord + Clone, C: Clone> Entry<H, C> {
    /// Takes in a holder; returns whether it, or its binding, is new here. Then
    /// there is no back-off, and it has to be proved.
    pub(super) fn want(&mut self, holder: H, revision: i64, now: Now) -> bool {
        use std::collections::btree_map::Entry::{Occupied, Vacant};

        match self.holders.entry(holder) {
            Vacant(place) => drop(place.insert(Holding::new(revision, now))),
            Occupied(known) if known.get().revision == revision => return false,
            Occupied(known) => {
                let holding = known.into_mut();
                holding.revision = revision;
                holding.proved = None;
                holding.failures = 0;
                holding.retry_at = now.mono;
            }
        }
        self.failures = 0;
        self.retry_at = now.mono;
        true
    }

    /// Whether the upstream is to blame for an attempt that failed there: not
    /// if it served others since the last time.
    pub(super) fn blames(&mut self, number: u64, successes: u64) -> bool {
        let last = self.blamed.replace(Blamed { number, successes });
        last.is_none_or(|it| it.successes == successes)
    }

    /// Takes an attempt's outcome; returns who has a new credential. The entry
    /// does not back off for what is the upstream's.
    pub(super) fn conclude(
        &mut self,
        attempt: &InFlight<H>,
        outcome: Outcome<H, C>,
        blamed: bool,
        now: Now,
        jitter: f64,
        serial: u64,
    ) -> Vec<H> {
        match outcome.credential {
            Some(Err(failure)) if attempt.renew && blamed => self.error = Some(failure.error),
            credential if attempt.renew => {
                let cap = outcome.proofs.values().filter_map(|it| it.as_ref().err());
                let cap = cap.map(|error| cold_cap(COLD_CAP, error.code)).min();
                let cap = cap.unwrap_or(COLD_CAP);
                self.renew(credential, now, jitter, serial, cap);
            }
            _ => {}
        }
        let mut deliver = Vec::new();
        for (holder, proof) in outcome.proofs {
            let Some(holding) = self.holders.get_mut(&holder) else {
                continue;
            };
            if attempt.revisions.get(&holder) != Some(&holding.revision) {
                continue; // Its binding changed meanwhile: it is asked for again.
            }
            match proof {
                Ok(()) => {
                    holding.failures = 0;
                    holding.error = None;
                    let Some(lease) = &self.lease else { continue };
                    holding.proved = Some(lease.serial);
                    if holding.held.as_ref().map(|held| held.serial) != Some(lease.serial) {
                        holding.held = Some(lease.clone());
                        deliver.push(holder);
                    }
                }
                Err(error) => {
                    holding.failures = holding.failures.saturating_add(1);
                    let wait = match &holding.held {
                        Some(held) => held.retry_after(holding.failures, jitter),
                        None => {
                            let cap = cold_cap(REFUSED_CAP, error.code);
                            cold_wait(cap, holding.failures, jitter)
                        }
                    };
                    holding.retry_at = now.mono + wait;
                    holding.error = Some(error);
                }
            }
        }
        deliver
    }

    /// Takes the credential that an attempt brought, or plans the next attempt,
    /// which comes within `cap` while there is no credential.
    fn renew(
        &mut self,
        credential: Option<Result<Fresh<C>, Failure>>,
        now: Now,
        jitter: f64,
        serial: u64,
        cap: Duration,
    ) {
        let lease = credential.map(|result| {
            let fresh = result?;
            let expires_at = fresh.expires_at;
            Lease::new(fresh, now, jitter, serial).ok_or_else(|| {
                Named::new(
                    Code::ExchangeUnreadable,
                    format!("the credential expired at {expires_at}, before it arrived"),
                )
                .into()
            })
        });
        match lease {
            // A source with a cache gave what it gave before: not renewed yet.
            Some(Ok(lease)) if self.expires_at() == Some(lease.expires_at) => {
                self.retry(cap, now, jitter);
                self.error = None;
                self.blamed = None;
            }
            Some(Ok(lease)) => {
                self.lease = Some(lease);
                self.failures = 0;
                self.retry_at = now.mono;
                self.error = None;
                self.blamed = None;
                self.due_since = None;
            }
            // Without a credential every holder has an error of its own.
            failed => {
                self.retry(cap, now, jitter);
                self.error = failed
                    .and_then(Result::err)
                    .map(|failure: Failure| failure.error);
            }
        }
    }

    fn expires_at(&self) -> Option<Timestamp> {
        self.lease.as_ref().map(|lease| lease.expires_at)
    }

    fn retry(&mut self, cap: Duration, now: Now, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        let wait = match &self.lease {
            Some(lease) => lease.retry_after(self.failures, jitter),
            None => cold_wait(cap, self.failures, jitter),
        };
        self.retry_at = now.mono + wait;
    }

    /// Gives up what has expired; returns who has nothing any more.
    pub(super) fn expire(&mut self, now: Now) -> Vec<H> {
        if self.lease.as_ref().is_some_and(|lease| lease.expired(now)) {
            self.lease = None;
            self.retry_at = self.retry_at.min(now.mono + COLD_CAP);
        }
        let mut withdraw = Vec::new();
        for (holder, holding) in &mut self.holders {
            if holding.held.take_if(|held| held.expired(now)).is_some() {
                withdraw.push(holder.clone());
            }
        }
        withdraw
    }

    /// Takes note of the time. What is once due stays due, whatever the clocks
    /// do, until a new credential is here.
    pub(super) fn pass(&mut self, now: Now) {
        let due = self.lease.as_ref().is_none_or(|it| it.refresh.reached(now));
        if self.due_since.is_none() && due {
            self.due_since = Some(now.mono);
        }
        // Whatever it was that somebody repaired, nothing was broken.
        self.changed &= self.due_since.is_some();
    }

    /// How long nothing is to be done; `None` if something is, or waits for its
    /// turn at the upstream.
    pub(super) fn rest(&self, now: Now) -> Option<Nap> {
        let held = self.holders.values().filter_map(|it| it.held.as_ref());
        // What the key shares expires, whoever holds it.
        let expiries = held.chain(&self.lease).map(|lease| lease.expiry);
        let renewal = self.lease.as_ref().filter(|_| self.due_since.is_none());
        let instants = expiries.chain(renewal.map(|lease| lease.refresh));
        let mut nap = instants.fold(Nap::ENDLESS, Nap::until);
        let attempts = self.ready_at().into_iter().chain(self.wake_at());
        nap.mono = attempts.fold(nap.mono, Duration::min);
        nap.lasts(now).then_some(nap)
    }

    /// When an attempt to renew may begin, as far as it is up to this key;
    /// `None` while another attempt is under way.
    pub(super) fn ready_at(&self) -> Option<Duration> {
        let lease = self.lease.as_ref().map(|lease| lease.refresh.mono);
        let due = self.due_since.or(lease).unwrap_or_default();
        self.in_flight.is_none().then(|| due.max(self.retry_at))
    }

    pub(super) fn rank(&self, ready: Duration, failing: bool) -> Rank {
        let tried = self.blamed.filter(|_| failing);
        Rank {
            unchanged: !self.changed,
            failing: self.failures > 0,
            tried: tried.map_or(0, |it| it.number),
            expiry: self
                .lease
                .as_ref()
                .map_or(Duration::MAX, |it| it.expiry.mono),
            ready,
        }
    }

    /// The longest wait at a failing upstream.
    pub(super) fn cap(&self) -> Option<Duration> {
        self.lease.as_ref().map(Lease::cap)
    }

    /// Whom to prove for a new credential.
    pub(super) fn everybody(&self) -> BTreeMap<H, i64> {
        self.revisions(|_| true)
    }

    /// Whom to prove for the one that is there.
    pub(super) fn latecomers(&self, now: Now) -> BTreeMap<H, i64> {
        self.revisions(|it| self.is_ready_latecomer(it, now))
    }

    pub(super) fn has_latecomers(&self, now: Now) -> bool {
        let mut holders = self.holders.values();
        holders.any(|it| self.is_ready_latecomer(it, now))
    }

    fn is_ready_latecomer(&self, holding: &Holding<C>, now: Now) -> bool {
        self.is_latecomer(holding) && holding.retry_at <= now.mono
    }

    fn revisions(&self, which: impl Fn(&Holding<C>) -> bool) -> BTreeMap<H, i64> {
        self.holders
            .iter()
            .filter(|(_, holding)| which(holding))
            .map(|(holder, holding)| (holder.clone(), holding.revision))
            .collect()
    }

    /// Whether there is a credential that the holder has not been proved for.
    fn is_latecomer(&self, holding: &Holding<C>) -> bool {
        self.lease
            .as_ref()
            .is_some_and(|lease| holding.proved != Some(lease.serial))
    }

    pub(super) fn lease_deadline(&self) -> Option<Duration> {
        self.lease.as_ref().map(Lease::deadline)
    }

    pub(super) fn deadline(&self) -> Duration {
        self.lease_deadline().unwrap_or(LONGEST_ATTEMPT)
    }

    /// When something else than a renewal is due.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let expiries = self
            .holders
            .values()
            .filter_map(|holding| Some(holding.held.as_ref()?.expiry.mono));
        let latecomers = self
            .holders
            .values()
            .filter(|holding| self.in_flight.is_none() && self.is_latecomer(holding))
            .map(|holding| holding.retry_at);
        expiries.chain(latecomers).min()
    }
}
