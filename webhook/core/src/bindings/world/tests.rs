use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::{
    bindings::{
        pod::PodView,
        testing::{cluster, observed, quay},
    },
    derive::account,
};

/// Names of the keys that a change asks for, all in the namespace argocd.
fn apply(world: &mut World, change: Change) -> Vec<String> {
    let mut keys = world.apply(change);
    let (more, is_settled) = world.settle(usize::MAX);
    assert!(is_settled);
    keys.extend(more);
    assert!(keys.iter().all(|key| &*key.namespace == "argocd"));
    keys.into_iter().map(|key| key.name.to_string()).collect()
}

fn secret(event: ListEvent<&str>) -> Change {
    Change::Secret("argocd".into(), event.map(Into::into))
}

fn bound(event: ListEvent<Observed>) -> Change {
    Change::Binding("argocd".into(), event.map(Box::new))
}

fn account(event: ListEvent<Annotations>) -> Change {
    Change::ServiceAccount("argocd".into(), event)
}

fn node(event: ListEvent<()>) -> Change {
    Change::Node(event)
}

/// A binding that is there.
fn put(name: &str, second: i64, spec: Value, status: Value) -> ListEvent<Observed> {
    ListEvent::Apply(name.into(), observed(name, second, spec, status))
}

fn gone<V>(name: &str) -> ListEvent<V> {
    ListEvent::Delete(name.into())
}

/// A world with these bindings, all listed.
fn world(bindings: Vec<ListEvent<Observed>>) -> World {
    let mut world = World::default();
    apply(&mut world, bound(ListEvent::Init));
    for binding in bindings {
        let ListEvent::Apply(name, binding) = binding else {
            panic!("{binding:?}");
        };
        apply(&mut world, bound(ListEvent::InitApply(name, binding)));
    }
    apply(&mut world, bound(ListEvent::InitDone));
    assert_eq!(world.newly_known(), ["argocd".into()]);
    world
}

fn snapshot(world: &World, name: &str) -> Snapshot {
    world.snapshot(&key(&"argocd".into(), name.into()))
}

fn on_node(name: &str) -> Value {
    json!({"nodes": [{"name": name, "state": "Ready"}]})
}

#[test]
fn secrets_are_looked_at_when_they_change_or_went_unseen() {
    let put = |name: &str, version| secret(ListEvent::Apply(name.into(), version));
    let mut world = World::default();
    assert_eq!(apply(&mut world, put("a", "1")), ["a"]);
    assert_eq!(apply(&mut world, put("a", "2")), ["a"]);
    assert_eq!(snapshot(&world, "a").secret.as_deref(), Some("2"));
    assert!(
        apply(&mut world, put("a", "2")).is_empty(),
        "the same again"
    );
    assert_eq!(apply(&mut world, secret(gone("a"))), ["a"]);
    apply(&mut world, put("b", "3"));
    apply(&mut world, put("d", "4"));
    // A list that starts over: `b` went in the meantime.
    assert!(apply(&mut world, secret(ListEvent::Init)).is_empty());
    let listed = |name: &str, version| secret(ListEvent::InitApply(name.into(), version));
    assert_eq!(apply(&mut world, listed("c", "5")), ["c"]);
    assert!(apply(&mut world, listed("d", "4")).is_empty());
    assert_eq!(apply(&mut world, secret(ListEvent::InitDone)), ["b"]);
    assert_eq!(snapshot(&world, "b").secret, None);
}

#[test]
fn a_namespace_is_known_when_its_bindings_are_listed() {
    let mut world = World::default();
    world.apply(bound(ListEvent::Init));
    let binding = observed("a", 1, quay("q.example.org"), json!({}));
    world.apply(bound(ListEvent::InitApply("a".into(), binding)));
    assert!(world.newly_known().is_empty());
    apply(&mut world, bound(ListEvent::InitDone));
    assert_eq!(world.newly_known(), ["argocd".into()]);
    assert!(world.newly_known().is_empty());
    let seen = snapshot(&world, "a");
    assert_eq!(seen.binding.unwrap().metadata.uid.as_ref(), "binding-a");
    assert_eq!((seen.vanished, seen.has_consumer), (None, None));
    assert_eq!((seen.account, seen.unproxied), (None, None));
}

#[test]
fn a_list_that_is_broken_off_and_starts_over_loses_nothing() {
    let mut world = world(vec![
        put("a", 1, quay("q.example.org"), json!({})),
        put("b", 1, quay("r.example.org"), json!({})),
    ]);
    let listed = |name: &str| {
        let binding = observed(name, 1, quay("q.example.org"), json!({}));
        bound(ListEvent::InitApply(name.into(), binding))
    };
    apply(&mut world, bound(ListEvent::Init));
    apply(&mut world, listed("a"));
    apply(&mut world, bound(ListEvent::Init));
    apply(&mut world, listed("c"));
    apply(&mut world, listed("b"));
    assert_eq!(apply(&mut world, bound(ListEvent::InitDone)), ["a"]);
    assert_eq!(world.bindings(), 2);
}

