use serde_json::{Value, json};

use super::*;
use crate::controller::testing::{object, quay};

fn now() -> Timestamp {
    "2026-01-01T12:00:00.5Z".parse().unwrap()
}

const LATER: &str = "2026-01-01T13:00:00Z";
const PAST: &str = "2026-01-01T11:00:00Z";

fn binding(nodes: Value) -> Binding {
    object("quay", 1, quay("quay.example.org"), json!({"nodes": nodes})).into()
}

fn node(name: &str, state: &str, expires: Option<&str>) -> Value {
    let mut node = json!({"name": name, "state": state, "observedGeneration": 2});
    if let Some(expires) = expires {
        node["expiresAt"] = json!(expires);
    }
    node
}

fn failing(name: &str, state: &str, expires: Option<&str>) -> Value {
    let mut node = node(name, state, expires);
    node["error"] = json!({"code": "robot-not-found", "message": "Quay does not know it"});
    node
}

const CALM: Circumstances<'_> = Circumstances {
    problems: &[],
    blocked: None,
    notices: &[],
    nodes: None,
    service_accounts: None,
};

/// `status reason` of Ready and Degraded.
fn check(binding: &Binding, around: Circumstances<'_>, expect: [&str; 2]) -> Verdict {
    let verdict = judge(binding, around, now());
    let shown: Vec<_> = verdict
        .conditions
        .iter()
        .map(|condition| format!("{} {}", condition.status, condition.reason))
        .collect();
    assert_eq!(shown, expect);
    assert_eq!(verdict.conditions[0].kind, READY);
    assert_eq!(verdict.conditions[1].kind, DEGRADED);
    verdict
}

#[test]
fn every_node_has_a_credential() {
    let ready = json!([
        node("a", "Ready", Some(LATER)),
        node("b", "Ready", Some("2026-01-01T12:30:00Z"))
    ]);
    let verdict = check(&binding(ready), CALM, ["True ready", "False as-expected"]);
    assert_eq!(
        verdict.expires_at,
        Some("2026-01-01T12:30:00Z".parse().unwrap())
    );
    assert_eq!(verdict.again_at, verdict.expires_at);
    assert_eq!(verdict.conditions[0].observed_generation, 2);
}

#[test]
fn no_consumer_is_told_from_a_missing_service_account() {
    let empty = binding(json!([]));
    let verdict = check(&empty, CALM, ["Unknown no-consumer", "False as-expected"]);
    assert!(
        verdict.conditions[0]
            .message
            .contains("no injected pod runs as argocd-repo-server")
    );
    assert_eq!((verdict.expires_at, verdict.again_at), (None, None));
    let none = BTreeSet::from(["default".to_owned()]);
    let around = Circumstances {
        service_accounts: Some(&none),
        ..CALM
    };
    let verdict = check(&empty, around, ["Unknown no-consumer", "False as-expected"]);
    assert!(
        verdict.conditions[0]
            .message
            .contains("no service account argocd-repo-server")
    );
}

#[test]
fn the_first_credential_and_a_changed_spec_are_pending() {
    let first = binding(json!([
        node("a", "Ready", Some(LATER)),
        node("b", "Pending", None)
    ]));
    let verdict = check(&first, CALM, ["False pending", "False as-expected"]);
    assert!(verdict.conditions[0].message.starts_with("node b:"));
    let mut stale = binding(json!([node("a", "Ready", Some(LATER))]));
    stale.generation = 3;
    check(&stale, CALM, ["False pending", "False as-expected"]);
}

#[test]
fn a_failed_refresh_degrades_but_the_last_good_credential_stays() {
    let refresh = binding(json!([
        failing("a", "Degraded", Some(LATER)),
        node("b", "Ready", Some(LATER))
    ]));
    let verdict = check(&refresh, CALM, ["True ready", "True robot-not-found"]);
    assert_eq!(
        verdict.conditions[1].message,
        "node a: Quay does not know it"
    );
    let never = binding(json!([failing("a", "Degraded", None)]));
    check(
        &never,
        CALM,
        ["False robot-not-found", "True robot-not-found"],
    );
    let waiting = binding(json!([failing("a", "Pending", None)]));
    check(
        &waiting,
        CALM,
        ["False robot-not-found", "True robot-not-found"],
    );
}

#[test]
fn an_expired_credential_is_told_even_of_a_silent_agent() {
    let expired = binding(json!([node("a", "Ready", Some(PAST))]));
    let verdict = check(
        &expired,
        CALM,
        ["False credential-expired", "True credential-expired"],
    );
    assert_eq!(verdict.again_at, None);
    let removed = binding(json!([node("a", "Degraded", None)]));
    check(
        &removed,
        CALM,
        ["False credential-expired", "True credential-expired"],
    );
}

