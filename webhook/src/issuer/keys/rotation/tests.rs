//! A model of several replicas that read one Secret at times of their own:
//! whatever any of them has signed verifies by each one's key set, fresh or as
//! old as a verifier's copy may be.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use control_plane_core::identity::algorithm::Algorithm;
use proptest::prelude::*;

use super::*;

/// In seconds, as everything here. Longer than a verifier keeps a key set.
const LIFETIME: u64 = 150;
const KEYS: usize = 8;

/// Keys by number, as PEM. On P-256, because such a key is made in no time.
static POOL: LazyLock<Vec<String>> = LazyLock::new(|| {
    let key = |_| SigningKey::generate(Algorithm::Es256).unwrap().1;
    (0..KEYS).map(key).map(|pem| pem.to_string()).collect()
});
static IDS: LazyLock<Vec<String>> =
    LazyLock::new(|| (0..KEYS).map(|key| public(key).kid).collect());

fn signing(key: usize) -> SigningKey {
    SigningKey::from_pem(POOL[key].as_bytes()).unwrap()
}

fn public(key: usize) -> PublicJwk {
    signing(key).public().clone()
}

fn number(key: &PublicJwk) -> usize {
    IDS.iter().position(|id| *id == key.kid).unwrap()
}

/// What the Secret has from a time on.
#[derive(Debug, Clone)]
struct State {
    from: u64,
    signing: usize,
    listed: BTreeSet<usize>,
}

impl State {
    fn keys(&self) -> StoredKeys {
        StoredKeys {
            signing: signing(self.signing),
            listed: self.listed.iter().copied().map(public).collect(),
        }
    }
}

/// How one replica differs from another.
#[derive(Debug, Clone)]
struct Replica {
    /// Between two reads; used in turn.
    pauses: Vec<u64>,
    /// When it starts over, with an empty memory.
    restarts: BTreeSet<u64>,
}

fn replicas(restarts: usize) -> impl Strategy<Value = Vec<Replica>> {
    let pause = RESYNC.as_secs()..=SPREAD.as_secs();
    let first = 1..=SPREAD.as_secs();
    let pauses = (first, prop::collection::vec(pause, 1..8)).prop_map(|(first, mut rest)| {
        rest.insert(0, first);
        rest
    });
    let restarts = prop::collection::btree_set(1..1200_u64, 0..=restarts);
    let replica = (pauses, restarts).prop_map(|(pauses, restarts)| Replica { pauses, restarts });
    prop::collection::vec(replica, 1..4)
}

/// Lets the replicas run, and checks every second that every token that is
/// still valid verifies everywhere.
fn run(states: &[State], replicas: &[Replica], seconds: u64) -> Result<(), TestCaseError> {
    let begin = Instant::now();
    let at = |second| begin + Duration::from_secs(second);
    let state = |now| states.iter().rev().find(|state| state.from <= now).unwrap();
    let lifetime = Duration::from_secs(LIFETIME);
    let start = |now| Rotation::new(state(now).keys(), lifetime, at(now));
    let mut running: Vec<_> = replicas
        .iter()
        .map(|replica| (start(0), replica.pauses[0], 1))
        .collect();
    let mut published: Vec<Vec<BTreeSet<usize>>> = vec![Vec::new(); replicas.len()];
    let mut tokens = BTreeMap::new();
    for now in 0..seconds {
        for (replica, (rotation, next, turn)) in replicas.iter().zip(&mut running) {
            if replica.restarts.contains(&now) {
                *rotation = start(now);
                *next = now + replica.pauses[0];
            } else if *next == now {
                rotation.read(state(now).keys(), at(now));
                *next = now + replica.pauses[*turn % replica.pauses.len()].max(1);
                *turn += 1;
            }
        }
        for ((rotation, ..), published) in running.iter_mut().zip(&mut published) {
            let signing = number(rotation.signing(at(now)).public());
            tokens.insert(signing, now + LIFETIME);
            let keys = rotation.published(at(now));
            prop_assert_eq!(number(&keys[0]), signing, "the signing key comes first");
            let numbers: BTreeSet<_> = keys.iter().map(number).collect();
            prop_assert_eq!(numbers.len(), keys.len(), "a key is published once");
            published.push(numbers);
        }
        let valid = tokens.iter().filter(|(_, end)| **end > now);
        for (key, end) in valid {
            for (replica, published) in published.iter().enumerate() {
                for copied in [now, now.saturating_sub(MAX_AGE.as_secs())] {
                    let copy = &published[usize::try_from(copied).unwrap()];
                    prop_assert!(
                        copy.contains(key),
                        "at {now} s a token of key {key}, valid until {end} s, does not verify \
                         by the key set that replica {replica} had at {copied} s: {copy:?}"
                    );
                }
            }
        }
    }
    Ok(())
}

