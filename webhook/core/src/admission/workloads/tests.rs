//! Requests as kube-apiserver makes them flow in; [`check`] compares the object
//! that comes out and decides about it again.

use serde_json::{Value, json};

use super::*;
use crate::admission::{Outcome, review};

const SOURCE: &str = "workload-identity.dev/inject-source";

fn verdict(kind: (&str, &str), object: &Value, old: Option<&Value>) -> Verdict {
    let body = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "1",
            "kind": {"group": kind.0, "version": "v1", "kind": kind.1},
            "namespace": "argocd",
            "name": "argocd-server",
            "operation": if old.is_some() { "UPDATE" } else { "CREATE" },
            "object": object,
            "oldObject": old,
        },
    });
    decide(&review::parse(&serde_json::to_vec(&body).unwrap()).unwrap())
}

#[track_caller]
fn check_as(kind: (&str, &str), object: &Value, old: Option<&Value>, expected: &Value) {
    let first = verdict(kind, object, old);
    let mut patched = object.clone();
    match &first.outcome {
        Outcome::Patch(patch) => json_patch::patch(&mut patched, patch.operations()).unwrap(),
        Outcome::Skip(_) => {}
        Outcome::Deny(error) => panic!("{error}"),
    }
    assert_eq!(patched, *expected);
    match verdict(kind, &patched, old).outcome {
        Outcome::Patch(patch) => assert!(patch.is_empty(), "second pass: {patch:?}"),
        Outcome::Skip(_) => {}
        Outcome::Deny(error) => panic!("{error}"),
    }
}

#[track_caller]
fn check(object: &Value, old: Option<&Value>, expected: &Value) {
    for kind in ["Deployment", "StatefulSet"] {
        check_as(("apps", kind), object, old, expected);
    }
}

/// A workload whose own annotation and whose template's annotations are these.
fn workload(own: Option<&str>, template: &[(&str, &str)]) -> Value {
    let mut object = json!({
        "metadata": {"name": "argocd-server", "annotations": {"other": "1"}},
        "spec": {"replicas": 2, "template": {
            "metadata": {"annotations": {"checksum/config": "ab"}},
            "spec": {"containers": []},
        }},
    });
    if let Some(own) = own {
        object["metadata"]["annotations"][INJECT] = json!(own);
    }
    for (name, value) in template {
        object["spec"]["template"]["metadata"]["annotations"][*name] = json!(value);
    }
    object
}

const COPY: &[(&str, &str)] = &[(INJECT, "enabled"), (SOURCE, "workload")];

#[test]
fn the_annotation_is_copied_and_marked() {
    for value in ["enabled", "disabled"] {
        let copy = [(INJECT, value), (SOURCE, "workload")];
        check(
            &workload(Some(value), &[]),
            None,
            &workload(Some(value), &copy),
        );
    }
}

#[test]
fn missing_parents_are_made() {
    let metadata = json!({"annotations": {INJECT: "enabled"}});
    let copy = json!({INJECT: "enabled", SOURCE: "workload"});
    for template in [
        json!({"spec": {}}),
        json!({"spec": {}, "metadata": null}),
        json!({"spec": {}, "metadata": {}}),
        json!({"spec": {}, "metadata": {"annotations": null}}),
    ] {
        let mut expected = template.clone();
        expected["metadata"]["annotations"] = copy.clone();
        check(
            &json!({"metadata": metadata, "spec": {"template": template}}),
            None,
            &json!({"metadata": metadata, "spec": {"template": expected}}),
        );
    }
}

#[test]
fn the_copy_follows_the_workload() {
    let old = workload(Some("enabled"), COPY);
    let disabled = [(INJECT, "disabled"), (SOURCE, "workload")];
    check(
        &workload(Some("disabled"), COPY),
        Some(&old),
        &workload(Some("disabled"), &disabled),
    );
    // Dropped from the workload: the copy goes, whether the update is an edit
    // that still has it or a replacement that does not.
    check(&workload(None, COPY), Some(&old), &workload(None, &[]));
    check(&workload(None, &[]), Some(&old), &workload(None, &[]));
    // A replacement that knows nothing of the copy changes nothing.
    check(&workload(Some("enabled"), &[]), Some(&old), &old);
    // A marker that is left alone is made whole, or goes.
    let marker = [(SOURCE, "workload")];
    check(&workload(Some("enabled"), &marker), Some(&old), &old);
    check(&workload(None, &marker), Some(&old), &workload(None, &[]));
}

#[test]
fn what_the_user_wrote_in_the_template_stays() {
    let own = [(INJECT, "disabled")];
    let object = workload(Some("enabled"), &own);
    check(&object, None, &object);
    check(&object, Some(&workload(Some("enabled"), &[])), &object);
    let object = workload(None, &own);
    check(&object, Some(&workload(Some("enabled"), &own)), &object);
}

#[test]
fn a_value_written_over_the_copy_becomes_the_users() {
    let old = workload(Some("enabled"), COPY);
    let edited = [(INJECT, "disabled"), (SOURCE, "workload")];
    let own = [(INJECT, "disabled")];
    check(
        &workload(Some("enabled"), &edited),
        Some(&old),
        &workload(Some("enabled"), &own),
    );
    check(&workload(None, &edited), Some(&old), &workload(None, &own));
}