#[test]
fn rivals_are_looked_at_when_their_answer_changes_and_only_then() {
    let spoke = || cluster("https://spoke.example.org", "spoke");
    let mut world = world(vec![
        put("a", 1, spoke(), json!({})),
        put("b", 2, spoke(), json!({})),
        put("c", 3, quay("q.example.org"), json!({})),
    ]);
    assert!(snapshot(&world, "a").conflict.is_none());
    assert!(snapshot(&world, "b").conflict.is_some());

    let reported = put("a", 1, spoke(), on_node("n"));
    assert_eq!(apply(&mut world, bound(reported)), ["a"]);
    let moved = || put("a", 1, cluster("https://new.example.org", "new"), json!({}));
    assert_eq!(apply(&mut world, bound(moved())), ["a", "b"]);
    assert!(snapshot(&world, "b").conflict.is_none());
    let back = || put("a", 1, spoke(), json!({}));
    assert_eq!(apply(&mut world, bound(back())), ["a", "b"]);
    assert!(snapshot(&world, "b").conflict.is_some());
    assert_eq!(apply(&mut world, bound(gone("a"))), ["a", "b"]);
    assert!(snapshot(&world, "b").conflict.is_none());
}

#[test]
fn who_stood_back_for_a_binding_is_looked_at_when_its_deletion_begins() {
    let spoke = || cluster("https://spoke.example.org", "spoke");
    let mut world = world(vec![
        put("a", 1, spoke(), json!({})),
        put("b", 2, spoke(), json!({})),
    ]);
    let mut leaving = observed("a", 1, spoke(), json!({}));
    leaving.binding.metadata.deleting = true;
    let leaving = ListEvent::Apply("a".into(), leaving);
    assert_eq!(apply(&mut world, bound(leaving)), ["a", "b"]);
    assert!(snapshot(&world, "b").conflict.is_none());
}

#[test]
fn one_strange_binding_does_not_hide_the_others() {
    let world = world(vec![
        put("strange", 1, json!(17), json!(["?"])),
        put("a", 1, quay("q.example.org"), json!({})),
    ]);
    assert!(snapshot(&world, "strange").binding.unwrap().spec.is_none());
    assert!(snapshot(&world, "a").binding.unwrap().spec.is_some());
}

#[test]
fn bindings_are_looked_at_when_their_account_changes() {
    let mut minted = quay("m.example.org");
    minted["identity"]["credential"] = json!("ServiceAccountToken");
    let mut world = world(vec![
        put("minted", 1, minted, json!({})),
        put("signed", 2, quay("q.example.org"), json!({})),
    ]);
    let annotated = |annotations: &[(&str, &str)]| {
        let annotations = annotations.iter();
        let annotations =
            annotations.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let read = Annotations::read(Some(&annotations.collect()));
        ListEvent::Apply("argocd-global".into(), read)
    };
    let role = |value| annotated(&[(account::ROLE_ARN, value)]);
    apply(&mut world, super::tests::account(ListEvent::Init));
    apply(&mut world, super::tests::account(ListEvent::InitDone));
    assert_eq!(snapshot(&world, "minted").account, Some(None));
    for (event, expected) in [
        (annotated(&[]), &["minted"][..]),
        (annotated(&[("other", "a")]), &[]),
        (role("a"), &["minted"]),
        (role("a"), &[]),
        (role("b"), &["minted"]),
        (gone("argocd-global"), &["minted"]),
    ] {
        let shown = format!("{event:?}");
        let looked_at = apply(&mut world, super::tests::account(event));
        assert_eq!(looked_at, expected, "{shown}");
    }
}

#[test]
fn bindings_are_looked_at_when_a_consumer_comes_or_goes() {
    let mut world = world(vec![
        put("chart", 1, quay("q.example.org"), json!({})),
        put("spoke", 1, cluster("https://s.example.org", "s"), json!({})),
    ]);
    let named = |name: &str| account(ListEvent::Apply(name.into(), Annotations::default()));
    assert!(apply(&mut world, account(ListEvent::Init)).is_empty());
    assert!(apply(&mut world, account(ListEvent::InitDone)).is_empty());
    assert_eq!(snapshot(&world, "chart").has_consumer, Some(false));
    let repo_server = || named("argocd-repo-server");
    assert_eq!(apply(&mut world, repo_server()), ["chart"]);
    assert!(apply(&mut world, repo_server()).is_empty());
    assert!(apply(&mut world, named("other")).is_empty());
    assert_eq!(snapshot(&world, "chart").has_consumer, Some(true));
    let left = account(gone("argocd-repo-server"));
    assert_eq!(apply(&mut world, left), ["chart"]);
}

