//! What is known of one key: its credential, its holders, what is under way and
//! what is due. PURE: outcomes and the time flow in, what to prove and when to
//! look again flow out.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use shared::errors::{Code, Named};

use super::Outcome;
use super::lease::{
    COLD_CAP, Failure, Fresh, LONGEST_ATTEMPT, Lease, Now, REFUSED_CAP, cold_cap, cold_wait,
};

#[derive(Debug)]
pub(super) struct Entry<H, C> {
    pub(super) holders: BTreeMap<H, Holding<C>>,
    pub(super) lease: Option<Lease<C>>,
    pub(super) in_flight: Option<InFlight<H>>,
    pub(super) failures: u32,
    pub(super) retry_at: Duration,
    pub(super) error: Option<Named>,
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
    pub(super) fn new(now: Now) -> Self {
        Self {
            holders: BTreeMap::new(),
            lease: None,
            in_flight: None,
            failures: 0,
            retry_at: now.mono,
            error: None,
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
    /// Takes an attempt's outcome; returns who has a new credential.
    pub(super) fn conclude(
        &mut self,
        attempt: &InFlight<H>,
        outcome: Outcome<H, C>,
        now: Now,
        jitter: f64,
        serial: u64,
    ) -> Vec<H> {
        if attempt.renew {
            let cap = outcome.proofs.values().filter_map(|it| it.as_ref().err());
            let cap = cap.map(|error| cold_cap(COLD_CAP, error.code)).min();
            let cap = cap.unwrap_or(COLD_CAP);
            self.renew(outcome.credential, now, jitter, serial, cap);
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
            }
            Some(Ok(lease)) => {
                self.lease = Some(lease);
                self.failures = 0;
                self.retry_at = now.mono;
                self.error = None;
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

    /// Whom to prove now, and whether a new credential is due.
    pub(super) fn due(&self, now: Now) -> Option<(BTreeMap<H, i64>, bool)> {
        if self.in_flight.is_some() {
            return None;
        }
        let renew = self.lease.as_ref().is_none_or(|it| it.refresh.reached(now));
        let holders: BTreeMap<H, i64> = if renew && self.retry_at <= now.mono {
            self.revisions(|_| true)
        } else {
            self.revisions(|it| self.is_latecomer(it) && it.retry_at <= now.mono)
        };
        let renew = renew && self.retry_at <= now.mono;
        (!holders.is_empty()).then_some((holders, renew))
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

    pub(super) fn deadline(&self) -> Duration {
        self.lease.as_ref().map_or(LONGEST_ATTEMPT, Lease::deadline)
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        let expiries = self
            .holders
            .values()
            .filter_map(|holding| Some(holding.held.as_ref()?.expiry.mono));
        let renewal = match &self.lease {
            Some(lease) => lease.refresh.mono.max(self.retry_at),
            None => self.retry_at,
        };
        let latecomers = self
            .holders
            .values()
            .filter(|holding| self.is_latecomer(holding))
            .map(|holding| holding.retry_at);
        let attempts = latecomers
            .chain([renewal])
            .filter(|_| self.in_flight.is_none());
        expiries.chain(attempts).min()
    }
}