#[test]
fn without_the_annotation_nothing_happens() {
    let found = verdict(("apps", "Deployment"), &workload(None, &[]), None);
    assert_eq!(found, Verdict::skip(Skip::NotOptedIn, vec![]));
}

#[test]
fn the_operators_workloads_are_left_alone() {
    let mut object = workload(Some("enabled"), &[]);
    let owner =
        |api: &str, kind: &str| json!([{"apiVersion": api, "kind": kind, "name": "x", "uid": "1"}]);
    for api in ["argoproj.io/v1beta1", "argoproj.io/v1alpha1"] {
        object["metadata"]["ownerReferences"] = owner(api, "ArgoCD");
        let found = verdict(("apps", "Deployment"), &object, None);
        assert_eq!(found, Verdict::skip(Skip::OperatorOwned, vec![]));
    }
    object["metadata"]["ownerReferences"] = owner("argoproj.io/v1alpha1", "Rollout");
    let found = verdict(("apps", "Deployment"), &object, None);
    assert_eq!(found.label().as_str(), "patch");
}

#[test]
fn bad_values_are_denied_when_they_come_and_warned_about_when_they_stay() {
    let bad = workload(Some("true"), COPY);
    let error = |verdict: Verdict| match verdict.outcome {
        Outcome::Deny(error) => error,
        other => panic!("{other:?}"),
    };
    let denied = error(verdict(("apps", "Deployment"), &bad, None));
    assert_eq!(denied.code, Code::InvalidAnnotation);
    assert_eq!(
        denied.detail,
        "Deployment argocd/argocd-server, workload-identity.dev/inject: `true` is not enabled or disabled"
    );
    error(verdict(
        ("apps", "Deployment"),
        &bad,
        Some(&workload(Some("enabled"), COPY)),
    ));
    error(verdict(
        ("apps", "Deployment"),
        &bad,
        Some(&workload(Some("yes"), COPY)),
    ));
    let kept = verdict(("apps", "Deployment"), &bad, Some(&bad));
    assert_eq!(kept, Verdict::skip(Skip::NotOptedIn, vec![denied]));
}

#[test]
fn argo_cd_resources_hand_it_to_their_components() {
    let argo_cd = ("argoproj.io", "ArgoCD");
    let copy = json!({INJECT: "enabled", SOURCE: "workload"});
    let metadata = json!({"name": "openshift-gitops", "annotations": {INJECT: "enabled"}});
    let whole = json!({
        "repo": {"annotations": copy},
        "server": {"annotations": copy},
        "controller": {"annotations": copy},
    });
    // Without any of the parents.
    for object in [
        json!({"metadata": metadata}),
        json!({"metadata": metadata, "spec": null}),
        json!({"metadata": metadata, "spec": {}}),
        json!({"metadata": metadata, "spec": {"repo": null, "server": {}}}),
    ] {
        let expected = json!({"metadata": metadata, "spec": whole});
        check_as(argo_cd, &object, None, &expected);
    }
    // Beside what is there, and without touching what the user wrote.
    let object = json!({"metadata": metadata, "spec": {
        "repo": {"annotations": {INJECT: "disabled"}, "replicas": 2},
        "server": {"route": {"enabled": true}, "annotations": {"a/b": "c"}},
        "sso": {"provider": "dex"},
    }});
    let expected = json!({"metadata": metadata, "spec": {
        "repo": {"annotations": {INJECT: "disabled"}, "replicas": 2},
        "server": {"route": {"enabled": true},
                   "annotations": {"a/b": "c", INJECT: "enabled", SOURCE: "workload"}},
        "controller": {"annotations": copy},
        "sso": {"provider": "dex"},
    }});
    check_as(argo_cd, &object, None, &expected);
    // And gone with the annotation.
    let mut dropped = expected.clone();
    dropped["metadata"]["annotations"] = json!({});
    let after = json!({"metadata": dropped["metadata"], "spec": {
        "repo": {"annotations": {INJECT: "disabled"}, "replicas": 2},
        "server": {"route": {"enabled": true}, "annotations": {"a/b": "c"}},
        "controller": {"annotations": {}},
        "sso": {"provider": "dex"},
    }});
    check_as(argo_cd, &dropped, Some(&expected), &after);
}

#[test]
fn other_kinds_operations_and_shapes_are_left_alone() {
    let object = workload(Some("enabled"), &[]);
    for kind in [
        ("apps", "DaemonSet"),
        ("", "Deployment"),
        ("argoproj.io", "Rollout"),
    ] {
        let found = verdict(kind, &object, None);
        assert_eq!(found, Verdict::skip(Skip::OtherKind, vec![]));
    }
    for object in [json!({"spec": 5}), json!([]), json!(null)] {
        let found = verdict(("apps", "Deployment"), &object, None);
        assert_eq!(found, Verdict::skip(Skip::Unreadable, vec![]));
    }
}