fn states(
    pause: std::ops::Range<u64>,
) -> impl Strategy<Value = Vec<(u64, usize, BTreeSet<usize>)>> {
    let listed = prop::collection::btree_set(0..KEYS, 0..3);
    prop::collection::vec((pause, 0..KEYS, listed), 1..KEYS)
}

fn timeline(writes: Vec<(u64, usize, BTreeSet<usize>)>) -> Vec<State> {
    let mut from = 0;
    let states = writes.into_iter().map(|(pause, signing, listed)| {
        let state = State {
            from,
            signing,
            listed,
        };
        from += pause;
        state
    });
    states.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Keys that come, go and come back, listed before or not.
    #[test]
    fn whatever_is_written_calmly(
        writes in states(SPREAD.as_secs()..300),
        replicas in replicas(0),
    ) {
        run(&timeline(writes), &replicas, 1500)?;
    }

    /// New keys one after the other, faster than anybody can follow.
    #[test]
    fn new_keys_in_a_hurry(writes in states(1..60), replicas in replicas(0)) {
        let mut states = timeline(writes);
        for (number, state) in states.iter_mut().enumerate() {
            state.signing = number;
            state.listed.clear();
        }
        run(&states, &replicas, 900)?;
    }

    /// The steps of docs/issuer.md: list the next key, let it sign and list
    /// the old one, remove that. Replicas may start over at any time.
    #[test]
    fn the_documented_rotation_with_restarts(
        replicas in replicas(4),
        wait in SETTLE.as_secs()..200,
        // A replica that starts just before the swap knows the next key for no
        // time at all: it signs with the old one for that much longer.
        overlap in (SETTLE.as_secs() + LIFETIME)..400,
    ) {
        let state = |from, signing, listed: &[usize]| State {
            from,
            signing,
            listed: listed.iter().copied().collect(),
        };
        let swap = 100 + wait;
        let states = [
            state(0, 0, &[]),
            state(100, 0, &[1]),
            state(swap, 1, &[0]),
            state(swap + overlap, 1, &[]),
        ];
        run(&states, &replicas, 1200)?;
    }
}

#[test]
fn a_new_key_is_published_at_once_and_signs_later() {
    let begin = Instant::now();
    let mut rotation = Rotation::new(signing(0).into(), Duration::from_secs(LIFETIME), begin);
    let numbers = |keys: Vec<PublicJwk>| keys.iter().map(number).collect::<Vec<_>>();
    let second = Duration::from_secs(1);
    let seen = begin + second;
    assert!(rotation.read(signing(1).into(), seen));
    assert!(!rotation.read(signing(1).into(), seen + second));
    assert_eq!(numbers(rotation.published(seen)), [0, 1]);
    let signs = |rotation: &mut Rotation, at| number(rotation.signing(at).public());
    assert_eq!(signs(&mut rotation, seen + SETTLE - second), 0);
    assert_eq!(signs(&mut rotation, seen + SETTLE), 1);
    // Gone from the Secret since long, and still in the key set.
    let end = seen + SPREAD + SETTLE + Duration::from_secs(LIFETIME);
    assert_eq!(numbers(rotation.published(end - second)), [1, 0]);
    assert_eq!(numbers(rotation.published(end)), [1]);
}

#[test]
fn a_key_that_was_listed_long_enough_signs_at_once() {
    let begin = Instant::now();
    let next = StoredKeys {
        signing: signing(0),
        listed: vec![public(1)],
    };
    let mut rotation = Rotation::new(next, Duration::from_secs(LIFETIME), begin);
    let later = begin + SETTLE;
    assert!(rotation.read(signing(1).into(), later));
    assert_eq!(number(rotation.signing(later).public()), 1);
    // Back again: it has never stopped being known.
    assert!(rotation.read(signing(0).into(), later));
    assert_eq!(number(rotation.published(later).last().unwrap()), 0);
}
