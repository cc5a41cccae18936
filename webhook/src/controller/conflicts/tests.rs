use serde_json::{Value, json};

use super::*;
use crate::controller::testing::{binding, cluster, quay};

fn with(mut spec: Value, pointer: &str, value: Value) -> Value {
    *spec.pointer_mut(pointer).unwrap() = value;
    spec
}

/// The conflict that `younger` has because of `older`; none the other way round.
#[track_caller]
fn conflict(older: Value, younger: Value) -> Option<Code> {
    let all = [binding("older", 1, older), binding("younger", 2, younger)];
    assert_eq!(of(&all[0], &all), None, "the older one wins");
    let found = of(&all[1], &all);
    if let Some(error) = &found {
        assert!(error.detail.contains("CredentialBinding older"), "{error}");
    }
    found.map(|error| error.code)
}

#[test]
fn two_secrets_for_one_server() {
    let a = cluster("https://spoke.example.org", "spoke");
    let slash = cluster("https://spoke.example.org/", "spoke");
    assert_eq!(conflict(a.clone(), slash), Some(Code::ServerConflict));
    let other = cluster("https://other.example.org", "other");
    assert_eq!(conflict(a, other), None);
}

#[test]
fn one_audience_at_two_exchanges() {
    let spoke = cluster("https://spoke.example.org", "same");
    let other = cluster("https://other.example.org", "same");
    assert_eq!(conflict(spoke.clone(), other), Some(Code::AudienceConflict));
    let port = cluster("https://spoke.example.org:6443", "same");
    assert_eq!(conflict(spoke, port), Some(Code::AudienceConflict));

    let here = quay("quay.example.org");
    let there = with(
        quay("quay.test"),
        "/identity/audience",
        json!("quay.example.org"),
    );
    assert_eq!(
        conflict(here.clone(), there.clone()),
        Some(Code::AudienceConflict)
    );
    let other = with(
        there.clone(),
        "/identity/spiffeId",
        json!("spiffe://example.org/other"),
    );
    assert_eq!(
        conflict(here.clone(), other),
        None,
        "another subject is worth nothing there"
    );
    let path = with(
        here.clone(),
        "/target/address",
        json!("quay.example.org/other"),
    );
    assert_eq!(conflict(here, path), None, "same host, same identity");
}

#[test]
fn the_clouds_tell_their_tenants_apart() {
    let ecr = |host: &str| {
        let mut spec = quay(host);
        spec["identity"]["audience"] = json!("sts.amazonaws.com");
        spec["exchange"] = json!({"type": "ecr"});
        spec["delivery"] = json!("proxy");
        spec
    };
    assert_eq!(
        conflict(
            ecr("1.dkr.ecr.eu.amazonaws.com"),
            ecr("2.dkr.ecr.eu.amazonaws.com")
        ),
        None
    );
}

#[test]
fn one_host_with_two_identities_in_a_pod_wide_file() {
    let a = quay("quay.example.org");
    let robot = with(a.clone(), "/exchange/username", json!("team+other"));
    assert_eq!(
        conflict(a.clone(), robot.clone()),
        Some(Code::IdentityConflict)
    );
    let proxied = with(robot.clone(), "/delivery", json!("proxy"));
    assert_eq!(conflict(a.clone(), proxied), None);
    let mut scoped = robot;
    scoped["project"] = json!("team-a");
    assert_eq!(conflict(a, scoped), None);
}

#[test]
fn ages_and_names_decide_whatever_the_order() {
    let spec = || cluster("https://spoke.example.org", "spoke");
    let mut all = vec![
        binding("c", 5, spec()),
        binding("b", 5, spec()),
        binding("a", 9, spec()),
    ];
    for _ in 0..3 {
        all.rotate_left(1);
        let loser = |name: &str| {
            let this = all.iter().find(|binding| binding.name == name).unwrap();
            of(this, &all).map(|error| error.detail)
        };
        assert_eq!(loser("b"), None);
        assert!(loser("c").unwrap().starts_with("CredentialBinding b has"));
        assert!(loser("a").unwrap().starts_with("CredentialBinding b has"));
    }
}

#[test]
fn what_is_not_delivered_wins_nothing() {
    let spec = || cluster("https://spoke.example.org", "spoke");
    let unavailable = with(spec(), "/identity/credential", json!("SpiffeCertificate"));
    assert_eq!(conflict(unavailable, spec()), None);
    let mut all = [binding("a", 1, spec()), binding("b", 2, spec())];
    all[0].deleting = true;
    assert_eq!(of(&all[1], &all), None);
    let all = [
        binding("a", 1, json!({"target": 3})),
        binding("b", 2, spec()),
    ];
    assert_eq!(of(&all[1], &all), None);
    assert_eq!(of(&all[0], &all), None);
}
