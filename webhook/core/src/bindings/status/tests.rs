use serde_json::{Value, json};

use super::*;
use crate::bindings::{
    binding::ConditionView,
    testing::{observed, quay},
};

fn now() -> Timestamp {
    "2026-01-01T12:00:00.5Z".parse().unwrap()
}

const LATER: &str = "2026-01-01T13:00:00Z";
const PAST: &str = "2026-01-01T11:00:00Z";

fn binding(nodes: Value) -> Binding {
    let status = json!({"nodes": nodes});
    observed("quay", 1, quay("quay.example.org"), status).binding
}

/// Conditions as they are kept when they have been written.
fn kept(conditions: &[Condition]) -> Box<[ConditionView]> {
    let status = json!({"conditions": conditions});
    observed("quay", 1, quay("quay.example.org"), status)
        .binding
        .status
        .conditions
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
    vanished: Some(&[]),
    has_consumer: Some(true),
    is_partial: false,
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
    let expiry = Some("2026-01-01T12:30:00Z".parse().unwrap());
    assert_eq!((verdict.expires_at, verdict.again_at), (None, expiry));
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
    let around = Circumstances {
        has_consumer: Some(false),
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
    stale.status.nodes[0].is_behind = true;
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
    let gone = ["gone".into()];
    let around = Circumstances {
        vanished: Some(&gone),
        ..CALM
    };
    let both = binding(json!([
        failing("gone", "Degraded", Some(PAST)),
        node("a", "Ready", Some(LATER))
    ]));
    let verdict = check(&both, around, ["True ready", "False as-expected"]);
    assert_eq!(verdict.vanished, gone);
    assert_eq!(verdict.again_at, Some(LATER.parse().unwrap()));
    // While the nodes are not known, every entry counts.
    let verdict = judge(&both, UNKNOWN_YET, now());
    assert!(verdict.vanished.is_empty());
}

/// A controller that has only just started.
const UNKNOWN_YET: Circumstances<'_> = Circumstances {
    vanished: None,
    has_consumer: None,
    is_partial: true,
    ..CALM
};

#[test]
fn conditions_stay_while_not_all_is_known_and_may_get_worse() {
    let notices = [Named::new(Code::ProxyNotInjected, "pod r")];
    let around = Circumstances {
        notices: &notices,
        ..CALM
    };
    let mut good = binding(json!([node("a", "Ready", Some(LATER))]));
    let written = judge(&good, around, now()).conditions;
    good.status.conditions = kept(&written);
    let later = now() + jiff::SignedDuration::from_mins(5);
    let verdict = judge(&good, UNKNOWN_YET, later);
    assert_eq!(verdict.conditions, written);
    assert!(judge(&good, CALM, later).conditions != written);

    // Nobody said anything yet.
    good.status.conditions = Default::default();
    check(&good, UNKNOWN_YET, ["True ready", "False as-expected"]);

    let mut calm = binding(json!([node("a", "Ready", Some(LATER))]));
    calm.status.conditions = kept(&judge(&calm, CALM, now()).conditions);
    let problems = [Named::new(Code::InvalidUrl, "Secret argocd/quay")];
    let worse = Circumstances {
        problems: &problems,
        ..UNKNOWN_YET
    };
    check(&calm, worse, ["True ready", "True invalid-url"]);
    let blocked = Circumstances {
        blocked: Some(&problems[0]),
        ..UNKNOWN_YET
    };
    check(&calm, blocked, ["False invalid-url", "True invalid-url"]);
    calm.status.nodes = binding(json!([failing("a", "Degraded", Some(PAST))]))
        .status
        .nodes;
    let expected = ["False robot-not-found", "True robot-not-found"];
    check(&calm, UNKNOWN_YET, expected);
}

#[test]
fn an_expiry_that_moves_on_by_renewal_is_no_difference_to_a_reader() {
    let expiring = |at: &str| binding(json!([node("a", "Ready", Some(at))]));
    let mut well = expiring("2026-01-01T12:30:00Z");
    let verdict = judge(&well, CALM, now());
    assert!(
        verdict.differs_from(&well.status, now()),
        "nothing is written"
    );
    well.status.conditions = kept(&verdict.conditions);
    well.status.nodes = expiring(LATER).status.nodes;
    let renewed = judge(&well, CALM, now());
    assert!(!renewed.differs_from(&well.status, now()));

    // Written while something is wrong, and until it has passed.
    let problems = [Named::new(Code::InvalidUrl, "Secret argocd/quay")];
    let wrong = Circumstances {
        problems: &problems,
        ..CALM
    };
    let mut broken = expiring("2026-01-01T12:30:00Z");
    let verdict = judge(&broken, wrong, now());
    assert_eq!(verdict.expires_at, verdict.again_at);
    broken.status.conditions = kept(&verdict.conditions);
    assert!(verdict.differs_from(&broken.status, now()));
    broken.status.expires_at = verdict.expires_at;
    assert!(!verdict.differs_from(&broken.status, now()));
    broken.status.nodes = expiring(LATER).status.nodes;
    let renewed = judge(&broken, wrong, now());
    assert!(!renewed.differs_from(&broken.status, now()));
    let later = now() + jiff::SignedDuration::from_mins(31);
    assert!(renewed.differs_from(&broken.status, later));
    broken.status.nodes = expiring("2026-01-01T12:10:00Z").status.nodes;
    let earlier = judge(&broken, wrong, now());
    assert!(earlier.differs_from(&broken.status, now()));
    // Mended: there is nothing to say of the expiry any more.
    let mended = judge(&broken, CALM, now());
    assert_eq!(mended.expires_at, None);
    assert!(mended.differs_from(&broken.status, now()));
}

#[test]
fn transition_times_are_kept_while_the_status_stays() {
    let mut ready = binding(json!([node("a", "Ready", Some(LATER))]));
    let first = judge(&ready, CALM, now()).conditions;
    assert_eq!(
        first[0].last_transition_time,
        "2026-01-01T12:00:00Z".parse().unwrap()
    );
    ready.status.conditions = kept(&first);
    let later = now() + jiff::SignedDuration::from_mins(5);
    assert_eq!(
        judge(&ready, CALM, later).conditions,
        first,
        "nothing to write"
    );

    ready.status.nodes = binding(json!([failing("a", "Degraded", Some(LATER))]))
        .status
        .nodes;
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
