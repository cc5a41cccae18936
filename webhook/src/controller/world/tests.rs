use kube::core::ObjectMeta;
use serde_json::{Value, json};

use super::*;
use crate::controller::testing::{cluster, object, quay};

fn metadata<K>(name: &str) -> PartialObjectMeta<K> {
    PartialObjectMeta {
        types: None,
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        _phantom: std::marker::PhantomData,
    }
}

/// Names of the keys that a change asks for, all in the namespace argocd.
fn apply(world: &mut World, change: Change) -> Vec<String> {
    let keys = world.apply(change);
    assert!(keys.iter().all(|key| key.namespace == "argocd"));
    keys.into_iter().map(|key| key.name).collect()
}

fn secret(event: Event<PartialObjectMeta<Secret>>) -> Change {
    Change::Secret("argocd".into(), event)
}

fn bound(event: Event<DynamicObject>) -> Change {
    Change::Binding("argocd".into(), event)
}

fn account(event: Event<PartialObjectMeta<ServiceAccount>>) -> Change {
    Change::ServiceAccount("argocd".into(), event)
}

/// A world with these bindings, all listed.
fn world(bindings: Vec<DynamicObject>) -> World {
    let mut world = World::default();
    world.apply(bound(Event::Init));
    for binding in bindings {
        world.apply(bound(Event::InitApply(binding)));
    }
    world.apply(bound(Event::InitDone));
    world
}

fn snapshot(world: &World, name: &str) -> Snapshot {
    world.snapshot(&key("argocd", name.into()))
}

fn on_node(name: &str) -> Value {
    json!({"nodes": [{"name": name, "state": "Ready"}]})
}

#[test]
fn secrets_are_looked_at_when_they_change_or_went_unseen() {
    let mut world = World::default();
    assert_eq!(
        apply(&mut world, secret(Event::Apply(metadata("a")))),
        ["a"]
    );
    assert_eq!(
        apply(&mut world, secret(Event::Delete(metadata("a")))),
        ["a"]
    );
    apply(&mut world, secret(Event::Apply(metadata("b"))));
    // A list that starts over: `b` went in the meantime.
    assert!(apply(&mut world, secret(Event::Init)).is_empty());
    assert!(apply(&mut world, secret(Event::InitApply(metadata("c")))).is_empty());
    assert_eq!(apply(&mut world, secret(Event::InitDone)), ["b", "c"]);
}

#[test]
fn nothing_is_known_before_the_bindings_are_listed() {
    let mut world = World::default();
    world.apply(bound(Event::Init));
    world.apply(bound(Event::InitApply(object(
        "a",
        1,
        quay("q.example.org"),
        json!({}),
    ))));
    assert!(!world.is_known("argocd"));
    assert!(snapshot(&world, "a").binding.is_none());
    assert_eq!(apply(&mut world, bound(Event::InitDone)), ["a"]);
    assert!(world.is_known("argocd") && !world.is_known("other"));
    let seen = snapshot(&world, "a");
    assert_eq!(seen.binding.unwrap().uid, "binding-a");
    assert_eq!((seen.nodes, seen.service_accounts), (None, None));
}

#[test]
fn rivals_are_looked_at_when_a_spec_changes_and_only_then() {
    let spoke = || cluster("https://spoke.example.org", "spoke");
    let mut world = world(vec![
        object("a", 1, spoke(), json!({})),
        object("b", 2, spoke(), json!({})),
        object("c", 3, quay("q.example.org"), json!({})),
    ]);
    assert!(snapshot(&world, "a").conflict.is_none());
    assert!(snapshot(&world, "b").conflict.is_some());

    let reported = object("a", 1, spoke(), on_node("n"));
    assert_eq!(apply(&mut world, bound(Event::Apply(reported))), ["a"]);
    let moved = object("a", 1, cluster("https://new.example.org", "new"), json!({}));
    assert_eq!(
        apply(&mut world, bound(Event::Apply(moved.clone()))),
        ["a", "b"]
    );
    assert!(snapshot(&world, "b").conflict.is_none());
    let back = object("a", 1, spoke(), json!({}));
    apply(&mut world, bound(Event::Apply(back.clone())));
    assert!(snapshot(&world, "b").conflict.is_some());
    assert_eq!(apply(&mut world, bound(Event::Delete(back))), ["a", "b"]);
    assert!(snapshot(&world, "b").conflict.is_none());
}

#[test]
fn one_strange_binding_does_not_hide_the_others() {
    let mut strange = object("strange", 1, json!(17), json!(["?"]));
    strange.metadata.resource_version = None;
    let world = world(vec![
        strange,
        object("a", 1, quay("q.example.org"), json!({})),
    ]);
    assert!(snapshot(&world, "strange").binding.unwrap().spec.is_none());
    assert!(snapshot(&world, "a").binding.unwrap().spec.is_some());
}

#[test]
fn bindings_are_looked_at_when_their_account_changes() {
    let mut minted = quay("m.example.org");
    minted["identity"]["credential"] = json!("ServiceAccountToken");
    let mut world = world(vec![
        object("minted", 1, minted, json!({})),
        object("signed", 2, quay("q.example.org"), json!({})),
    ]);
    let annotated = |name: &str, value: &str| {
        let mut account = metadata("argocd-global");
        account.metadata.annotations = Some([(name.to_owned(), value.to_owned())].into());
        account
    };
    let role = |value| annotated(account::ROLE_ARN, value);
    for (event, expected) in [
        (Event::Apply(metadata("argocd-global")), &["minted"][..]),
        (Event::Apply(annotated("other", "a")), &[]),
        (Event::Apply(role("a")), &["minted"]),
        (Event::Apply(role("a")), &[]),
        (Event::Apply(role("b")), &["minted"]),
        (Event::Delete(role("b")), &["minted"]),
    ] {
        let shown = format!("{event:?}");
        assert_eq!(
            apply(&mut world, super::tests::account(event)),
            expected,
            "{shown}"
        );
    }
}

