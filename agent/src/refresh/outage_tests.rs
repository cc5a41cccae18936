//! The promises of [`super`], in simulated time: what an outage costs, and whom.

use proptest::prelude::*;

use super::world::{Answer, Name, World, name};
use super::*;

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// What happens to one attempt during an outage.
fn trouble() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Refuse),
        Just(Answer::Hang),
        (0.0..4000.0).prop_map(|rest| Answer::Throttle(secs(rest))),
        Just(Answer::Serve(Duration::ZERO)),
    ]
}

/// Outages of one kind, or of any mixture.
fn troubles() -> impl Strategy<Value = Vec<Answer>> {
    prop_oneof![
        Just(vec![Answer::Refuse]),
        Just(vec![Answer::Hang]),
        Just(vec![Answer::Throttle(secs(600.0))]),
        proptest::collection::vec(trouble(), 1..30),
    ]
}

/// Some are due as late as it gets.
fn jitters() -> impl Strategy<Value = Vec<f64>> {
    let jitter = prop_oneof![Just(0.0), Just(1.0), 0.0..=1.0];
    proptest::collection::vec(jitter, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// No upstream failure shorter than 15 % of a credential's life is ever
    /// seen by a consumer: any number of keys at one upstream, refusals,
    /// silence, throttling and answers in between, at any moment. What an
    /// upstream needs for all keys must fit into 1 % of the shortest life.
    #[test]
    fn outages_below_15_percent_of_a_life_go_unseen(
        shortest in 150.0..8_000.0_f64,
        shares in proptest::collection::vec(prop_oneof![Just(1.0), 1.0..6.0_f64], 1..50),
        length in 0.0..0.149_f64,
        outages in proptest::collection::vec((0.0..1.0_f64, troubles(), any::<bool>()), 1..4),
        slowness in 0.0..=1.0_f64,
        jitters in jitters(),
    ) {
        let lives: BTreeMap<Name, f64> = (0..).zip(&shares)
            .map(|(index, share)| (name(format!("{index}@quay.test:443")), shortest * share))
            .collect();
        let keys: Vec<Name> = lives.keys().copied().collect();
        let longest = lives.values().copied().fold(0.0, f64::max);
        let rounds = 2.0 + keys.len() as f64 / 8.0;
        // And each answer into the time of an attempt.
        let latency = (shortest * 0.01 / rounds * slowness).min(15.0);
        let mut world = World::new(secs(latency), jitters);

        // The first credentials end at different times.
        let mut begun = BTreeMap::new();
        let mut serve = |key: Name, _| {
            let first = *begun.entry(key).and_modify(|it| *it += 1).or_insert(1_u32) == 1;
            let share = if first { 0.3 + 0.7 * (lives[key] * 7.3).fract() } else { 1.0 };
            Answer::Serve(secs(lives[key] * share))
        };
        world.want(&keys, &mut serve);
        world.run(secs(2.0 * longest), &mut serve, &mut |_| {});
        for (pause, troubles, at_an_attempt) in outages {
            let mut trouble = troubles.iter().copied().cycle();
            let earliest = world.mono + secs(longest * (0.06 + pause));
            // The worst outages begin with an attempt.
            let mut outage = (!at_an_attempt).then_some(earliest);
            let mut meet = |key: Name, at: Duration| {
                let well = Answer::Serve(secs(lives[key]));
                if outage.is_none() && at >= earliest {
                    outage = Some(at);
                }
                let end = outage.map(|begin| begin + secs(length * shortest));
                match outage.is_some_and(|begin| begin <= at) && end.is_some_and(|end| at < end) {
                    true => match trouble.next().unwrap() {
                        Answer::Serve(_) => well,
                        trouble => trouble,
                    },
                    false => well,
                }
            };
            let mut lost = None;
            world.run(earliest + secs(longest), &mut meet, &mut |world| {
                for key in &keys {
                    if world.machine.held(key, key).is_none() {
                        lost.get_or_insert((*key, world.mono));
                    }
                }
            });
            prop_assert_eq!(lost, None, "lives {:?}, outage {:?}", &lives, outage);
        }
        prop_assert!(world.most.values().all(|most| *most <= 8), "{:?}", world.most);
    }

    /// Clocks jump, machines sleep, identities and upstreams fail: nobody holds
    /// what has expired after a step (checked by the world itself), and when
    /// all is well again everybody has a credential.
    #[test]
    fn no_schedule_leaves_an_expired_credential(
        life in 30.0..4_000.0_f64,
        keys in 1..20_usize,
        jitters in jitters(),
        events in proptest::collection::vec(
            (0.0..2.0_f64, -3_000..8_000_i64, any::<bool>(), any_answer()), 1..25),
    ) {
        let keys: Vec<Name> = (0..keys)
            .map(|it| name(format!("{it}@{}.test:443", it % 2)))
            .collect();
        let mut world = World::new(secs(0.1), jitters);
        let mut trouble = Answer::Serve(secs(life));
        world.want(&keys, &mut |_, _| trouble);
        for (pause, jump, jumps, answer) in events {
            trouble = match answer {
                Answer::Serve(_) => Answer::Serve(secs(life)),
                other => other,
            };
            let mut number = 0;
            // Half of them are well.
            let mut meet = |_: Name, _| {
                number += 1;
                if number % 2 == 0 { Answer::Serve(secs(life)) } else { trouble }
            };
            let end = world.mono + secs(life * pause);
            world.run(end, &mut meet, &mut |_| {});
            if jumps {
                // A step of the wall clock; forwards, it may have been a sleep.
                world.offset += jiff::SignedDuration::from_secs(jump);
                world.step(Event::Tick, &mut meet);
            }
        }
        let end = world.mono + secs(700.0 + 2.0 * life);
        let mut well = |_: Name, _| Answer::Serve(secs(life));
        world.run(end, &mut well, &mut |_| {});
        for key in &keys {
            prop_assert!(world.machine.held(key, key).is_some(), "{key}");
            let standing = world.machine.standing(key, key).unwrap();
            prop_assert!(standing.error.is_none(), "{key}: {:?}", standing.error);
        }
    }
}

fn any_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![trouble(), Just(Answer::Reject), Just(Answer::NoIdentity)]
}

