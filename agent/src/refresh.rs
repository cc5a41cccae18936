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
//!
//! Keys whose [`Target`] has the same upstream share its limit, and its
//! outages: those are backed off for together, and no key pays for another's.

mod agenda;
mod entry;
mod events;
mod lease;
mod upstream;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shared::errors::Code;

use agenda::Agenda;
use entry::{Entry, InFlight};
pub use events::{Action, Attempt, Event, Outcome, Standing};
pub use lease::{Failure, Fresh, Lease, Now};
pub use upstream::Target;
use upstream::{Failed, Queue, Upstream};

/// What is due, with the deadline of each attempt.
type Due<K> = Vec<(K, Duration)>;

/// The state: see the module's sketch.
#[derive(Debug)]
pub struct Machine<K, H, C> {
    entries: BTreeMap<K, Entry<H, C>>,
    upstreams: BTreeMap<String, Upstream>,
    agenda: Agenda<K>,
    attempts: u64,
    serials: u64,
}

impl<K, H, C> Default for Machine<K, H, C> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            agenda: Agenda::default(),
            attempts: 0,
            serials: 0,
        }
    }
}

impl<K: Ord + Clone + Target, H: Ord + Clone, C: Clone> Machine<K, H, C> {
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
                let deliver = self.conclude(&key, number, outcome, now, jitter);
                actions.extend(deliver.into_iter().map(Action::Deliver));
            }
            Event::Tick => {}
        }
        let (renewals, proofs) = self.wake(now, &mut actions);
        for due in renewals {
            actions.extend(self.begin(due, true, now));
        }
        for due in proofs {
            actions.extend(self.begin(due, false, now));
        }
        actions
    }

    /// How things stand for `holder` of `key`; `None` if it is not wanted.
    pub fn standing(&self, key: &K, holder: &H) -> Option<Standing<'_, C>> {
        let entry = self.entries.get(key)?;
        let holding = entry.holders.get(holder)?;
        let upstream = entry
            .upstream
            .as_ref()
            .filter(|_| entry.due_since.is_some());
        let upstream = upstream.and_then(|name| self.upstreams.get(name));
        Some(Standing {
            held: holding.held.as_ref(),
            error: holding
                .error
                .as_ref()
                .or(entry.error.as_ref())
                .or_else(|| upstream?.error()),
        })
    }

    /// The credential that `holder` has, never an expired one after a step.
    pub fn held(&self, key: &K, holder: &H) -> Option<&Lease<C>> {
        self.standing(key, holder)?.held
    }

    /// When the next [`Event::Tick`] is needed, on the monotonic clock.
    pub fn wake_at(&self) -> Option<Duration> {
        let awake = self.agenda.awake.iter();
        let wakes = awake.filter_map(|key| {
            let entry = self.entries.get(key)?;
            let renewal = turn(&self.upstreams, entry);
            renewal.into_iter().chain(entry.wake_at()).min()
        });
        wakes.chain(self.agenda.next()).min()
    }

    /// Looks at every key for which something may have changed, gives up what
    /// has expired, and returns, with the deadlines, what is to be renewed now
    /// and where holders are to be proved.
    fn wake(&mut self, now: Now, actions: &mut Vec<Action<K, H>>) -> (Due<K>, Due<K>) {
        self.agenda.pass(now);
        let awake = std::mem::take(&mut self.agenda.awake);
        let (mut renewals, mut proofs) = (Vec::new(), Vec::new());
        let mut queues: BTreeMap<String, Queue<'_, K>> = BTreeMap::new();
        for key in &awake {
            let Some(entry) = self.entries.get_mut(key) else {
                continue;
            };
            let upstream = entry.upstream.as_ref();
            let mut upstream = upstream.and_then(|name| self.upstreams.get_mut(name));
            let deadline = entry.lease_deadline();
            actions.extend(entry.expire(now).into_iter().map(Action::Withdraw));
            if let Some(upstream) = &mut upstream {
                upstream.protect(deadline, entry.lease_deadline());
            }
            entry.pass(now);
            if let Some(nap) = entry.rest(now) {
                self.agenda.lull(key.clone(), nap);
                continue;
            }
            self.agenda.awake.insert(key.clone());
            if entry.has_latecomers(now) {
                proofs.push((key.clone(), entry.deadline()));
            }
            let Some(ready) = entry.ready_at().filter(|ready| *ready <= now.mono) else {
                continue;
            };
            match (upstream, &entry.upstream) {
                (Some(upstream), Some(name)) => {
                    let turn = upstream.turn(ready, entry.cap(), entry.changed);
                    if turn.is_some_and(|turn| turn <= now.mono) {
                        let rank = entry.rank(ready, upstream.is_failing());
                        queues.entry(name.clone()).or_default().push(rank, key);
                    }
                }
                _ => renewals.push((key.clone(), entry.deadline())),
            }
        }
        for (name, queue) in queues {
            if let Some(upstream) = self.upstreams.get(&name) {
                let deadline = upstream.deadline();
                let admitted = queue.admit(upstream);
                renewals.extend(admitted.into_iter().map(|key| (key, deadline)));
            }
        }
        (renewals, proofs)
    }

    fn begin(
        &mut self,
        (key, deadline): (K, Duration),
        renew: bool,
        now: Now,
    ) -> Option<Action<K, H>> {
        let entry = self.entries.get_mut(&key)?;
        if entry.in_flight.is_some() {
            return None; // It is renewed, and everybody proved for that.
        }
        self.attempts += 1;
        let revisions = match renew {
            true => entry.everybody(),
            false => entry.latecomers(now),
        };
        let holders = revisions.keys().cloned().collect();
        entry.in_flight = Some(InFlight {
            number: self.attempts,
            renew,
            revisions,
        });
        if let Some(nap) = entry.rest(now) {
            self.agenda.lull(key.clone(), nap);
        }
        if renew {
            entry.changed = false;
            let upstream = entry.upstream.as_ref();
            if let Some(upstream) = upstream.and_then(|name| self.upstreams.get_mut(name)) {
                upstream.begin(self.attempts, now.mono);
            }
        }
        Some(Action::Acquire(Attempt {
            key,
            number: self.attempts,
            holders,
            renew,
            deadline,
        }))
    }

    /// Takes an attempt's outcome; returns who has a new credential. What it
    /// says of the upstream counts even if nobody wants the key any more.
    fn conclude(
        &mut self,
        key: &K,
        number: u64,
        outcome: Outcome<H, C>,
        now: Now,
        jitter: f64,
    ) -> Vec<H> {
        let name = key.upstream();
        let mut upstream = name.as_ref().and_then(|name| self.upstreams.get_mut(name));
        let began = upstream.as_mut().and_then(|it| it.end(number));
        let failure = match &outcome.credential {
            Some(Ok(_)) => {
                if let Some(upstream) = &mut upstream {
                    upstream.succeeded();
                }
                None
            }
            Some(Err(failure)) => Some(failure.clone()).filter(Upstream::is_to_blame),
            None => None,
        };
        let successes = upstream.as_ref().map(|it| it.successes);
        let mut blamed = failure.is_some();
        let mut deliver = Vec::new();
        if let Some(entry) = self.entries.get_mut(key)
            && let Some(in_flight) = entry.in_flight.take_if(|it| it.number == number)
        {
            self.agenda.rouse(key);
            blamed = blamed && successes.is_some_and(|count| entry.blames(number, count));
            self.serials += 1;
            let deadline = entry.lease_deadline();
            deliver = entry.conclude(&in_flight, outcome, blamed, now, jitter, self.serials);
            if let Some(upstream) = upstream {
                upstream.protect(deadline, entry.lease_deadline());
            }
        }
        if let (Some(failure), Some(began), Some(upstream)) = (failure, began, name)
            && (blamed || failure.error.code == Code::ExchangeThrottled)
        {
            let failed = Failed {
                upstream: &upstream,
                began,
                cap: self.cap(&upstream),
                failure: &failure,
                newest: self.attempts,
            };
            if let Some(upstream) = self.upstreams.get_mut(&upstream) {
                upstream.failed(&failed, now.mono, jitter);
            }
        }
        deliver
    }

    /// The shortest wait that the leases that are due at the upstream allow.
    fn cap(&self, upstream: &str) -> Option<Duration> {
        self.entries
            .values()
            .filter(|entry| entry.upstream.as_deref() == Some(upstream))
            .filter(|entry| entry.due_since.is_some())
            .filter_map(Entry::cap)
            .min()
    }

    fn want(
        &mut self,
        mut wanted: BTreeMap<K, BTreeMap<H, i64>>,
        now: Now,
        actions: &mut Vec<Action<K, H>>,
    ) {
        let mut known = BTreeSet::new();
        self.entries.retain(|key, entry| {
            let holders = wanted.get(key);
            known.extend(entry.holders.keys().cloned());
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
            let entry = self.entries.entry(key);
            let entry = entry.or_insert_with_key(|key| Entry::new(key.upstream(), now));
            if let Some(name) = &entry.upstream
                && !self.upstreams.contains_key(name)
            {
                self.upstreams.insert(name.clone(), Upstream::default());
            }
            for (holder, revision) in holders {
                // Somebody may just have repaired it. One that is new here may
                // be one of a thousand after a restart.
                let repaired = known.contains(&holder);
                if entry.want(holder, revision, now) && repaired {
                    entry.changed = true;
                }
            }
        }
        let mut used: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for entry in self.entries.values() {
            if let Some(name) = &entry.upstream {
                let deadlines = used.entry(name).or_default();
                deadlines.extend(entry.lease_deadline());
            }
        }
        self.upstreams.retain(|name, upstream| {
            let deadlines = used.remove(name.as_str());
            let keep = deadlines.is_some() || !upstream.idle();
            upstream.protect_only(deadlines.unwrap_or_default());
            keep
        });
        self.agenda.reset(self.entries.keys());
    }
}

/// When the entry's next renewal may begin, unless an attempt has to end first.
fn turn<H: Ord + Clone, C: Clone>(
    upstreams: &BTreeMap<String, Upstream>,
    entry: &Entry<H, C>,
) -> Option<Duration> {
    let ready = entry.ready_at()?;
    match entry.upstream.as_ref().and_then(|name| upstreams.get(name)) {
        Some(upstream) => upstream.turn(ready, entry.cap(), entry.changed),
        None => Some(ready),
    }
}

#[cfg(test)]
#[path = "refresh_tests.rs"]
mod tests;

#[cfg(test)]
mod outage_tests;
#[cfg(test)]
mod upstream_tests;
#[cfg(test)]
mod world;
