//! What keys of one upstream do to each other.

use shared::errors::Named;

use super::world::Name;
use super::*;

type M = Machine<Name, Name, u32>;

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn at(seconds: f64) -> Now {
    let start = jiff::Timestamp::from_second(1_800_000_000).unwrap();
    let since = jiff::SignedDuration::try_from(secs(seconds)).unwrap();
    Now {
        wall: start + since,
        mono: secs(seconds),
    }
}

fn wanted(keys: &[Name], revision: i64) -> Event<Name, Name, u32> {
    let holders = |key: &Name| (*key, BTreeMap::from([(*key, revision)]));
    Event::Wanted(keys.iter().map(holders).collect())
}

fn attempts(actions: &[Action<Name, Name>]) -> Vec<Attempt<Name, Name>> {
    let attempt = |action: &Action<Name, Name>| match action {
        Action::Acquire(attempt) => Some(attempt.clone()),
        _ => None,
    };
    actions.iter().filter_map(attempt).collect()
}

/// The attempt ends, everybody proved; returns what begins.
fn end(
    machine: &mut M,
    attempt: &Attempt<Name, Name>,
    now: f64,
    credential: Result<f64, Failure>,
) -> Vec<Attempt<Name, Name>> {
    let fresh = |life| Fresh {
        credential: 1,
        expires_at: at(now + life).wall,
    };
    let outcome = Outcome {
        proofs: attempt.holders.iter().map(|it| (*it, Ok(()))).collect(),
        credential: attempt.renew.then(|| credential.map(fresh)),
    };
    let event = Event::Acquired {
        key: attempt.key,
        number: attempt.number,
        outcome,
    };
    attempts(&machine.step(event, at(now), 0.0))
}

fn tick(machine: &mut M, now: f64) -> Vec<Attempt<Name, Name>> {
    attempts(&machine.step(Event::Tick, at(now), 0.0))
}

fn failure(code: Code) -> Failure {
    Named::new(code, "identity of somebody").into()
}

fn down() -> Failure {
    failure(Code::ExchangeUnreachable)
}

fn throttled(rest: f64) -> Failure {
    Failure {
        retry_after: Some(secs(rest)),
        ..failure(Code::ExchangeThrottled)
    }
}

fn names(attempts: &[Attempt<Name, Name>]) -> Vec<Name> {
    attempts.iter().map(|it| it.key).collect()
}

const TEN: [Name; 10] = [
    "0@q", "1@q", "2@q", "3@q", "4@q", "5@q", "6@q", "7@q", "8@q", "9@q",
];

fn wake(machine: &M) -> f64 {
    machine.wake_at().unwrap().as_secs_f64()
}

#[test]
fn eight_are_under_way_and_the_rest_wait_without_losing_time() {
    let mut machine = M::default();
    let mut keys = TEN.to_vec();
    keys.extend(["other@r", "cluster"]);
    let begun = attempts(&machine.step(wanted(&keys, 1), at(0.0), 0.0));
    let there: Vec<_> = begun.iter().filter(|it| it.key.ends_with("@q")).collect();
    assert_eq!((begun.len(), there.len()), (10, 8), "others do not wait");
    let next = end(&mut machine, there[3], 20.0, Ok(3600.0));
    assert_eq!(names(&next), ["8@q"]);
    assert_eq!(next[0].deadline, secs(30.0));
    assert_eq!(
        machine
            .standing(&"9@q", &"9@q")
            .unwrap()
            .error
            .map(|it| it.code),
        None
    );
}

