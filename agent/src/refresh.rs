//! When credentials are obtained, renewed and given up. PURE: events and the
//! current time flow in, actions flow out; no clock, no randomness, no IO.
//!
//! A credential is obtained once per *key* (identity, audience, exchange), for
//! all *holders* that want it. Each holder is proved to the identity source on
//! its own, so sharing an exchange never hands a holder what the control plane
//! would not have given it.
//!
//! ```text
//!            Wanted                    due: 75–80 % of the remaining life
//!   ∅ ───────────────▶ obtaining ──ok──▶ held ───────────────▶ renewing
//!                       ▲    │            ▲ ▲                   │  │
//!                       └────┘            │ └────────ok─────────┘  │ error
//!                   error: back off       └──retry within 2 %──────┘
//!                                          at exp: withdrawn, obtaining
//! ```

mod lease;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use shared::errors::{Code, Named};

use lease::{COLD_CAP, LONGEST_ATTEMPT, REFUSED_CAP, cold_cap, cold_wait};
pub use lease::{Fresh, Lease, Now};

/// What happens to the machine.
#[derive(Debug)]
pub enum Event<K, H, C> {
    /// Everything that is wanted now, with a revision per holder: a change of
    /// the revision means that the holder's binding changed.
    Wanted(BTreeMap<K, BTreeMap<H, i64>>),
    /// An [`Attempt`] ended.
    Acquired {
        /// The attempt's key.
        key: K,
        /// The attempt's number.
        number: u64,
        /// What came of it.
        outcome: Outcome<H, C>,
    },
    /// Time passed.
    Tick,
}

/// What came of an [`Attempt`].
#[derive(Debug)]
pub struct Outcome<H, C> {
    /// For each holder whether the identity source gave the identity.
    pub proofs: BTreeMap<H, Result<(), Named>>,
    /// The new credential; `None` when none was asked for, or no holder was proved.
    pub credential: Option<Result<Fresh<C>, Named>>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<K, H> {
    /// Prove the holders and, perhaps, obtain the credential.
    Acquire(Attempt<K, H>),
    /// The holder has a new credential: [`Machine::held`].
    Deliver(H),
    /// The holder has no credential any more.
    Withdraw(H),
}

/// One attempt; it must be answered by exactly one [`Event::Acquired`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt<K, H> {
    /// What to obtain.
    pub key: K,
    /// Tells this attempt from earlier ones of the same key.
    pub number: u64,
    /// Whom to prove.
    pub holders: Vec<H>,
    /// Obtain a credential too; else only prove the holders, who share one
    /// that is there already.
    pub renew: bool,
    /// When the attempt must give up: short enough that a hanging upstream
    /// cannot eat the rest of a credential's life.
    pub deadline: Duration,
}

/// How things stand for a holder.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a, C> {
    /// The credential that is delivered, if one is.
    pub held: Option<&'a Lease<C>>,
    /// Why the last attempt failed, if it did.
    pub error: Option<&'a Named>,
}

/// The state: see the module's sketch.
#[derive(Debug)]
pub struct Machine<K, H, C> {
    entries: BTreeMap<K, Entry<H, C>>,
    attempts: u64,
    serials: u64,
}

#[derive(Debug)]
struct Entry<H, C> {
    holders: BTreeMap<H, Holding<C>>,
    lease: Option<Lease<C>>,
    in_flight: Option<InFlight<H>>,
    failures: u32,
    retry_at: Duration,
    error: Option<Named>,
}

#[derive(Debug)]
struct InFlight<H> {
    number: u64,
    renew: bool,
    /// Of each holder that is being proved, as it was at the start.
    revisions: BTreeMap<H, i64>,
}

#[derive(Debug)]
struct Holding<C> {
    revision: i64,
    held: Option<Lease<C>>,
    /// Proved for this lease of the entry.
    proved: Option<u64>,
    failures: u32,
    retry_at: Duration,
    error: Option<Named>,
}

impl<K, H, C> Default for Machine<K, H, C> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            attempts: 0,
            serials: 0,
        }
    }
}