#[test]
fn bindings_are_looked_at_when_their_node_has_vanished() {
    let mut world = world(vec![
        put("a", 1, quay("q.example.org"), on_node("n1")),
        put("b", 1, quay("r.example.org"), on_node("n2")),
    ]);
    world.apply(node(ListEvent::Init));
    world.apply(node(ListEvent::InitApply("n1".into(), ())));
    world.apply(node(ListEvent::InitApply("n2".into(), ())));
    assert!(apply(&mut world, node(ListEvent::InitDone)).is_empty());
    assert!(apply(&mut world, node(ListEvent::Apply("n1".into(), ()))).is_empty());
    assert!(apply(&mut world, node(ListEvent::Apply("n3".into(), ()))).is_empty());
    assert_eq!(apply(&mut world, node(gone("n2"))), ["b"]);
    let vanished = |world: &World, name| snapshot(world, name).vanished.unwrap();
    assert_eq!(vanished(&world, "b"), ["n2".into()]);
    assert!(vanished(&world, "a").is_empty());
    assert_eq!(
        apply(&mut world, node(ListEvent::Apply("n2".into(), ()))),
        ["b"]
    );
    // Nobody reports from it any more.
    let silent = put("b", 1, quay("r.example.org"), json!({}));
    apply(&mut world, bound(silent));
    assert!(apply(&mut world, node(gone("n2"))).is_empty());
}

#[test]
fn before_all_nodes_are_listed_none_has_vanished() {
    let mut world = world(vec![put("a", 1, quay("q.example.org"), on_node("n1"))]);
    assert!(apply(&mut world, node(ListEvent::Init)).is_empty());
    assert!(apply(&mut world, node(ListEvent::Apply("n2".into(), ()))).is_empty());
    assert_eq!(snapshot(&world, "a").vanished, None);
    assert_eq!(apply(&mut world, node(ListEvent::InitDone)), ["a"]);
}

fn pod(event: ListEvent<Option<RepoServer>>) -> Change {
    Change::Pod("argocd".into(), event)
}

fn repo_server(name: &str, account: &str, phase: &str, containers: &[&str]) -> Change {
    let containers: Vec<_> = containers.iter().map(|name| (*name).to_owned()).collect();
    let label = ("app.kubernetes.io/name", "argocd-repo-server");
    let labels = BTreeMap::from([(label.0.to_owned(), label.1.to_owned())]);
    let read = RepoServer::read(&PodView {
        labels: Some(&labels),
        service_account: account,
        phase,
        init_containers: &containers,
        ..PodView::default()
    });
    pod(ListEvent::Apply(name.into(), read))
}

#[test]
fn a_repo_server_without_the_proxy_concerns_those_who_need_it() {
    let mut proxied = quay("p.example.org");
    proxied["delivery"] = json!("proxy");
    let mut world = world(vec![
        put("by-proxy", 1, proxied, json!({})),
        put("by-file", 2, quay("q.example.org"), json!({})),
    ]);
    apply(&mut world, pod(ListEvent::Init));
    apply(&mut world, pod(ListEvent::InitDone));
    let running =
        |containers: &[&str]| repo_server("r", "argocd-repo-server", "Running", containers);
    let pending = repo_server("r", "argocd-repo-server", "Pending", &[]);
    assert!(apply(&mut world, pending).is_empty());
    assert_eq!(apply(&mut world, running(&["copyutil"])), ["by-proxy"]);
    let again = apply(&mut world, running(&["copyutil"]));
    assert!(again.is_empty(), "the same again");
    let seen = snapshot(&world, "by-proxy");
    assert_eq!(seen.unproxied, Some(vec!["r".into()]));
    let notice = seen.without_proxy().unwrap();
    assert_eq!(
        (notice.code, &*notice.detail),
        (Code::ProxyNotInjected, "pod r")
    );
    assert_eq!(snapshot(&world, "by-file").without_proxy(), None);

    let proxy = running(&["credential-proxy"]);
    assert_eq!(apply(&mut world, proxy), ["by-proxy"]);
    assert_eq!(snapshot(&world, "by-proxy").without_proxy(), None);
    let other = repo_server("other", "someone", "Running", &[]);
    assert!(apply(&mut world, other).is_empty());
    assert_eq!(apply(&mut world, running(&[])), ["by-proxy"]);
    // It is another's pod now.
    let relabelled = pod(ListEvent::Apply("r".into(), None));
    assert_eq!(apply(&mut world, relabelled), ["by-proxy"]);
    assert_eq!(apply(&mut world, running(&[])), ["by-proxy"]);
    assert_eq!(apply(&mut world, pod(gone("r"))), ["by-proxy"]);
    assert_eq!(snapshot(&world, "by-proxy").without_proxy(), None);
}

#[test]
fn every_secret_is_looked_at_when_the_keys_rotate() {
    let mut world = world(vec![put("a", 1, quay("q.example.org"), json!({}))]);
    apply(&mut world, secret(ListEvent::Apply("a".into(), "1")));
    apply(&mut world, secret(ListEvent::Apply("b".into(), "2")));
    assert_eq!(apply(&mut world, Change::Keys), ["a", "b"]);
}
