//! A Secret's whole life under admission and controller, whoever writes it and
//! whether or not the webhook is up: a key opens its binding for one project,
//! URL and type, ever.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use control_plane_core::{
    admission::{Outcome, Path, Rules, review, secrets::SecretRules},
    annotations::ROTATE_PROXY_KEY,
    proxy_key::accepted::Former,
    secret::SECRET_TYPE,
};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::binding::CredentialBindingSpec;

use super::{
    Derived, look,
    tests::{bytes, derivation},
};

/// What somebody does to the Secret.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// All of it is written again, as git has it for this project and URL.
    Replace(usize, usize),
    /// Only project and URL are written.
    Merge(usize, usize),
    /// A label is.
    Label,
    /// The proxy is taken away.
    TakeAway,
    /// A new key is asked for.
    Rotate,
    /// It becomes invalid, or valid again.
    Break(bool),
    /// It stops using workload identity, or starts again.
    Use(bool),
    /// Minutes pass.
    Wait(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..2_usize, 0..3_usize).prop_map(|(project, url)| Step::Replace(project, url)),
        (0..2_usize, 0..3_usize).prop_map(|(project, url)| Step::Merge(project, url)),
        Just(Step::Label),
        Just(Step::TakeAway),
        Just(Step::Rotate),
        any::<bool>().prop_map(Step::Break),
        any::<bool>().prop_map(Step::Use),
        (1..20_i64).prop_map(Step::Wait),
    ]
}

const PROJECTS: [&str; 2] = ["a", "b"];
const URLS: [&str; 3] = [
    "oci://quay.example.org/team/charts",
    "quay.example.org/team/charts",
    "oci://quay.example.org/other/charts",
];

fn git(project: usize, url: usize) -> Value {
    let values = [
        ("type", "helm"),
        ("url", URLS[url]),
        ("enableOCI", "true"),
        ("project", PROJECTS[project]),
        ("useWorkloadIdentity", "true"),
        ("workloadIdentityProvider", "spiffe"),
        (
            "workloadIdentityRegistryAuthURL",
            "https://quay.example.org/oauth2/federation/robot/token",
        ),
        ("workloadIdentityRegistryUsername", "team+puller"),
    ];
    let data = values.map(|(name, value)| (name.to_owned(), encoded(value)));
    json!({
        "metadata": {
            "name": "charts", "namespace": "argocd", "uid": "uid",
            "labels": {SECRET_TYPE: "repository"},
        },
        "data": data.into_iter().collect::<serde_json::Map<_, _>>(),
    })
}

fn encoded(value: &str) -> Value {
    json!(STANDARD.encode(value))
}

struct Life {
    rules: Rules,
    stored: Option<Value>,
    binding: Option<CredentialBindingSpec>,
    second: i64,
    drawn: u8,
    /// Where each hash was accepted.
    places: HashMap<String, (Option<String>, String)>,
}

impl Life {
    fn new() -> Self {
        Self {
            rules: Rules {
                secrets: SecretRules {
                    derivation: derivation(),
                    credential_proxy: true,
                },
                ..Rules::default()
            },
            stored: None,
            binding: None,
            second: 1000,
            drawn: 0,
            places: HashMap::new(),
        }
    }

    fn after(&self, step: Step) -> Value {
        let mut object = self.stored.clone().unwrap_or_else(|| git(0, 0));
        let data = object["data"].as_object_mut().unwrap();
        match step {
            Step::Replace(project, url) => return git(project, url),
            Step::Merge(project, url) => {
                data.insert("project".into(), encoded(PROJECTS[project]));
                data.insert("url".into(), encoded(URLS[url]));
            }
            Step::TakeAway => {
                data.remove("proxy");
            }
            Step::Break(broken) => {
                let provider = if broken { "vault" } else { "spiffe" };
                data.insert("workloadIdentityProvider".into(), encoded(provider));
            }
            Step::Use(used) => {
                data.insert("useWorkloadIdentity".into(), encoded(&used.to_string()));
            }
            Step::Label | Step::Wait(_) => {
                object["metadata"]["labels"]["second"] = json!(self.second.to_string());
            }
            Step::Rotate => {
                object["metadata"]["annotations"] =
                    json!({ ROTATE_PROXY_KEY: self.second.to_string() });
            }
        }
        object
    }

