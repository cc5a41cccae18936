//! Drives the machine with a clock that only moves when the test says so.

use proptest::prelude::*;

use jiff::Timestamp;
use shared::errors::{Code, Named};
use shared::exec_credential::ExecCredential;

use super::*;

type M = Machine<&'static str, &'static str, u32>;

/// `identity@upstream`, or an identity that nobody has to be asked for.
impl Target for &'static str {
    fn upstream(&self) -> Option<String> {
        Some(self.split_once('@')?.1.to_owned())
    }
}

impl Target for () {
    fn upstream(&self) -> Option<String> {
        None
    }
}

const KEY: &str = "key";
const START: i64 = 1_800_000_000;

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn at(seconds: f64) -> Now {
    Now {
        wall: Timestamp::from_millisecond(START * 1000 + (seconds * 1000.0) as i64).unwrap(),
        mono: secs(seconds),
    }
}

fn wanted(holders: &[(&'static str, i64)]) -> Event<&'static str, &'static str, u32> {
    Event::Wanted(BTreeMap::from([(KEY, holders.iter().copied().collect())]))
}

fn attempt(
    actions: &[Action<&'static str, &'static str>],
) -> Option<Attempt<&'static str, &'static str>> {
    actions.iter().find_map(|action| match action {
        Action::Acquire(attempt) => Some(attempt.clone()),
        _ => None,
    })
}

/// Every holder is proved; the credential is as given.
fn answer(
    attempt: &Attempt<&'static str, &'static str>,
    credential: Result<(u32, f64), Code>,
) -> Event<&'static str, &'static str, u32> {
    let credential = credential
        .map(|(credential, expires)| Fresh {
            credential,
            expires_at: at(expires).wall,
        })
        .map_err(|code| Named::new(code, "test").into());
    Event::Acquired {
        key: attempt.key,
        number: attempt.number,
        outcome: Outcome {
            proofs: attempt.holders.iter().map(|it| (*it, Ok(()))).collect(),
            credential: attempt.renew.then_some(credential),
        },
    }
}

fn held(machine: &M, holder: &'static str) -> Option<u32> {
    machine.held(&KEY, &holder).map(|lease| lease.credential)
}

/// A machine that holds credential 1 from 0 to `life`.
fn holding(life: f64) -> M {
    let mut machine = M::default();
    let first = attempt(&machine.step(wanted(&[("a", 1)]), at(0.0), 0.0)).unwrap();
    let actions = machine.step(answer(&first, Ok((1, life))), at(0.0), 0.0);
    assert_eq!(actions, [Action::Deliver("a")]);
    machine
}

#[test]
fn a_failed_refresh_keeps_the_last_good_credential_until_it_expires() {
    let mut machine = holding(100.0);
    let mut now = 0.0;
    let mut withdrawn = None;
    while now < 130.0 {
        now = machine.wake_at().unwrap().as_secs_f64();
        let actions = machine.step(Event::Tick, at(now), 0.0);
        if actions.contains(&Action::Withdraw("a")) {
            withdrawn = Some(now);
        }
        if let Some(attempt) = attempt(&actions) {
            machine.step(
                answer(&attempt, Err(Code::ExchangeUnreachable)),
                at(now),
                0.0,
            );
        }
        let standing = machine.standing(&KEY, &"a").unwrap();
        assert_eq!(standing.held.is_some(), now < 100.0, "at {now}");
        assert_eq!(standing.error.unwrap().code, Code::ExchangeUnreachable);
    }
    assert_eq!(withdrawn, Some(100.0));
}

#[test]
fn what_comes_back_unchanged_is_asked_for_again_soon() {
    let mut machine = holding(135.0);
    let (mut calls, mut last, mut longest) = (0, None, 0.0_f64);
    let delivered = loop {
        let now = machine.wake_at().unwrap().as_secs_f64();
        let Some(attempt) = attempt(&machine.step(Event::Tick, at(now), 0.0)) else {
            continue;
        };
        calls += 1;
        longest = longest.max(now - last.replace(now).unwrap_or(now));
        // The source's cache has something new at 120.
        let answer = answer(
            &attempt,
            Ok(if now < 120.0 { (1, 135.0) } else { (2, 420.0) }),
        );
        let actions = machine.step(answer, at(now), 0.0);
        assert_eq!(machine.standing(&KEY, &"a").unwrap().error, None);
        assert_eq!(held(&machine, "a"), Some(if now < 120.0 { 1 } else { 2 }));
        if actions == [Action::Deliver("a")] {
            break now;
        }
        assert_eq!(actions, []);
    };
    assert!((120.0..=122.7).contains(&delivered), "{delivered}");
    assert!(
        longest < 2.75 && (4..20).contains(&calls),
        "{longest} {calls}"
    );
    // And what is new is new for most of its life.
    let next = machine.wake_at().unwrap().as_secs_f64();
    assert!(next > delivered + 200.0, "{next}");
}

#[test]
fn what_this_node_does_not_have_yet_is_asked_for_every_few_seconds() {
    let longest_wait = |code| {
        let mut machine = M::default();
        let mut actions = machine.step(wanted(&[("a", 1)]), at(0.0), 0.0);
        let (mut now, mut longest) = (0.0_f64, 0.0_f64);
        for _ in 0..30 {
            let refused = Event::Acquired {
                key: KEY,
                number: attempt(&actions).unwrap().number,
                outcome: Outcome {
                    proofs: BTreeMap::from([("a", Err(Named::new(code, "test")))]),
                    credential: None,
                },
            };
            machine.step(refused, at(now), 0.0);
            let next = machine.wake_at().unwrap().as_secs_f64();
            longest = longest.max(next - now);
            now = next;
            actions = machine.step(Event::Tick, at(now), 0.0);
        }
        longest
    };
    assert_eq!(longest_wait(Code::IdentityNotRegistered), 5.0);
    assert_eq!(longest_wait(Code::SpireAgentAbsent), 5.0);
    // What serves every node is spared.
    assert_eq!(longest_wait(Code::SpireUnavailable), 30.0);
    assert_eq!(longest_wait(Code::NotAConsumer), 30.0);
}

#[test]
fn a_latecomer_is_proved_before_it_shares() {
    let mut machine = holding(100.0);
    let proof = attempt(&machine.step(wanted(&[("a", 1), ("b", 1)]), at(1.0), 0.0)).unwrap();
    assert_eq!((proof.holders.as_slice(), proof.renew), (&["b"][..], false));
    assert_eq!(held(&machine, "b"), None);
    let refusal = Event::Acquired {
        key: KEY,
        number: proof.number,
        outcome: Outcome {
            proofs: BTreeMap::from([("b", Err(Named::new(Code::NotAConsumer, "b")))]),
            credential: None,
        },
    };
    assert_eq!(machine.step(refusal, at(1.0), 0.0), []);
    assert_eq!((held(&machine, "a"), held(&machine, "b")), (Some(1), None));
    let error = machine.standing(&KEY, &"b").unwrap().error.unwrap();
    assert_eq!(error.code, Code::NotAConsumer);

    // The first holder's refresh is not disturbed by the other's back-off.
    assert_eq!(machine.standing(&KEY, &"a").unwrap().error, None);
    let retry = attempt(&machine.step(Event::Tick, at(1.5), 0.0)).unwrap();
    let actions = machine.step(answer(&retry, Err(Code::BadRequest)), at(1.6), 0.0);
    assert_eq!(actions, [Action::Deliver("b")]);
}

#[test]
fn a_changed_binding_is_retried_at_once() {
    let mut machine = M::default();
    let mut now = 0.0;
    let mut next = attempt(&machine.step(wanted(&[("a", 1)]), at(now), 0.0));
    for _ in 0..8 {
        let failed = answer(&next.unwrap(), Err(Code::RobotSubjectMismatch));
        assert_eq!(machine.step(failed, at(now), 0.0), []);
        now = machine.wake_at().unwrap().as_secs_f64();
        next = attempt(&machine.step(Event::Tick, at(now), 0.0));
    }
    machine.step(
        answer(&next.unwrap(), Err(Code::RobotSubjectMismatch)),
        at(now),
        0.0,
    );
    assert_eq!(
        attempt(&machine.step(Event::Tick, at(now + 1.0), 0.0)),
        None
    );
    assert!(attempt(&machine.step(wanted(&[("a", 2)]), at(now + 1.0), 0.0)).is_some());
}

#[test]
fn a_holder_whose_binding_changed_is_proved_again() {
    let mut machine = holding(100.0);
    let proof = attempt(&machine.step(wanted(&[("a", 2)]), at(1.0), 0.0)).unwrap();
    assert_eq!((proof.holders.as_slice(), proof.renew), (&["a"][..], false));
    assert_eq!(held(&machine, "a"), Some(1), "the last good one stays");
}

#[test]
fn an_answer_that_is_late_or_for_an_older_binding_changes_nothing() {
    let mut machine = M::default();
    let first = attempt(&machine.step(wanted(&[("a", 1)]), at(0.0), 0.0)).unwrap();
    assert_eq!(machine.step(wanted(&[("a", 2)]), at(0.1), 0.0), []);
    let actions = machine.step(answer(&first, Ok((1, 60.0))), at(0.2), 0.0);
    assert_eq!(held(&machine, "a"), None, "proved for the older binding");
    let again = attempt(&actions).unwrap();
    assert!(!again.renew);
    machine.step(answer(&again, Err(Code::BadRequest)), at(0.3), 0.0);
    assert_eq!(held(&machine, "a"), Some(1));
    assert_eq!(
        machine.step(answer(&first, Ok((9, 60.0))), at(0.4), 0.0),
        []
    );
    assert_eq!(held(&machine, "a"), Some(1));
}

#[test]
fn nobody_who_left_keeps_a_credential() {
    let mut machine = holding(100.0);
    let actions = machine.step(Event::Wanted(BTreeMap::new()), at(1.0), 0.0);
    assert_eq!(actions, [Action::Withdraw("a")]);
    assert_eq!((held(&machine, "a"), machine.wake_at()), (None, None));
}

#[test]
fn either_clock_expires_a_credential() {
    // Suspended: the wall clock jumps, the monotonic one stood still.
    let mut machine = holding(100.0);
    let resumed = Now {
        wall: at(500.0).wall,
        mono: secs(1.0),
    };
    let actions = machine.step(Event::Tick, resumed, 0.0);
    assert!(actions.contains(&Action::Withdraw("a")) && attempt(&actions).is_some());
    // Set back: the wall clock says that there is plenty of time.
    let mut machine = holding(100.0);
    let set_back = Now {
        wall: at(0.0).wall,
        mono: secs(100.0),
    };
    assert!(
        machine
            .step(Event::Tick, set_back, 0.0)
            .contains(&Action::Withdraw("a"))
    );
}

#[test]
fn a_credential_that_arrives_expired_is_a_named_failure() {
    let mut machine = M::default();
    let first = attempt(&machine.step(wanted(&[("a", 1)]), at(10.0), 0.0)).unwrap();
    assert_eq!(
        machine.step(answer(&first, Ok((1, 10.0))), at(10.0), 0.0),
        []
    );
    let standing = machine.standing(&KEY, &"a").unwrap();
    assert!(standing.held.is_none());
    assert_eq!(standing.error.unwrap().code, Code::ExchangeUnreadable);
}

proptest! {
    /// 75–80 % of the remaining life, 45–50 % of long ones; clients are told an
    /// expiry between the refresh and the real one.
    #[test]
    fn the_schedule_follows_the_remaining_life(life in 5_u32..90_000, jitter in 0.0..=1.0_f64) {
        let life = f64::from(life);
        let fresh = Fresh { credential: 1, expires_at: at(life).wall };
        let lease = Lease::new(fresh, at(0.0), jitter, 1).unwrap();
        let share = lease.refresh.mono.as_secs_f64() / life;
        let (earliest, latest) = if life >= 6.0 * 3600.0 { (0.45, 0.50) } else { (0.75, 0.80) };
        prop_assert!(share >= earliest - 1e-6 && share <= latest + 1e-6, "{share}");
        let margin = (life * 0.1).min(60.0);
        let published = lease.published_expires_at.duration_since(at(0.0).wall).as_secs_f64();
        prop_assert!((published - (life - margin)).abs() <= 1.0);
    }

    /// Whoever asks again at the expiry that the file has finds the renewal
    /// due already, however short the life and at whatever moment it came.
    #[test]
    fn the_published_expiry_is_never_before_the_refresh(
        life in prop_oneof![1.0..20.0_f64, 1.0..100_000.0_f64],
        jitter in 0.0..=1.0_f64,
    ) {
        let expires_at = at(100_000.0).wall;
        let fresh = Fresh { credential: 1, expires_at };
        let lease = Lease::new(fresh, at(100_000.0 - life), jitter, 1).unwrap();
        let file = ExecCredential::new("token".into(), lease.published_expires_at);
        let published = file.status.expiration_timestamp;
        prop_assert!(published >= lease.refresh.wall, "{published} {:?}", lease.refresh);
        prop_assert!(published <= expires_at);
        if life >= 10.0 {
            prop_assert!(published < expires_at);
        }
    }

    /// The promise to users: no upstream failure shorter than 15 % of a
    /// credential's life is ever seen by a consumer, be it refusals at once or
    /// an upstream that hangs; and nobody ever holds an expired credential.
    ///
    /// The outages are the worst ones: each begins with an attempt, once per life.
    #[test]
    fn outages_below_15_percent_of_a_life_go_unseen(
        life in 150_u32..40_000,
        outages in proptest::collection::vec((0_u8..6, 0.0..0.149_f64), 1..12),
        hangs: bool,
        latency in 0.0..0.5_f64,
        jitters in proptest::collection::vec(0.0..=1.0_f64, 1..20),
    ) {
        let life = f64::from(life);
        let mut outages = outages.into_iter();
        let mut outage = (0.0, 0.0);
        let mut skip = 0;
        let mut jitters = jitters.iter().copied().cycle();
        let mut jitter = move || jitters.next().unwrap();

        let mut machine = M::default();
        let mut now = 0.0;
        let mut answers: Vec<(f64, Event<&str, &str, u32>)> = Vec::new();
        let mut event = wanted(&[("a", 1)]);
        let mut first = true;
        let mut calls = 0_u32;
        while now < 12.0 * life {
            let actions = machine.step(event, at(now), jitter());
            if let Some(lease) = machine.held(&KEY, &"a") {
                prop_assert!(lease.expires_at > at(now).wall, "expired one kept at {now}");
                first = false;
            } else {
                prop_assert!(first, "no credential at {now} of life {life}");
            }
            if let Some(attempt) = attempt(&actions) {
                calls += 1;
                // A new outage begins with the first attempt of a later life.
                if !first && now > outage.1 + 0.5 * life {
                    if skip > 0 {
                        skip -= 1;
                        outage = (now, now);
                    } else if let Some((pause, length)) = outages.next() {
                        skip = pause / 3;
                        outage = (now, now + length * life);
                    }
                }
                let failed = (outage.0..outage.1).contains(&now);
                let end = now + match failed {
                    true if hangs => attempt.deadline.as_secs_f64(),
                    true => 0.001,
                    false => latency,
                };
                let result = match failed {
                    true => Err(Code::ExchangeUnreachable),
                    false => Ok((1, end + life)),
                };
                answers.push((end, answer(&attempt, result)));
            }
            let wake = machine.wake_at().map_or(f64::MAX, |wake| wake.as_secs_f64());
            answers.sort_by(|a, b| b.0.total_cmp(&a.0));
            match answers.pop_if(|(end, _)| *end <= wake) {
                Some((end, answer)) => (now, event) = (end, answer),
                // Wake times have nanoseconds, this test's clock has milliseconds.
                None => (now, event) = (wake + 0.001, Event::Tick),
            }
        }
        prop_assert!(calls < 12 * 40, "{calls} calls in 12 lives");
    }

    /// Whatever the events, nobody holds an expired credential after a step,
    /// and at most one attempt per key is under way.
    #[test]
    fn no_order_of_events_breaks_the_invariants(
        steps in proptest::collection::vec((0_u8..6, 0.0..40.0_f64, 0.0..=1.0_f64), 1..80),
    ) {
        let mut machine = M::default();
        let mut now = 0.0;
        let mut open: Option<Attempt<&str, &str>> = None;
        for (kind, wait, jitter) in steps {
            now += wait;
            let event = match (kind, open.take()) {
                (0, kept) => { open = kept; wanted(&[("a", 1), ("b", 1)]) }
                (1, kept) => { open = kept; wanted(&[("b", 2)]) }
                (2, Some(attempt)) => answer(&attempt, Ok((1, now + 60.0))),
                (3, Some(attempt)) => answer(&attempt, Ok((1, now - 1.0))),
                (4, Some(attempt)) => answer(&attempt, Err(Code::ExchangeRejected)),
                (_, kept) => { open = kept; Event::Tick }
            };
            let actions = machine.step(event, at(now), jitter);
            for action in &actions {
                if let Action::Acquire(attempt) = action {
                    prop_assert!(open.is_none(), "two attempts at once");
                    prop_assert!(!attempt.holders.is_empty());
                    open = Some(attempt.clone());
                }
            }
            for holder in ["a", "b"] {
                if let Some(lease) = machine.held(&KEY, &holder) {
                    prop_assert!(lease.expires_at > at(now).wall);
                }
            }
            prop_assert!(machine.wake_at().is_none_or(|wake| open.is_some() || wake > secs(now)));
        }
    }
}
