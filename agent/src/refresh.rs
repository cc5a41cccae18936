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
//!                       └────┘            │ └────────ok─────────┘  │ error, or
//!                   error: back off       └──retry within 2 %──────┘ unchanged
//!                                          at exp: withdrawn, obtaining
//! ```

mod entry;
mod lease;

use std::collections::BTreeMap;
use std::time::Duration;

use shared::errors::Named;

use entry::{Entry, Holding, InFlight};
pub use lease::{Failure, Fresh, Lease, Now};

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
    pub credential: Option<Result<Fresh<C>, Failure>>,
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
            let entry = self.entries.entry(key).or_insert_with(|| Entry::new(now));
            for (holder, revision) in holders {
                let holding = entry.holders.entry(holder);
                let changed = match &holding {
                    std::collections::btree_map::Entry::Vacant(_) => true,
                    std::collections::btree_map::Entry::Occupied(known) => {
                        known.get().revision != revision
                    }
                };
                let holding = holding.or_insert_with(|| Holding::new(revision, now));
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

#[cfg(test)]
#[path = "refresh_tests.rs"]
mod tests;