const HOUR: f64 = 3600.0;

/// A node's day: one exchange for each key and period, eight at a time.
#[test]
fn a_day_of_a_thousand_bindings_costs_one_exchange_per_period() {
    let keys: Vec<Name> = (0..1000)
        .map(|it| name(format!("{it}@quay.test:443")))
        .collect();
    let jitters = (0..17).map(|it| f64::from(it) / 16.0).collect();
    let mut world = World::new(secs(0.2), jitters);
    let mut serve = |_: Name, _| Answer::Serve(secs(HOUR));
    world.want(&keys, &mut serve);
    let mut complete = None;
    world.run(secs(24.0 * HOUR), &mut serve, &mut |world| {
        if complete.is_none() {
            let all = keys
                .iter()
                .rev()
                .all(|key| world.machine.held(key, key).is_some());
            complete = all.then_some(world.mono);
        }
    });
    // A thousand, eight at a time, 0.2 s each.
    assert_eq!(complete, Some(secs(25.0)));
    assert_eq!(
        world.most,
        BTreeMap::from([("quay.test:443".to_owned(), 8)])
    );
    for (key, asked) in &world.asked {
        assert!((30..=33).contains(&asked.len()), "{key}: {}", asked.len());
        let period = |pair: &[Duration]| pair[1] - pair[0] >= secs(0.75 * HOUR);
        assert!(asked.windows(2).all(period), "{key}: {asked:?}");
    }
    assert_eq!(world.asked.len(), 1000);
}
