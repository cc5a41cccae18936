//! Keys, their upstreams and both clocks, simulated around the machine. Time
//! passes from one event to the next; nothing is real.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use jiff::{SignedDuration, Timestamp};
use shared::errors::Named;

use super::*;

pub(super) type Name = &'static str;
/// What an attempt meets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    /// A credential of this life.
    Serve(Duration),
    /// The upstream is not there.
    Refuse,
    /// The upstream takes the call and never answers.
    Hang,
    /// The upstream asks for more time.
    Throttle(Duration),
    /// The upstream does not accept the identity.
    Reject,
    /// The identity source fails.
    NoIdentity,
}

/// The engine looks at both clocks this often.
const HEARTBEAT: Duration = Duration::from_secs(30);

pub(super) struct World {
    pub(super) machine: Machine<Name, Name, u32>,
    pub(super) mono: Duration,
    /// Of the wall clock, against the monotonic one.
    pub(super) offset: SignedDuration,
    /// From the upstream's receipt to its answer.
    pub(super) latency: Duration,
    pub(super) jitters: Vec<f64>,
    /// Attempts that renew, by key, with when each began.
    pub(super) asked: BTreeMap<Name, Vec<Duration>>,
    /// The most that were under way at once, by upstream.
    pub(super) most: BTreeMap<String, usize>,
    pub(super) steps: u64,
    under_way: BTreeMap<String, usize>,
    ends: BinaryHeap<Reverse<End>>,
    jitter: Cell<usize>,
}

/// The end of an attempt.
struct End {
    at: Duration,
    number: u64,
    /// Who was asked.
    upstream: Option<String>,
    event: Event<Name, Name, u32>,
}

impl PartialEq for End {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for End {}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for End {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A name that lives as long as the test.
pub(super) fn name(text: String) -> Name {
    Box::leak(text.into_boxed_str())
}

impl World {
    pub(super) fn new(latency: Duration, jitters: Vec<f64>) -> Self {
        Self {
            machine: Machine::default(),
            mono: Duration::ZERO,
            offset: SignedDuration::ZERO,
            latency,
            jitters,
            asked: BTreeMap::new(),
            most: BTreeMap::new(),
            steps: 0,
            under_way: BTreeMap::new(),
            ends: BinaryHeap::new(),
            jitter: Cell::new(0),
        }
    }

    pub(super) fn now(&self) -> Now {
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let mono = SignedDuration::try_from(self.mono).unwrap();
        Now {
            wall: start + mono + self.offset,
            mono: self.mono,
        }
    }

    /// One holder of its own for each key.
    pub(super) fn want(&mut self, keys: &[Name], meet: &mut impl FnMut(Name, Duration) -> Answer) {
        let holders = |key: &Name| (*key, BTreeMap::from([(*key, 1)]));
        let wanted = keys.iter().map(holders).collect();
        self.step(Event::Wanted(wanted), meet);
    }

    /// Lets time pass until `end`; `meet` says what an attempt of a key meets
    /// that begins at a time.
    pub(super) fn run(
        &mut self,
        end: Duration,
        meet: &mut impl FnMut(Name, Duration) -> Answer,
        seen: &mut impl FnMut(&Self),
    ) {
        loop {
            let wake = self.machine.wake_at().unwrap_or(Duration::MAX);
            let wake = wake.min(self.mono + HEARTBEAT).max(self.mono);
            let ended = self.ends.peek().map(|it| it.0.at);
            let next = wake.min(ended.unwrap_or(Duration::MAX));
            if next > end {
                self.mono = end;
                return;
            }
            self.mono = next;
            let event = match self.ends.pop() {
                Some(Reverse(it)) if it.at <= next => {
                    if let Some(upstream) = it.upstream {
                        *self.under_way.get_mut(&upstream).unwrap() -= 1;
                    }
                    it.event
                }
                other => {
                    self.ends.extend(other);
                    Event::Tick
                }
            };
            self.step(event, meet);
            seen(self);
        }
    }

    pub(super) fn step(
        &mut self,
        event: Event<Name, Name, u32>,
        meet: &mut impl FnMut(Name, Duration) -> Answer,
    ) {
        self.steps += 1;
        let jitter = self.jitters[self.jitter.get() % self.jitters.len()];
        self.jitter.set(self.jitter.get() + 1);
        let now = self.now();
        for action in self.machine.step(event, now, jitter) {
            let Action::Acquire(attempt) = action else {
                continue;
            };
            if attempt.renew {
                self.asked.entry(attempt.key).or_default().push(self.mono);
                if let Some(upstream) = attempt.key.upstream() {
                    let under_way = self.under_way.entry(upstream.clone()).or_default();
                    *under_way += 1;
                    let most = self.most.entry(upstream).or_default();
                    *most = (*most).max(*under_way);
                }
            }
            let answer = meet(attempt.key, self.mono);
            let end = self.end(&attempt, answer);
            self.ends.push(Reverse(end));
        }
        let wake = self.machine.wake_at();
        assert!(wake.is_none_or(|wake| wake > now.mono), "{wake:?} {now:?}");
        // Of a thousand, not after each step.
        if self.machine.entries.len() > 100 && !self.steps.is_multiple_of(50) {
            return;
        }
        let holdings = self
            .machine
            .entries
            .values()
            .flat_map(|it| it.holders.values());
        for lease in holdings.filter_map(|it| it.held.as_ref()) {
            assert!(lease.expires_at > now.wall, "kept at {now:?}: {lease:?}");
        }
    }

    fn end(&self, attempt: &Attempt<Name, Name>, answer: Answer) -> End {
        let latency = self.latency.min(attempt.deadline);
        let moment = Duration::from_millis(1);
        let unreachable = || Failure::from(Named::new(Code::ExchangeUnreachable, "test"));
        let (took, credential) = match answer {
            Answer::Serve(_) if !attempt.renew => (latency, Ok(None)),
            Answer::Serve(life) if self.latency < attempt.deadline => {
                let expires_at =
                    self.now().wall + SignedDuration::try_from(life + latency).unwrap();
                let credential = 1;
                (
                    latency,
                    Ok(Some(Fresh {
                        credential,
                        expires_at,
                    })),
                )
            }
            Answer::Serve(_) | Answer::Hang => (attempt.deadline, Err(unreachable())),
            Answer::Refuse => (moment, Err(unreachable())),
            Answer::Throttle(rest) => {
                let mut failure = Failure::from(Named::new(Code::ExchangeThrottled, "test"));
                failure.retry_after = Some(rest);
                (latency, Err(failure))
            }
            Answer::Reject => {
                let error = Named::new(Code::ExchangeRejected, "test");
                (latency, Err(error.into()))
            }
            Answer::NoIdentity => (attempt.deadline.mul_f64(0.6), Ok(None)),
        };
        let proved = || match answer {
            Answer::NoIdentity => Err(Named::new(Code::SpireUnavailable, "test")),
            _ => Ok(()),
        };
        let outcome = Outcome {
            proofs: attempt.holders.iter().map(|it| (*it, proved())).collect(),
            credential: match credential {
                Ok(fresh) => fresh.map(Ok),
                Err(failure) => attempt.renew.then_some(Err(failure)),
            },
        };
        let event = Event::Acquired {
            key: attempt.key,
            number: attempt.number,
            outcome,
        };
        End {
            at: self.mono + took,
            number: attempt.number,
            upstream: attempt.key.upstream().filter(|_| attempt.renew),
            event,
        }
    }
}