#[test]
fn a_broken_secret_degrades_but_what_nodes_have_stays_valid() {
    let problems = [
        Named::new(Code::AudienceMissing, "Secret argocd/quay, key x"),
        Named::new(Code::UnknownProvider, "Secret argocd/quay, key y"),
    ];
    let around = Circumstances {
        problems: &problems,
        ..CALM
    };
    let ready = binding(json!([node("a", "Ready", Some(LATER))]));
    let verdict = check(&ready, around, ["True ready", "True audience-missing"]);
    let message = &verdict.conditions[1].message;
    assert!(
        message.contains("audience-missing") && message.contains("unknown-provider"),
        "{message}"
    );
}

#[test]
fn what_is_not_delivered_is_not_ready_whatever_nodes_say() {
    let error = Named::new(
        Code::ServerConflict,
        "CredentialBinding a has the server too",
    );
    let around = Circumstances {
        blocked: Some(&error),
        ..CALM
    };
    let ready = binding(json!([node("a", "Ready", Some(LATER))]));
    check(
        &ready,
        around,
        ["False server-conflict", "True server-conflict"],
    );
    check(
        &binding(json!([])),
        around,
        ["False server-conflict", "True server-conflict"],
    );
}

#[test]
fn entries_of_vanished_nodes_do_not_count_and_are_pruned() {
    let nodes = BTreeSet::from(["a".to_owned()]);
    let around = Circumstances {
        nodes: Some(&nodes),
        ..CALM
    };
    let both = binding(json!([
        failing("gone", "Degraded", Some(PAST)),
        node("a", "Ready", Some(LATER))
    ]));
    let verdict = check(&both, around, ["True ready", "False as-expected"]);
    assert_eq!(verdict.vanished, ["gone"]);
    assert_eq!(verdict.expires_at, Some(LATER.parse().unwrap()));
    // While the nodes are not known, every entry counts.
    let verdict = judge(&both, CALM, now());
    assert!(verdict.vanished.is_empty());
}

#[test]
fn transition_times_are_kept_while_the_status_stays() {
    let mut ready = binding(json!([node("a", "Ready", Some(LATER))]));
    let first = judge(&ready, CALM, now()).conditions;
    assert_eq!(
        first[0].last_transition_time,
        "2026-01-01T12:00:00Z".parse().unwrap()
    );
    ready.status.conditions = first.clone();
    let later = now() + jiff::SignedDuration::from_mins(5);
    assert_eq!(
        judge(&ready, CALM, later).conditions,
        first,
        "nothing to write"
    );

    ready.status.nodes =
        serde_json::from_value(json!([failing("a", "Degraded", Some(LATER))])).unwrap();
    let second = judge(&ready, CALM, later).conditions;
    assert_eq!(
        second[0].last_transition_time,
        first[0].last_transition_time
    );
    assert_eq!(
        second[1].last_transition_time,
        "2026-01-01T12:05:00Z".parse().unwrap()
    );
}

#[test]
fn messages_are_bounded() {
    let mut long = failing("a", "Degraded", None);
    long["error"]["message"] = json!("ä".repeat(10_000));
    let verdict = judge(&binding(json!([long])), CALM, now());
    assert_eq!(
        verdict.conditions[0].message.chars().count(),
        LONGEST_MESSAGE
    );
}

#[test]
fn what_keeps_argo_cd_from_using_it_is_said_after_what_a_node_says() {
    let notices = [
        Named::new(Code::ProxyNotWritten, "Secret argocd/quay"),
        Named::new(Code::ProxyNotInjected, "pod repo-server-1"),
    ];
    let around = Circumstances {
        notices: &notices,
        ..CALM
    };
    let good = binding(json!([node("a", "Ready", Some(LATER))]));
    let verdict = check(&good, around, ["True ready", "True proxy-not-written"]);
    assert!(verdict.conditions[1].message.contains("pod repo-server-1"));
    let bad = binding(json!([failing("a", "Degraded", Some(LATER))]));
    check(&bad, around, ["True ready", "True robot-not-found"]);
}

#[test]
fn a_notice_is_said_beside_a_nodes_failure() {
    let notices = [Named::new(Code::UnsupportedAlgorithm, "ES256")];
    let around = Circumstances {
        notices: &notices,
        ..CALM
    };
    let failing = binding(json!([failing("a", "Degraded", None)]));
    let verdict = check(
        &failing,
        around,
        ["False robot-not-found", "True robot-not-found"],
    );
    let message = &verdict.conditions[1].message;
    assert!(message.contains("unsupported-algorithm"), "{message}");
}