impl<K: Ord + Clone, H: Ord + Clone, C: Clone> Machine<K, H, C> {
    /// Takes one step. `jitter` is a number from 0 to 1 that spreads the load
    /// of many nodes; the machine has no randomness of its own.
    pub fn step(&mut self, event: Event<K, H, C>, now: Now, jitter: f64) -> Vec<Action<K, H>> {
        let mut actions = Vec::new();
        match event {
            Event::Wanted(wanted) => self.want(wanted, now, &mut actions),
            Event::Acquired {
                key,
                number,
                outcome,
            } => {
                if let Some(entry) = self.entries.get_mut(&key)
                    && let Some(in_flight) = entry.in_flight.take_if(|it| it.number == number)
                {
                    self.serials += 1;
                    let deliver = entry.conclude(&in_flight, outcome, now, jitter, self.serials);
                    actions.extend(deliver.into_iter().map(Action::Deliver));
                }
            }
            Event::Tick => {}
        }
        for (key, entry) in &mut self.entries {
            actions.extend(entry.expire(now).into_iter().map(Action::Withdraw));
            if let Some((revisions, renew)) = entry.due(now) {
                self.attempts += 1;
                actions.push(Action::Acquire(Attempt {
                    key: key.clone(),
                    number: self.attempts,
                    holders: revisions.keys().cloned().collect(),
                    renew,
                    deadline: entry.deadline(),
                }));
                entry.in_flight = Some(InFlight {
                    number: self.attempts,
                    renew,
                    revisions,
                });
            }
        }
        actions
    }

    /// How things stand for `holder` of `key`; `None` if it is not wanted.
    pub fn standing(&self, key: &K, holder: &H) -> Option<Standing<'_, C>> {
        let entry = self.entries.get(key)?;
        let holding = entry.holders.get(holder)?;
        Some(Standing {
            held: holding.held.as_ref(),
            error: holding.error.as_ref().or(entry.error.as_ref()),
        })
    }

    /// The credential that `holder` has, never an expired one after a step.
    pub fn held(&self, key: &K, holder: &H) -> Option<&Lease<C>> {
        self.standing(key, holder)?.held
    }

    /// When the next [`Event::Tick`] is needed, on the monotonic clock.
    pub fn wake_at(&self) -> Option<Duration> {
        self.entries.values().filter_map(Entry::wake_at).min()
    }

    fn want(
        &mut self,
        mut wanted: BTreeMap<K, BTreeMap<H, i64>>,
        now: Now,
        actions: &mut Vec<Action<K, H>>,
    ) {
        self.entries.retain(|key, entry| {
            let holders = wanted.get(key);
            entry.holders.retain(|holder, holding| {
                let keep = holders.is_some_and(|holders| holders.contains_key(holder));
                if !keep && holding.held.is_some() {
                    actions.push(Action::Withdraw(holder.clone()));
                }
                keep
            });
            !entry.holders.is_empty() || holders.is_some_and(|holders| !holders.is_empty())
        });
        wanted.retain(|_, holders| !holders.is_empty());
        for (key, holders) in wanted {
            let entry = self.entries.entry(key).or_insert_with(|| Entry {
                holders: BTreeMap::new(),
                lease: None,
                in_flight: None,
                failures: 0,
                retry_at: now.mono,
                error: None,
            });
            for (holder, revision) in holders {
                let holding = entry.holders.entry(holder);
                let changed = match &holding {
                    std::collections::btree_map::Entry::Vacant(_) => true,
                    std::collections::btree_map::Entry::Occupied(known) => {
                        known.get().revision != revision
                    }
                };
                let holding = holding.or_insert_with(|| Holding {
                    revision,
                    held: None,
                    proved: None,
                    failures: 0,
                    retry_at: now.mono,
                    error: None,
                });
                if changed {
                    // Somebody may just have repaired it: no back-off, and the
                    // proof is asked for anew.
                    holding.revision = revision;
                    holding.proved = None;
                    holding.failures = 0;
                    holding.retry_at = now.mono;
                    entry.failures = 0;
                    entry.retry_at = now.mono;
                }
            }
        }
    }
}

impl<H: Ord + Clone, C: Clone> Entry<H, C> {
    /// Takes an attempt's outcome; returns who has a new credential.
    fn conclude(
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
        credential: Option<Result<Fresh<C>, Named>>,
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
                self.error = failed.and_then(Result::err);
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
    fn expire(&mut self, now: Now) -> Vec<H> {
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
    fn due(&self, now: Now) -> Option<(BTreeMap<H, i64>, bool)> {
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

    fn deadline(&self) -> Duration {
        self.lease.as_ref().map_or(LONGEST_ATTEMPT, Lease::deadline)
    }

    fn wake_at(&self) -> Option<Duration> {
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

#[cfg(test)]
#[path = "refresh_tests.rs"]
mod tests;
