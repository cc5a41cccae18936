use serde_json::json;

use super::*;
use crate::{
    controller::testing::{self, object},
    source::{
        derive,
        tests::{derivation, of_project, quay, secret},
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
    object("quay", 1, json!(spec), json!({})).into()
}

#[test]
fn a_new_or_changed_secret_is_applied_and_an_unchanged_one_reported() {
    let (owner, spec) = valid();
    let derived = Derived::Valid(owner.clone(), spec.clone());
    let apply = Plan::Apply(owner.clone(), spec.clone());
    assert_eq!(plan(&key(), &derived, None), apply);
    let same = existing(&spec);
    assert_eq!(
        plan(&key(), &derived, Some(&same)),
        Plan::Report(Vec::new())
    );

    let mut edited = existing(&spec);
    edited
        .spec
        .as_mut()
        .unwrap()
        .consumers
        .push("default".into());
    assert_eq!(
        plan(&key(), &derived, Some(&edited)),
        apply,
        "an edit by hand is undone"
    );
    let mut unreadable = existing(&spec);
    unreadable.spec = None;
    assert_eq!(plan(&key(), &derived, Some(&unreadable)), apply);
    let mut foreign = existing(&spec);
    foreign.owners.clear();
    assert_eq!(plan(&key(), &derived, Some(&foreign)), apply);
    foreign.deleting = true;
    assert_eq!(plan(&key(), &derived, Some(&foreign)), Plan::Nothing);
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
    assert_eq!(plan(&key(), &derived, Some(&existing(&spec))), expected);
    assert_eq!(plan(&key(), &derived, None), Plan::Nothing);
}

#[test]
fn only_a_binding_of_that_very_secret_is_deleted() {
    let (owner, spec) = valid();
    let unused = Derived::Unused(owner);
    assert_eq!(plan(&key(), &unused, Some(&existing(&spec))), Plan::Delete);
    assert_eq!(plan(&key(), &unused, None), Plan::Nothing);
    let mut other = existing(&spec);
    for derived in [unused, Derived::Absent] {
        other.owners = existing(&spec).owners;
        other.owners[0].uid = "another".into();
        let plan_for = |binding: &Binding| plan(&key(), &derived, Some(binding));
        assert_eq!(plan_for(&other), Plan::Nothing, "it is garbage collected");
        other.owners.clear();
        match plan_for(&other) {
            Plan::Report(problems) => assert_eq!(problems[0].code, Code::BindingNotFound),
            plan => panic!("{plan:?}"),
        }
    }
}

#[test]
fn the_manifest_is_owned_by_its_secret_without_touching_it() {
    let (owner, spec) = valid();
    let manifest = manifest(&key(), &owner, &spec);
    assert_eq!(
        manifest["metadata"]["ownerReferences"],
        json!([{
            "apiVersion": "v1", "kind": "Secret", "name": "quay", "uid": "uid-quay",
            "controller": true,
        }])
    );
    assert_eq!(manifest["spec"]["identity"]["audience"], "quay.example.org");
    assert!(manifest.get("status").is_none());
}

#[test]
fn pruning_removes_by_place_and_guards_the_version() {
    let nodes = ["a", "b", "c"].map(|name| json!({"name": name, "state": "Ready"}));
    let spec = testing::quay("quay.example.org");
    let binding: Binding = object("quay", 1, spec, json!({"nodes": nodes})).into();
    assert_eq!(prune_patch(&binding, &BTreeSet::new()), None);
    let patch = prune_patch(&binding, &BTreeSet::from(["a", "c"])).unwrap();
    assert_eq!(
        serde_json::to_value(&patch).unwrap(),
        json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
            {"op": "remove", "path": "/status/nodes/2"},
            {"op": "remove", "path": "/status/nodes/0"},
        ])
    );
}

