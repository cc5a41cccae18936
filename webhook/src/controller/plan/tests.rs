use serde_json::json;
use shared::binding::CredentialBindingSpec;

use super::*;
use crate::{
    controller::testing::observed,
    source::{
        derive,
        tests::{derivation, quay, secret},
    },
};

fn key() -> Key {
    Key {
        namespace: "argocd".into(),
        name: "quay".into(),
    }
}

fn valid() -> (Owner, Box<CredentialBindingSpec>) {
    match derive(&derivation(), &quay("quay")) {
        Derived::Valid(owner, spec) => (owner, spec),
        other => panic!("{other:?}"),
    }
}

fn existing(spec: &CredentialBindingSpec) -> Binding {
    observed("quay", 1, json!(spec), json!({})).binding
}

fn meaning(derived: &Derived) -> Meaning {
    Meaning::from(derived)
}

#[test]
fn a_new_or_changed_secret_is_applied_and_an_unchanged_one_reported() {
    let (owner, spec) = valid();
    let meaning = meaning(&Derived::Valid(owner, spec.clone()));
    assert_eq!(plan(&key(), &meaning, None), Plan::Apply);
    let same = existing(&spec);
    assert_eq!(
        plan(&key(), &meaning, Some(&same)),
        Plan::Report(Vec::new())
    );

    let mut edited = spec.clone();
    edited.consumers.push("default".into());
    let edited = existing(&edited);
    let planned = plan(&key(), &meaning, Some(&edited));
    assert_eq!(planned, Plan::Apply, "an edit by hand is undone");
    let mut unreadable = existing(&spec);
    unreadable.spec = None;
    assert_eq!(plan(&key(), &meaning, Some(&unreadable)), Plan::Apply);
    let mut foreign = existing(&spec);
    foreign.metadata.owners = Box::default();
    assert_eq!(plan(&key(), &meaning, Some(&foreign)), Plan::Apply);
    foreign.metadata.deleting = true;
    assert_eq!(plan(&key(), &meaning, Some(&foreign)), Plan::Nothing);
}

#[test]
fn a_broken_secret_keeps_the_last_good_spec() {
    let (_, spec) = valid();
    let broken = secret("repository", "quay", &[("useWorkloadIdentity", "true")]);
    let derived = derive(&derivation(), &broken);
    let Derived::Invalid(_, problems) = &derived else {
        panic!("{derived:?}");
    };
    let expected = Plan::Report(problems.clone());
    let broken = meaning(&derived);
    assert_eq!(plan(&key(), &broken, Some(&existing(&spec))), expected);
    assert_eq!(plan(&key(), &broken, None), Plan::Nothing);
}

#[test]
fn only_a_binding_of_that_very_secret_is_deleted() {
    let (owner, spec) = valid();
    let unused = meaning(&Derived::Unused(owner));
    assert_eq!(plan(&key(), &unused, Some(&existing(&spec))), Plan::Delete);
    assert_eq!(plan(&key(), &unused, None), Plan::Nothing);
    let mut other = existing(&spec);
    for meaning in [unused, Meaning::Absent] {
        other.metadata.owners = existing(&spec).metadata.owners;
        other.metadata.owners[0] = "another".into();
        let plan_for = |binding: &Binding| plan(&key(), &meaning, Some(binding));
        assert_eq!(plan_for(&other), Plan::Nothing, "it is garbage collected");
        other.metadata.owners = Box::default();
        match plan_for(&other) {
            Plan::Report(problems) => assert_eq!(problems[0].code, Code::BindingNotFound),
            plan => panic!("{plan:?}"),
        }
    }
}

#[test]
fn a_stolen_proxy_is_said_on_the_secret_and_the_rest_where_a_binding_says_it() {
    let notice = |code| Named::new(code, "Secret argocd/quay");
    let all = [notice(Code::ProxyForeign), notice(Code::ProxyNotWritten)];
    let (owner, spec) = valid();
    let said = |meaning: &Meaning| {
        let (_, problems) = on_secret(meaning, &all)?;
        Some(problems.into_iter().map(|it| it.code).collect::<Vec<_>>())
    };
    let valid = meaning(&Derived::Valid(owner.clone(), spec));
    assert_eq!(said(&valid), Some(vec![Code::ProxyForeign]));
    assert_eq!(on_secret(&valid, &all[1..]), None);
    let unused = meaning(&Derived::Unused(owner.clone()));
    assert_eq!(
        said(&unused),
        Some(vec![Code::ProxyForeign, Code::ProxyNotWritten])
    );
    assert_eq!(on_secret(&unused, &[]), None);
    let invalid = Derived::Invalid(owner, vec![notice(Code::InvalidUrl)]);
    let expected = vec![Code::InvalidUrl, Code::ProxyForeign, Code::ProxyNotWritten];
    assert_eq!(said(&meaning(&invalid)), Some(expected));
    assert_eq!(said(&Meaning::Absent), None);
}