    /// What the API server stores, if anything.
    fn admit(&mut self, object: &Value) -> Option<Value> {
        let ask = |object: &Value, old: &Option<Value>, drawn: u8| {
            let body = json!({
                "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
                "request": {
                    "uid": "1", "kind": {"group": "", "version": "v1", "kind": "Secret"},
                    "namespace": "argocd",
                    "operation": if old.is_some() { "UPDATE" } else { "CREATE" },
                    "object": object, "oldObject": old,
                },
            });
            let mut draw = || Some(bytes(drawn));
            let review = review(
                Path::Secrets,
                body.to_string().as_bytes(),
                &self.rules,
                &mut draw,
            );
            review.unwrap().verdict.outcome
        };
        self.drawn += 1;
        let mut after = object.clone();
        match ask(object, &self.stored, self.drawn) {
            Outcome::Skip(_) => {}
            Outcome::Deny(_) => return None,
            Outcome::Patch(patch) => json_patch::patch(&mut after, patch.operations()).unwrap(),
        }
        // The API server asks again, with other bytes.
        match ask(&after, &self.stored, self.drawn + 100) {
            Outcome::Skip(_) => {}
            Outcome::Deny(error) => panic!("{error}"),
            Outcome::Patch(patch) => assert!(patch.is_empty(), "{patch:?}"),
        }
        Some(after)
    }

    fn reconcile(&mut self) {
        let Some(stored) = &self.stored else {
            return;
        };
        let secret = serde_json::from_value(stored.clone()).unwrap();
        let mut found = look(&self.rules.secrets.derivation, &secret);
        let now = Timestamp::from_second(self.second).unwrap();
        let former = self.binding.as_ref().map(Former::of);
        found.settle("Secret argocd/charts", former.as_ref(), now);
        match found.derived {
            Derived::Valid(_, spec) => self.binding = Some(*spec),
            Derived::Invalid(..) => {}
            Derived::Elsewhere(..) | Derived::Unused(_) | Derived::Absent => self.binding = None,
        }
        let Some(spec) = &self.binding else {
            return;
        };
        let place = (spec.project.clone(), spec.target.address.clone());
        for hash in spec.proxy.iter().flat_map(|proxy| &proxy.key_sha256) {
            let first = self.places.entry(hash.clone()).or_insert(place.clone());
            assert_eq!(*first, place, "a key opens another place");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_key_opens_one_place_ever(
        steps in prop::collection::vec((step(), any::<bool>(), any::<bool>()), 1..20)
    ) {
        let mut life = Life::new();
        for (step, is_up, is_looked_at) in steps {
            if let Step::Wait(minutes) = step {
                life.second += minutes * 60;
            }
            let object = life.after(step);
            if is_up {
                if let Some(after) = life.admit(&object) {
                    life.stored = Some(after);
                }
            } else {
                life.stored = Some(object);
            }
            life.second += 1;
            if is_looked_at {
                life.reconcile();
            }
        }
        // The webhook is up again, and somebody writes a label: all is well.
        life.stored = Some(git(0, 0));
        life.reconcile();
        let labelled = life.after(Step::Label);
        life.stored = life.admit(&labelled);
        life.reconcile();
        let keys = &life.binding.as_ref().unwrap().proxy.as_ref().unwrap().key_sha256;
        prop_assert!(!keys.is_empty());
    }

    /// However long others write it without its key.
    #[test]
    fn a_key_stays_while_its_secret_does(
        writes in prop::collection::vec(prop_oneof![
            Just(Step::Replace(0, 0)), Just(Step::Replace(0, 1)), Just(Step::Merge(0, 0)),
            Just(Step::Label), Just(Step::TakeAway), (1..20_i64).prop_map(Step::Wait),
        ], 1..20)
    ) {
        let mut life = Life::new();
        life.stored = life.admit(&git(0, 0));
        life.reconcile();
        let first = (life.stored.clone().unwrap()["data"]["proxy"].clone(), life.binding.clone());
        for step in writes {
            if let Step::Wait(minutes) = step {
                life.second += minutes * 60;
            }
            let object = life.after(step);
            life.stored = life.admit(&object);
            life.reconcile();
            let now = (life.stored.clone().unwrap()["data"]["proxy"].clone(), life.binding.clone());
            prop_assert_eq!(&now, &first);
        }
    }
}
