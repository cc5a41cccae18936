use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;
use shared::{
    binding::CredentialBindingSpec,
    conflicts::{Claim, conflicts, stakes},
};

use super::*;
use crate::bindings::testing::{cluster, quay};

/// Something that happens to one of eight bindings.
#[derive(Debug, Clone)]
enum Step {
    Set(u8, Option<u8>, Box<CredentialBindingSpec>),
    Forget(u8),
    /// At most so many looks.
    Settle(usize),
}

/// Few servers, hosts, audiences and subjects, so that claims meet.
fn spec() -> impl Strategy<Value = Box<CredentialBindingSpec>> {
    let which = (0..3_u8, 0..3_u8, 0..3_u8, 0..2_u8, 0..2_u8);
    which.prop_map(|(kind, at, audience, subject, user)| {
        let audience = format!("audience-{audience}");
        let mut spec = match kind {
            0 => cluster(&format!("https://c{at}.example.org"), &audience),
            _ => quay(&format!("q{at}.example.org")),
        };
        spec["identity"]["audience"] = json!(audience);
        spec["identity"]["subject"] = json!(format!("subject-{subject}"));
        if kind != 0 {
            spec["exchange"]["username"] = json!(format!("user-{user}"));
        }
        if kind == 2 {
            spec["delivery"] = json!("proxy");
            // One in two is not delivered at all.
            if user == 0 {
                spec["proxy"] = json!({"keySha256": ["0"], "type": "oci"});
            }
        }
        serde_json::from_value(spec).unwrap()
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..8_u8, proptest::option::of(0..4_u8), spec())
            .prop_map(|(name, created, spec)| Step::Set(name, created, spec)),
        2 => (0..8_u8).prop_map(Step::Forget),
        2 => (0..4_usize).prop_map(Step::Settle),
        2 => Just(Step::Settle(usize::MAX)),
    ]
}

type Known = BTreeMap<Arc<str>, (Option<Timestamp>, Box<CredentialBindingSpec>)>;

/// The answers of the whole-set function.
fn reference(known: &Known) -> BTreeMap<Arc<str>, Named> {
    let claims = known.iter().map(|(name, (created, spec))| Claim {
        name,
        created: *created,
        spec,
    });
    let answers = conflicts(claims).into_iter();
    answers.map(|(name, why)| (name.into(), why)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_answers_are_those_of_a_look_at_all_claims(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let mut claims = Claims::default();
        let mut known = Known::new();
        let mut before = BTreeMap::new();
        let mut touched = BTreeSet::new();
        let mut changed = Vec::new();
        for step in steps.into_iter().chain([Step::Settle(usize::MAX)]) {
            match step {
                Step::Set(name, created, spec) => {
                    let name: Arc<str> = format!("b{name}").into();
                    let created = created.map(|at| Timestamp::from_second(at.into()).unwrap());
                    claims.set(&name, created, stakes(&name, &spec));
                    touched.insert(Arc::clone(&name));
                    known.insert(name, (created, spec));
                }
                Step::Forget(name) => {
                    let name = format!("b{name}");
                    claims.forget(&name);
                    known.remove(&*name);
                    touched.insert(name.into());
                }
                Step::Settle(most) => {
                    if !claims.settle(most, &mut changed) {
                        continue;
                    }
                    let after = reference(&known);
                    for name in known.keys() {
                        prop_assert_eq!(claims.conflict(name), after.get(name).cloned());
                    }
                    for name in known.keys().filter(|name| before.get(*name) != after.get(*name)) {
                        prop_assert!(changed.contains(name) || touched.contains(name), "{}", name);
                    }
                    (before, touched) = (after, BTreeSet::new());
                    changed.clear();
                }
            }
        }
        for name in known.keys() {
            claims.forget(name);
        }
        claims.settle(usize::MAX, &mut changed);
        prop_assert!(claims.seats.is_empty() && claims.winners.is_empty());
        prop_assert!(claims.marks.is_empty() && claims.pending.is_empty());
    }
}

/// How many looks it takes until all answers are up to date.
fn looks(claims: &mut Claims) -> usize {
    let mut changed = Vec::new();
    let mut looks = 0;
    while !claims.pending.is_empty() {
        claims.settle(1, &mut changed);
        looks += 1;
    }
    looks
}

fn filled(count: i64, spec: impl Fn(i64) -> serde_json::Value) -> Claims {
    let mut claims = Claims::default();
    // The youngest first.
    for at in (0..count).rev() {
        set(&mut claims, at, spec(at));
    }
    assert_eq!(looks(&mut claims), usize::try_from(count).unwrap());
    claims
}

fn set(claims: &mut Claims, at: i64, spec: serde_json::Value) {
    let spec: CredentialBindingSpec = serde_json::from_value(spec).unwrap();
    let name: Arc<str> = format!("b{at:06}").into();
    let created = Timestamp::from_second(at).ok();
    claims.set(&name, created, stakes(&name, &spec));
}

#[test]
fn who_shares_a_place_is_not_looked_at_when_it_passes_on() {
    let shared = |_| quay("quay.example.org");
    let mut claims = filled(1_000, shared);
    claims.forget("b000000");
    assert_eq!(looks(&mut claims), 0);
    set(&mut claims, 0, shared(0));
    assert_eq!(looks(&mut claims), 1);
    set(&mut claims, 500, quay("other.example.org"));
    assert_eq!(looks(&mut claims), 1);
}

#[test]
fn a_change_costs_what_it_touches() {
    let own = |at| cluster(&format!("https://s{at}.example.org"), &format!("a{at}"));
    let mut claims = filled(1_000, own);
    set(&mut claims, 500, cluster("https://new.example.org", "a500"));
    assert_eq!(looks(&mut claims), 1);
    set(&mut claims, 501, own(3));
    assert_eq!(looks(&mut claims), 1);
    assert!(claims.conflict("b000501").is_some());
    claims.forget("b000003");
    assert_eq!(looks(&mut claims), 1);
    assert!(claims.conflict("b000501").is_none());
}

#[test]
fn however_many_fall_in_a_row_each_is_looked_at_once() {
    // All want one server, and each has an audience of its own.
    let one = |at| cluster("https://one.example.org", &format!("a{at}"));
    let mut claims = filled(1_000, one);
    for at in 0..500 {
        claims.forget(&format!("b{at:06}"));
    }
    assert_eq!(looks(&mut claims), 500);
    assert!(claims.conflict("b000500").is_none());
    let words = claims.conflict("b000999").unwrap().detail;
    assert!(words.contains("b000500"), "{words}");
}