#[test]
fn a_failing_upstream_is_asked_one_at_a_time_and_opens_for_all() {
    let mut machine = M::default();
    let begun = attempts(&machine.step(wanted(&TEN, 1), at(0.0), 0.0));
    for attempt in &begun {
        assert_eq!(
            names(&end(&mut machine, attempt, 1.0, Err(down()))),
            [""; 0]
        );
    }
    // One failure, however many met it; whoever was not tried goes first.
    assert_eq!(wake(&machine), 1.5);
    let mut now = 1.5;
    let mut waits = Vec::new();
    let mut tried = Vec::new();
    for _ in 0..12 {
        let probes = tick(&mut machine, now);
        assert_eq!(probes.len(), 1, "at {now}");
        assert_eq!(names(&tick(&mut machine, now)), [""; 0]);
        tried.push(probes[0].key);
        end(&mut machine, &probes[0], now, Err(down()));
        waits.push(wake(&machine) - now);
        now = wake(&machine);
    }
    assert_eq!(tried[..3], ["8@q", "9@q", "0@q"]);
    assert_eq!(tried[11], "9@q", "in turn");
    let rounded: Vec<_> = waits.iter().map(|it| it.round()).collect();
    assert_eq!(rounded[..7], [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
    let probe = tick(&mut machine, now).remove(0);
    let all = end(&mut machine, &probe, now + 0.2, Ok(3600.0));
    assert_eq!(all.len(), 8, "{all:?}");
}

#[test]
fn what_waits_shows_the_upstreams_error_and_nobody_elses_words() {
    let mut machine = M::default();
    let begun = attempts(&machine.step(wanted(&TEN, 1), at(0.0), 0.0));
    end(&mut machine, &begun[0], 1.0, Err(down()));
    let error = |machine: &M, key: Name| machine.standing(&key, &key).unwrap().error.cloned();
    assert_eq!(error(&machine, "0@q"), Some(down().error));
    let waits = error(&machine, "9@q").unwrap();
    assert_eq!(waits.code, Code::ExchangeUnreachable);
    assert!(
        waits.detail.starts_with("q:") && !waits.detail.contains("somebody"),
        "{waits}"
    );
    end(&mut machine, &begun[1], 1.0, Ok(3600.0));
    assert_eq!(error(&machine, "9@q"), None);
    assert_eq!(error(&machine, "1@q"), None);
}

#[test]
fn a_request_for_time_is_honoured_within_bounds() {
    let again = |life: Option<f64>, rest: f64| {
        let mut machine = M::default();
        let mut now = 0.0;
        let mut begun = attempts(&machine.step(wanted(&["a@q"], 1), at(now), 0.0));
        if let Some(life) = life {
            end(&mut machine, &begun[0], now, Ok(life));
            now = life * 0.8;
            begun = tick(&mut machine, now);
        }
        end(&mut machine, &begun[0], now, Err(throttled(rest)));
        wake(&machine) - now
    };
    assert_eq!(again(None, 0.1), 0.5);
    assert_eq!(again(None, 100.0), 100.0);
    assert_eq!(again(None, 9999.0), 300.0);
    assert!((again(Some(1000.0), 12.0) - 12.0).abs() < 1e-6);
    assert!((again(Some(1000.0), 9999.0) - 20.0).abs() < 1e-6);
}

#[test]
fn a_credential_that_becomes_due_does_not_wait_for_those_without() {
    let mut machine = M::default();
    let begun = attempts(&machine.step(wanted(&["a@q", "b@q"], 1), at(0.0), 0.0));
    end(&mut machine, &begun[0], 0.0, Ok(100.0));
    end(&mut machine, &begun[1], 79.0, Err(throttled(250.0)));
    // Due at 80; 2 % of its life is the longest that it waits.
    let (now, probe) = loop {
        let now = wake(&machine);
        if let Some(probe) = tick(&mut machine, now).pop() {
            break (now, probe);
        }
    };
    assert!((now - 82.0).abs() < 1e-6, "{now}");
    assert_eq!(probe.deadline, secs(3.0));
}

#[test]
fn the_shortest_life_bounds_everybodys_attempt() {
    let mut machine = M::default();
    let begun = attempts(&machine.step(wanted(&["a@q"], 1), at(0.0), 0.0));
    assert_eq!(begun[0].deadline, secs(30.0));
    end(&mut machine, &begun[0], 0.0, Ok(500.0));
    let begun = attempts(&machine.step(wanted(&["a@q", "b@q", "c@r"], 1), at(1.0), 0.0));
    let deadlines: Vec<_> = begun.iter().map(|it| (it.key, it.deadline)).collect();
    assert_eq!(deadlines, [("b@q", secs(10.0)), ("c@r", secs(30.0))]);
    // And is forgotten with its credential.
    machine.step(Event::Wanted(BTreeMap::new()), at(2.0), 0.0);
    let begun = attempts(&machine.step(wanted(&["d@q"], 1), at(3.0), 0.0));
    assert_eq!(begun[0].deadline, secs(30.0));
}

#[test]
fn what_somebody_changed_is_tried_at_a_failing_upstream_too() {
    let failing = || {
        let mut machine = M::default();
        let begun = attempts(&machine.step(wanted(&["a@q", "b@q"], 1), at(0.0), 0.0));
        end(&mut machine, &begun[0], 0.0, Err(throttled(200.0)));
        end(&mut machine, &begun[1], 0.0, Err(throttled(200.0)));
        assert_eq!(names(&tick(&mut machine, 1.0)), [""; 0]);
        machine
    };
    // Another revision, as after a changed Secret.
    let mut machine = failing();
    let begun = attempts(&machine.step(wanted(&["a@q", "b@q"], 2), at(1.0), 0.0));
    assert_eq!(names(&begun), ["a@q", "b@q"]);
    end(&mut machine, &begun[0], 2.0, Err(down()));
    assert_eq!(names(&tick(&mut machine, 2.0)), [""; 0], "once");
    // Another key of the same holder, as after a changed role.
    let mut machine = failing();
    let moved = BTreeMap::from([("x@q", BTreeMap::from([("a@q", 2)]))]);
    let begun = attempts(&machine.step(Event::Wanted(moved), at(1.0), 0.0));
    assert_eq!(names(&begun), ["x@q"]);
    // Somebody new waits: after a restart there would be a thousand.
    let mut machine = failing();
    let event = wanted(&["a@q", "b@q", "new@q"], 1);
    assert_eq!(
        names(&attempts(&machine.step(event, at(1.0), 0.0))),
        [""; 0]
    );
}

#[test]
fn other_failures_are_the_keys_own() {
    let mut machine = M::default();
    let begun = attempts(&machine.step(wanted(&["a@q", "b@q"], 1), at(0.0), 0.0));
    let rejected = failure(Code::ExchangeRejected);
    assert_eq!(
        names(&end(&mut machine, &begun[0], 0.0, Err(rejected))),
        [""; 0]
    );
    let b = machine.standing(&"b@q", &"b@q").unwrap();
    assert!(b.error.is_none());
    assert_eq!(
        names(&tick(&mut machine, 0.5)),
        ["a@q"],
        "after its own back-off"
    );
}

#[test]
fn a_key_that_fails_while_others_succeed_is_alone_in_that() {
    let mut machine = M::default();
    let begun = attempts(&machine.step(wanted(&["bad@q", "good@q"], 1), at(0.0), 0.0));
    end(&mut machine, &begun[0], 0.0, Err(down()));
    let again = end(&mut machine, &begun[1], 0.1, Ok(3600.0));
    assert_eq!(names(&again), ["bad@q"], "open again");
    let (mut now, mut attempt) = (0.1, again[0].clone());
    for wait in [0.5, 1.0, 2.0, 4.0] {
        end(&mut machine, &attempt, now, Err(down()));
        let bad = machine.standing(&"bad@q", &"bad@q").unwrap();
        assert_eq!(bad.error.map(|it| it.code), Some(Code::ExchangeUnreachable));
        // The next key is not kept from an upstream that serves others.
        let event = wanted(&["bad@q", "good@q", "late@q"], 1);
        let late = attempts(&machine.step(event, at(now), 0.0));
        assert_eq!(names(&late), ["late@q"], "at {now}");
        end(&mut machine, &late[0], now, Ok(3600.0));
        machine.step(wanted(&["bad@q", "good@q"], 1), at(now), 0.0);
        assert!((wake(&machine) - now - wait).abs() < 1e-6, "{wait}");
        now += wait + 1e-6;
        attempt = tick(&mut machine, now).remove(0);
    }
}

#[test]
fn proofs_alone_do_not_count() {
    let mut machine = M::default();
    let begun = attempts(&machine.step(wanted(&["a@q"], 1), at(0.0), 0.0));
    end(&mut machine, &begun[0], 0.0, Ok(3600.0));
    let mut all = BTreeMap::from([("a@q", BTreeMap::from([("a@q", 1), ("late", 1)]))]);
    all.extend(TEN.map(|key| (key, BTreeMap::from([(key, 1)]))));
    let begun = attempts(&machine.step(Event::Wanted(all), at(1.0), 0.0));
    let renewing = begun.iter().filter(|it| it.renew).count();
    assert_eq!((begun.len(), renewing), (9, 8));
}
