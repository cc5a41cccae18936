//! Watches CredentialBindings in all namespaces. Objects flow in, whole maps
//! of those that could be read flow out; the newest map counts.
//!
//! Objects are taken without a type and read one by one, so that one that a
//! newer controller wrote, or somebody broke, is skipped instead of stopping
//! the watch for all.

use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use shared::binding::{CredentialBindingSpec, GROUP, KIND, PLURAL, VERSION};
use tokio::sync::watch;

use crate::demand::{Binding, BindingRef, Bindings};

/// The resource of CredentialBindings.
pub fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, KIND), PLURAL)
}

/// Watches until the receivers are gone. The first map is sent when the first
/// list is complete.
pub async fn watch(client: Client, node: String, maps: watch::Sender<Option<Arc<Bindings>>>) {
    let api: Api<DynamicObject> = Api::all_with(client, &resource());
    let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut current = Bindings::new();
    let mut listing = Bindings::new();
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listing = Bindings::new(),
            Ok(watcher::Event::InitApply(object)) => apply(&mut listing, &object, &node),
            Ok(watcher::Event::InitDone) => {
                current = std::mem::take(&mut listing);
                listed = true;
            }
            Ok(watcher::Event::Apply(object)) => apply(&mut current, &object, &node),
            Ok(watcher::Event::Delete(object)) => {
                if let Some(reference) = reference(&object) {
                    current.remove(&reference);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "watch of {PLURAL}; it is tried again");
                continue;
            }
        }
        if listed {
            maps.send_if_modified(|map| {
                let changed = map.as_deref() != Some(&current);
                if changed {
                    *map = Some(Arc::new(current.clone()));
                }
                changed
            });
        }
        if maps.is_closed() {
            return;
        }
    }
}

fn apply(bindings: &mut Bindings, object: &DynamicObject, node: &str) {
    let Some(reference) = reference(object) else {
        return;
    };
    match read(object, node) {
        Ok(binding) => drop(bindings.insert(reference, binding)),
        Err(error) => {
            tracing::warn!(binding = %reference, %error, "this binding cannot be read; it is skipped");
            bindings.remove(&reference);
        }
    }
}

fn reference(object: &DynamicObject) -> Option<BindingRef> {
    Some(BindingRef {
        namespace: object.metadata.namespace.clone()?,
        name: object.metadata.name.clone()?,
    })
}

fn read(object: &DynamicObject, node: &str) -> Result<Binding, serde_json::Error> {
    let part = |pointer| object.data.pointer(pointer);
    let spec = part("/spec").cloned().unwrap_or_default();
    let nodes = part("/status/nodes").and_then(|nodes| nodes.as_array());
    Ok(Binding {
        spec: serde_json::from_value::<CredentialBindingSpec>(spec)?,
        created_at: object
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::MAX, |time| time.0),
        generation: object.metadata.generation.unwrap_or_default(),
        reported_here: nodes
            .is_some_and(|nodes| nodes.iter().any(|it| it["name"].as_str() == Some(node))),
    })
}

/// What a map would be after these objects.
#[cfg(test)]
fn map(objects: &[DynamicObject]) -> Bindings {
    let mut bindings = Bindings::new();
    for object in objects {
        apply(&mut bindings, object, "node-a");
    }
    bindings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::demand::tests::{reference, registry};

    fn object(name: &str, spec: Value, status: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "workload-identity.dev/v1alpha1",
            "kind": "CredentialBinding",
            "metadata": {
                "namespace": "argocd", "name": name, "generation": 1,
                "creationTimestamp": "1970-01-01T00:00:07Z",
            },
            "spec": spec,
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn one_bad_object_does_not_hide_the_others() {
        let good = serde_json::to_value(registry(7).spec).unwrap();
        let reported = json!({"nodes": [{"name": "node-a"}, {"other": 1}]});
        let map = map(&[
            object("bad", json!({"target": 5}), json!(null)),
            object("good", good.clone(), reported),
            object(
                "future",
                json!({"exchange": {"type": "of-the-future"}}),
                json!([]),
            ),
            object("elsewhere", good.clone(), json!({"nodes": "odd"})),
            object("turns-bad", good, json!({})),
            object("turns-bad", json!({}), json!({})),
        ]);
        let mut expected = registry(7);
        expected.reported_here = true;
        assert_eq!(map.get(&reference("good")), Some(&expected));
        let names: Vec<&str> = map.keys().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["elsewhere", "good"]);
    }

    proptest! {
        #[test]
        fn no_spec_panics(text in "\\PC*", number: i64) {
            map(&[object("x", json!({"target": text, "consumers": number}), json!({"nodes": [text, number]}))]);
        }
    }
}
