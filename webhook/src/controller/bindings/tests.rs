use control_plane_core::{
    bindings::world::{Change, ListEvent, World},
    derive::meaning::Owner,
};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::*;
use crate::{
    controller::{
        fake::Api,
        testing::{self, observed},
    },
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

#[test]
fn the_manifest_is_owned_by_its_secret_without_touching_it() {
    let (owner, spec) = valid();
    let manifest = manifest(&key(), &owner.uid, &spec);
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
    let binding = observed("quay", 1, spec, json!({"nodes": nodes})).binding;
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
    let binding =
        testing::observed("quay", 1, testing::quay("quay.example.org"), json!({})).binding;
    let around = Circumstances {
        problems: &[],
        blocked: None,
        notices: &[],
        vanished: Some(&[]),
        has_consumer: Some(true),
        is_partial: false,
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

/// One reconciler, its API server, and what it knows.
struct Bench {
    api: Api,
    reconciler: Reconciler,
    world: World,
}

impl Bench {
    /// With this Secret, and nothing else; everything is known.
    fn new(secret: Secret) -> Self {
        let api = Api::default();
        api.put(secret);
        let signature = InForce::default();
        signature.set(Algorithm::Rs256);
        let reconciler = Reconciler::new(api.client(), derivation(), signature, "a");
        let mut world = World::default();
        for event in [ListEvent::Init, ListEvent::InitDone] {
            world.apply(Change::Node(event.clone()));
            let nothing = |()| panic!("nothing is listed");
            world.apply(Change::Binding("argocd".into(), event.clone().map(nothing)));
            world.apply(Change::Pod("argocd".into(), event.clone().map(|()| None)));
            let account = |()| control_plane_core::derive::account::Annotations::default();
            world.apply(Change::ServiceAccount("argocd".into(), event.map(account)));
        }
        let mut bench = Self {
            api,
            reconciler,
            world,
        };
        bench.seen("1");
        bench
    }

    /// The watch shows this version of the Secret.
    fn seen(&mut self, version: &str) {
        let event = ListEvent::Apply("quay".into(), version.into());
        self.world.apply(Change::Secret("argocd".into(), event));
    }

    /// The watch shows this binding.
    fn bound(&mut self, spec: &Value, status: Value) {
        let observed = observed("quay", 1, spec.clone(), status);
        let event = ListEvent::Apply("quay".into(), Box::new(observed));
        self.world.apply(Change::Binding("argocd".into(), event));
        self.world.settle(usize::MAX);
    }

    /// A look; returns what came of it and the calls that it took.
    async fn look(&self) -> (Result<Option<Duration>, Failure>, Vec<(String, Value)>) {
        let around = self.world.snapshot(&key());
        let result = self.reconciler.reconcile(&key(), &around).await;
        (result, self.api.calls())
    }

    async fn calls(&self) -> Vec<String> {
        let (result, calls) = self.look().await;
        result.unwrap();
        calls.into_iter().map(|(call, _)| call).collect()
    }
}

fn renewed(minute: i8, conditions: &Value) -> Value {
    let expiry = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(60 + i64::from(minute));
    let node = json!({
        "name": "n", "state": "Ready", "observedGeneration": 2, "expiresAt": expiry,
        "rotations": minute,
    });
    json!({"nodes": [node], "conditions": conditions})
}

#[tokio::test]
async fn a_renewed_credential_costs_no_call_of_the_controller() {
    let mut bench = Bench::new(quay("quay"));
    // The node is there, as far as the controller knows.
    let node = ListEvent::Apply("n".into(), ());
    bench.world.apply(Change::Node(node));
    let (result, calls) = bench.look().await;
    result.unwrap();
    let names: Vec<_> = calls.iter().map(|(call, _)| call.as_str()).collect();
    assert_eq!(names, ["GET secrets/quay", "PATCH credentialbindings/quay"]);
    let spec = calls[1].1["spec"].clone();

    bench.bound(&spec, renewed(0, &json!([])));
    let (result, calls) = bench.look().await;
    result.unwrap();
    let names: Vec<_> = calls.iter().map(|(call, _)| call.as_str()).collect();
    let status = "PATCH credentialbindings/quay/status";
    assert_eq!(
        names[..1],
        [status],
        "the account's version is a new one: {names:?}"
    );
    let conditions = calls[0].1["status"]["conditions"].clone();

    for minute in 1..60 {
        bench.bound(&spec, renewed(minute, &conditions));
        assert!(bench.calls().await.is_empty());
    }
    bench.seen("2");
    assert_eq!(bench.calls().await, ["GET secrets/quay"]);
    assert!(bench.calls().await.is_empty());
    // What signs says nothing about the Secret.
    bench.world.apply(Change::Keys);
    assert!(bench.calls().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_refuses_is_said_on_the_secret() {
    let bench = Bench::new(quay("quay"));
    let words = "exceeded quota: bindings";
    bench.api.refuse(403, words);
    let (result, calls) = bench.look().await;
    assert!(result.is_err(), "it is tried again");
    let events = |calls: Vec<(String, Value)>| -> Vec<Value> {
        let events = calls.into_iter();
        let events = events.filter(|(call, _)| call.contains("events"));
        events.map(|(_, event)| event).collect()
    };
    let events_now = events(calls);
    assert_eq!(events_now.len(), 1);
    assert_eq!(events_now[0]["reason"], "binding-refused");
    assert_eq!(events_now[0]["regarding"]["uid"], "uid-quay");
    let note = events_now[0]["note"].as_str().unwrap();
    assert!(note.contains(words), "{note}");

    assert_eq!(events(bench.look().await.1), [] as [Value; 0]);
    tokio::time::advance(SAY_AGAIN).await;
    assert_eq!(events(bench.look().await.1).len(), 1);
    // What may pass by itself is nothing to tell a user.
    bench.api.refuse(503, "not now");
    assert_eq!(events(bench.look().await.1), [] as [Value; 0]);
}

#[tokio::test]
async fn a_binding_that_cannot_be_changed_still_says_how_it_is() {
    let mut bench = Bench::new(quay("quay"));
    let node = ListEvent::Apply("n".into(), ());
    bench.world.apply(Change::Node(node));
    let (result, calls) = bench.look().await;
    result.unwrap();
    let mut spec = calls[1].1["spec"].clone();
    spec["consumers"] = json!(["edited-by-hand"]);
    bench.bound(&spec, renewed(0, &json!([])));
    bench.api.refuse(403, "exceeded quota: bindings");
    let (result, calls) = bench.look().await;
    assert!(result.is_err(), "it is tried again");
    let status = |(call, _): &(String, Value)| call == "PATCH credentialbindings/quay/status";
    assert!(calls.iter().any(status), "{calls:?}");
}

#[tokio::test]
async fn a_key_ends_also_where_the_secret_is_broken() {
    let mut broken = quay("quay");
    let data = broken.data.as_mut().unwrap();
    let provider = k8s_openapi::ByteString(b"vault".to_vec());
    data.insert("workloadIdentityProvider".into(), provider);
    let mut bench = Bench::new(broken);
    let node = ListEvent::Apply("n".into(), ());
    bench.world.apply(Change::Node(node));
    let mut spec = testing::quay("quay.example.org");
    spec["delivery"] = json!("proxy");
    let (new, old) = ("a".repeat(64), "b".repeat(64));
    for (until, ends) in [
        ("2001-01-01T00:00:00Z", true),
        ("2999-01-01T00:00:00Z", false),
    ] {
        spec["proxy"] = json!({
            "type": "oci", "keySha256": [new, old], "previousKeyUntil": until,
        });
        bench.bound(&spec, json!({}));
        let (result, calls) = bench.look().await;
        let patch = calls
            .iter()
            .find(|(call, _)| call == "PATCH credentialbindings/quay");
        assert_eq!(patch.is_some(), ends, "{until}: {calls:?} {result:?}");
        if let Some((_, patch)) = patch {
            assert_eq!(patch[1]["value"], json!(old));
            assert_eq!(
                patch[2],
                json!({"op": "remove", "path": "/spec/proxy/keySha256/1"})
            );
            assert_eq!(patch[3]["path"], "/spec/proxy/previousKeyUntil");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reason_is_said_again_before_its_event_is_gone() {
    let broken = secret("repository", "quay", &[("useWorkloadIdentity", "true")]);
    let mut bench = Bench::new(broken);
    let (again, calls) = bench.look().await;
    let count = |calls: &[(String, Value)]| {
        let events = calls.iter().filter(|(call, _)| call.contains("events"));
        events.count()
    };
    let problems = count(&calls);
    assert!(problems > 0);
    let again = again.unwrap().unwrap();
    assert!(again < Duration::from_secs(3600));
    assert_eq!(count(&bench.look().await.1), 0);
    tokio::time::advance(again).await;
    assert_eq!(count(&bench.look().await.1), problems);

    bench.api.put(quay("quay"));
    bench.seen("2");
    assert_eq!(count(&bench.look().await.1), 0);
    assert!(bench.reconciler.said.lock().unwrap().is_empty());
}
