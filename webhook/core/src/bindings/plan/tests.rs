use serde_json::json;
use shared::binding::CredentialBindingSpec;

use super::*;
use crate::bindings::testing::{observed, quay};

fn key() -> Key {
    Key {
        namespace: "argocd".into(),
        name: "quay".into(),
    }
}

fn valid() -> (Owner, Box<CredentialBindingSpec>) {
    let owner = Owner {
        name: "quay".into(),
        uid: "uid-quay".into(),
        created: None,
    };
    let spec = serde_json::from_value(quay("quay.example.org")).unwrap();
    (owner, Box::new(spec))
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
    let (owner, spec) = valid();
    let problems = vec![Named::new(Code::InvalidUrl, "Secret argocd/quay")];
    let expected = Plan::Report(problems.clone());
    let broken = meaning(&Derived::Invalid(owner, problems));
    assert_eq!(plan(&key(), &broken, Some(&existing(&spec))), expected);
    assert_eq!(plan(&key(), &broken, None), Plan::Nothing);
}

#[test]
fn a_broken_secret_that_is_for_something_else_loses_its_binding() {
    let (owner, spec) = valid();
    let problems = vec![Named::new(Code::InvalidUrl, "Secret argocd/quay")];
    let elsewhere = meaning(&Derived::Elsewhere(owner, problems.clone()));
    let mut existing = existing(&spec);
    assert_eq!(plan(&key(), &elsewhere, Some(&existing)), Plan::Delete);
    existing.metadata.owners = Box::default();
    let report = Plan::Report(problems);
    assert_eq!(plan(&key(), &elsewhere, Some(&existing)), report);
}

#[test]
fn what_no_key_opens_says_why() {
    let (_, spec) = valid();
    let binding = existing(&spec);
    let open = &binding.spec.as_ref().unwrap().former;
    assert_eq!(keyless("x", open, &[]), None, "no key is asked for");
    let mut proxied = quay("quay.example.org");
    proxied["delivery"] = json!("proxy");
    proxied["proxy"] = json!({"keySha256": [], "type": "oci"});
    let closed = observed("quay", 1, proxied, json!({})).binding;
    let closed = &closed.spec.as_ref().unwrap().former;
    let notice = |code| Named::new(code, "Secret argocd/quay");
    let code = |notices: &[Named]| keyless("x", closed, notices).map(|it| it.code);
    assert_eq!(code(&[]), Some(Code::ProxyNotWritten));
    let both = [notice(Code::ProxyBypassed), notice(Code::ProxyKeyStale)];
    assert_eq!(code(&both), Some(Code::ProxyKeyStale));
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
