//! Pairs of bindings, and who stands back for what.

use serde_json::{Value, json};

use super::*;

fn quay(host: &str) -> Value {
    json!({
        "target": {"type": "Registry", "address": format!("{host}/team/charts")},
        "provider": "spiffe",
        "identity": {
            "subject": "spiffe://example.org/ns/argocd/sa/argocd-global",
            "audience": host,
            "serviceAccount": "argocd-global",
            "credential": "SpiffeJWT",
        },
        "exchange": {
            "type": "quay",
            "authUrl": format!("https://{host}/oauth2/federation/robot/token"),
            "username": "team+puller",
        },
        "delivery": "docker-config",
        "consumers": ["argocd-repo-server"],
    })
}

fn cluster(server: &str, audience: &str) -> Value {
    let mut spec = quay("unused");
    spec["target"] = json!({"type": "Cluster", "address": server});
    spec["identity"]["audience"] = json!(audience);
    spec["exchange"] = json!({"type": "none"});
    spec["delivery"] = json!("exec");
    spec
}

fn with(mut spec: Value, pointer: &str, value: Value) -> Value {
    *spec.pointer_mut(pointer).unwrap() = value;
    spec
}

/// Who stands back among bindings with these names, ages and specs.
fn losers(all: &[(&str, i64, Value)]) -> Vec<(String, Code)> {
    let specs: Vec<CredentialBindingSpec> = all
        .iter()
        .map(|it| serde_json::from_value(it.2.clone()).unwrap())
        .collect();
    let claims = all.iter().zip(&specs).map(|((name, age, _), spec)| Claim {
        name,
        created: Timestamp::from_second(*age).ok(),
        spec,
    });
    let found = conflicts(claims);
    found
        .into_iter()
        .map(|(name, error)| (name.to_owned(), error.code))
        .collect()
}

/// The conflict that a younger binding has because of an older one.
#[track_caller]
fn conflict(older: Value, younger: Value) -> Option<Code> {
    let found = losers(&[("older", 1, older), ("younger", 2, younger)]);
    assert!(found.iter().all(|(name, _)| name == "younger"), "{found:?}");
    found.first().map(|(_, code)| *code)
}

#[test]
fn two_secrets_for_one_server() {
    let a = cluster("https://spoke.example.org", "spoke");
    let slash = cluster("https://spoke.example.org/", "spoke");
    assert_eq!(conflict(a.clone(), slash), Some(Code::ServerConflict));
    assert_eq!(
        conflict(a, cluster("https://other.example.org", "other")),
        None
    );
}

#[test]
fn one_audience_at_two_hosts() {
    let spoke = cluster("https://spoke.example.org", "same");
    for other in [
        "https://other.example.org",
        "https://spoke.example.org:6443",
    ] {
        assert_eq!(
            conflict(spoke.clone(), cluster(other, "same")),
            Some(Code::AudienceConflict)
        );
    }
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
        there,
        "/identity/subject",
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

/// A registry in a cloud, by this exchange.
fn cloud(kind: &str, host: &str, audience: &str) -> Value {
    let spec = with(quay(host), "/identity/audience", json!(audience));
    with(spec, "/exchange", json!({"type": kind}))
}

#[test]
fn a_clouds_audience_is_that_clouds_alone() {
    const STS: &str = "sts.amazonaws.com";
    let east = cloud("ecr", "1.dkr.ecr.us-east-1.amazonaws.com", STS);
    let west = cloud("ecr", "1.dkr.ecr.us-west-2.amazonaws.com", STS);
    assert_eq!(conflict(east.clone(), west.clone()), None);
    assert_eq!(
        conflict(east.clone(), cloud("ecr-public", "public.ecr.aws", STS)),
        None
    );
    let mut own = west;
    own["exchange"]["tokenUrl"] = json!("https://sts.us-gov-west-1.amazonaws.com/");
    assert_eq!(conflict(east.clone(), own.clone()), None);
    own["exchange"]["tokenUrl"] = json!("https://sts.example.org/");
    assert_eq!(
        conflict(east.clone(), own),
        Some(Code::AudienceConflict),
        "a token service of somebody else"
    );
    for other in [
        cloud("passthrough", "zot.example.org", STS),
        cloud("gar", "us-docker.pkg.dev", STS),
        cluster("https://spoke.example.org", STS),
    ] {
        assert_eq!(
            conflict(east.clone(), other.clone()),
            Some(Code::AudienceConflict),
            "{other}: it could become the role"
        );
    }
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
    let mut all = [("c", 5, spec()), ("b", 5, spec()), ("a", 9, spec())];
    for _ in 0..3 {
        all.rotate_left(1);
        let names: Vec<_> = losers(&all).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "c"]);
    }
}

#[test]
fn who_stands_back_is_in_nobodys_way() {
    let first = cluster("https://a.example.org", "one");
    // Loses the server, so its audience is free.
    let second = cluster("https://a.example.org", "two");
    let third = cluster("https://b.example.org", "two");
    let found = losers(&[
        ("first", 1, first),
        ("second", 2, second),
        ("third", 3, third),
    ]);
    assert_eq!(found, [("second".to_owned(), Code::ServerConflict)]);
}

#[test]
fn what_is_not_delivered_wins_nothing() {
    let spec = || cluster("https://spoke.example.org", "spoke");
    let unavailable = with(spec(), "/identity/credential", json!("SpiffeCertificate"));
    assert_eq!(conflict(unavailable, spec()), None);
}

#[test]
fn an_ipv6_address_is_one_place_in_any_spelling() {
    let realm = quay("[2001:db8::1]");
    let mut shown = quay("[2001:DB8:0:0::1]:443");
    shown["identity"]["audience"] = realm["identity"]["audience"].clone();
    shown["exchange"] = json!({"type": "passthrough"});
    shown["delivery"] = json!("proxy");
    shown["proxy"] = json!({"keySha256": ["0"], "type": "oci"});
    assert_eq!(conflict(realm.clone(), shown.clone()), None);
    let elsewhere = with(shown, "/target/address", json!("[2001:db8::2]/team/charts"));
    assert_eq!(
        conflict(realm, elsewhere),
        Some(Code::AudienceConflict),
        "another address"
    );
}