#[test]
fn a_status_without_expiry_clears_the_old_one() {
    let binding = testing::binding("quay", 1, testing::quay("quay.example.org"));
    let around = Circumstances {
        problems: &[],
        blocked: None,
        notices: &[],
        nodes: None,
        service_accounts: None,
    };
    let verdict = status::judge(&binding, around, Timestamp::UNIX_EPOCH);
    let manifest = status_manifest(&key(), &verdict);
    assert_eq!(
        manifest["status"]["conditions"].as_array().unwrap().len(),
        2
    );
    // Server-side apply removes what its owner leaves out.
    assert!(manifest["status"].get("expiresAt").is_none());
    assert!(manifest.get("spec").is_none());
}

#[test]
fn a_stolen_proxy_is_said_on_the_secret_and_the_rest_where_a_binding_says_it() {
    let notice = |code| Named::new(code, "Secret argocd/quay");
    let all = [notice(Code::ProxyForeign), notice(Code::ProxyNotWritten)];
    let (owner, spec) = valid();
    let said = |derived: &Derived| {
        let (_, problems) = on_secret(derived, &all)?;
        Some(problems.into_iter().map(|it| it.code).collect::<Vec<_>>())
    };
    let valid = Derived::Valid(owner.clone(), spec);
    assert_eq!(said(&valid), Some(vec![Code::ProxyForeign]));
    assert_eq!(on_secret(&valid, &all[1..]), None);
    let unused = Derived::Unused(owner.clone());
    assert_eq!(
        said(&unused),
        Some(vec![Code::ProxyForeign, Code::ProxyNotWritten])
    );
    assert_eq!(on_secret(&unused, &[]), None);
    let invalid = Derived::Invalid(owner, vec![notice(Code::InvalidUrl)]);
    let expected = vec![Code::InvalidUrl, Code::ProxyForeign, Code::ProxyNotWritten];
    assert_eq!(said(&invalid), Some(expected));
    assert_eq!(said(&Derived::Absent), None);
}

#[test]
fn a_broken_secret_that_is_for_something_else_loses_its_binding() {
    let (owner, spec) = valid();
    let problems = vec![Named::new(Code::InvalidUrl, "Secret argocd/quay")];
    let elsewhere = Derived::Elsewhere(owner, problems.clone());
    let binding = existing(&spec);
    assert_eq!(plan(&key(), &elsewhere, Some(&binding)), Plan::Delete);
    assert_eq!(plan(&key(), &elsewhere, None), Plan::Nothing);
    let mut foreign = existing(&spec);
    foreign.owners[0].uid = "another".into();
    let expected = Plan::Report(problems.clone());
    assert_eq!(plan(&key(), &elsewhere, Some(&foreign)), expected);
    let (_, said) = on_secret(&elsewhere, &[]).unwrap();
    assert_eq!(said, problems);
}

#[test]
fn a_binding_that_no_key_opens_says_why() {
    let (_, mut spec) = valid();
    let keyless = |spec: &CredentialBindingSpec, notices: &[Named]| {
        keyless("Secret argocd/quay", &Former::of(spec), notices).map(|it| it.code)
    };
    assert_eq!(keyless(&spec, &[]), None, "docker-config");
    match derive(&derivation(), &of_project("quay", None)) {
        Derived::Valid(_, by_proxy) => spec = by_proxy,
        other => panic!("{other:?}"),
    }
    let notice = |code| Named::new(code, "Secret argocd/quay");
    assert_eq!(keyless(&spec, &[]), Some(Code::ProxyNotWritten));
    let notices = [
        notice(Code::ProxyBypassed),
        notice(Code::ProxyKeyStale),
        notice(Code::ProxyNotWritten),
    ];
    assert_eq!(keyless(&spec, &notices), Some(Code::ProxyKeyStale));
    spec.proxy.as_mut().unwrap().key_sha256.push("0".repeat(64));
    assert_eq!(keyless(&spec, &notices), None);
}

#[test]
fn a_stale_key_is_said_on_the_secret_too() {
    let (owner, spec) = valid();
    let stale = Named::new(Code::ProxyKeyStale, "Secret argocd/quay");
    let notices = std::slice::from_ref(&stale);
    let valid = Derived::Valid(owner, spec);
    let (_, said) = on_secret(&valid, notices).unwrap();
    assert_eq!(said, notices);
}