#[test]
fn bindings_are_looked_at_when_a_consumer_comes_or_goes() {
    let mut world = world(vec![
        object("chart", 1, quay("q.example.org"), json!({})),
        object("spoke", 1, cluster("https://s.example.org", "s"), json!({})),
    ]);
    assert!(apply(&mut world, account(Event::Init)).is_empty());
    assert!(apply(&mut world, account(Event::InitDone)).is_empty());
    let repo_server = || metadata("argocd-repo-server");
    assert_eq!(
        apply(&mut world, account(Event::Apply(repo_server()))),
        ["chart"]
    );
    assert!(apply(&mut world, account(Event::Apply(repo_server()))).is_empty());
    assert!(apply(&mut world, account(Event::Apply(metadata("other")))).is_empty());
    let known = snapshot(&world, "chart").service_accounts.unwrap();
    assert!(known.contains("argocd-repo-server"));
    assert_eq!(
        apply(&mut world, account(Event::Delete(repo_server()))),
        ["chart"]
    );
}

#[test]
fn bindings_are_looked_at_when_their_node_has_vanished() {
    let mut world = world(vec![
        object("a", 1, quay("q.example.org"), on_node("n1")),
        object("b", 1, quay("r.example.org"), on_node("n2")),
    ]);
    world.apply(Change::Node(Event::Init));
    world.apply(Change::Node(Event::InitApply(metadata("n1"))));
    world.apply(Change::Node(Event::InitApply(metadata("n2"))));
    assert!(apply(&mut world, Change::Node(Event::InitDone)).is_empty());
    assert!(apply(&mut world, Change::Node(Event::Apply(metadata("n1")))).is_empty());
    assert_eq!(
        apply(&mut world, Change::Node(Event::Delete(metadata("n2")))),
        ["b"]
    );
    assert_eq!(
        snapshot(&world, "b").nodes.unwrap(),
        BTreeSet::from(["n1".to_owned()])
    );
}

#[test]
fn before_all_nodes_are_listed_none_has_vanished() {
    let mut world = world(vec![object("a", 1, quay("q.example.org"), on_node("n1"))]);
    assert!(apply(&mut world, Change::Node(Event::Init)).is_empty());
    assert!(apply(&mut world, Change::Node(Event::Apply(metadata("n2")))).is_empty());
    assert_eq!(snapshot(&world, "a").nodes, None);
    assert_eq!(apply(&mut world, Change::Node(Event::InitDone)), ["a"]);
}

fn pod(event: Event<DynamicObject>) -> Change {
    Change::Pod("argocd".into(), event)
}

fn repo_server(name: &str, account: &str, phase: &str, containers: &[&str]) -> DynamicObject {
    let containers: Vec<_> = containers
        .iter()
        .map(|name| json!({"name": name}))
        .collect();
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "argocd-repo-server"}},
        "spec": {"serviceAccountName": account, "initContainers": containers},
        "status": {"phase": phase},
    }))
    .unwrap()
}

#[test]
fn a_repo_server_without_the_proxy_concerns_those_who_need_it() {
    let mut proxied = quay("p.example.org");
    proxied["delivery"] = json!("proxy");
    let mut world = world(vec![
        object("by-proxy", 1, proxied, json!({})),
        object("by-file", 2, quay("q.example.org"), json!({})),
    ]);
    let running = |containers: &[&str]| {
        pod(Event::Apply(repo_server(
            "r",
            "argocd-repo-server",
            "Running",
            containers,
        )))
    };
    let pending = repo_server("r", "argocd-repo-server", "Pending", &[]);
    assert!(apply(&mut world, pod(Event::Apply(pending))).is_empty());
    assert_eq!(apply(&mut world, running(&["copyutil"])), ["by-proxy"]);
    assert!(
        apply(&mut world, running(&["copyutil"])).is_empty(),
        "the same again"
    );
    let seen = snapshot(&world, "by-proxy");
    assert_eq!(seen.unproxied, ["r"]);
    let notice = seen.without_proxy().unwrap();
    assert_eq!(
        (notice.code, &*notice.detail),
        (Code::ProxyNotInjected, "pod r")
    );
    assert_eq!(snapshot(&world, "by-file").without_proxy(), None);

    assert_eq!(
        apply(&mut world, running(&["credential-proxy"])),
        ["by-proxy"]
    );
    assert_eq!(snapshot(&world, "by-proxy").without_proxy(), None);
    let other = repo_server("other", "someone", "Running", &[]);
    assert!(apply(&mut world, pod(Event::Apply(other))).is_empty());
    assert_eq!(apply(&mut world, running(&[])), ["by-proxy"]);
    let gone = repo_server("r", "argocd-repo-server", "Running", &[]);
    assert_eq!(apply(&mut world, pod(Event::Delete(gone))), ["by-proxy"]);
    assert_eq!(snapshot(&world, "by-proxy").without_proxy(), None);
}

#[test]
fn every_secret_is_looked_at_when_the_keys_rotate() {
    let mut world = world(vec![object("a", 1, quay("q.example.org"), json!({}))]);
    apply(&mut world, secret(Event::Apply(metadata("a"))));
    apply(&mut world, secret(Event::Apply(metadata("b"))));
    assert_eq!(apply(&mut world, Change::Keys), ["a", "b"]);
}
