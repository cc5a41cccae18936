//! What is sent to the API server about a binding: a spec, a verdict or nodes
//! that are gone flow in, a document flows out. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use shared::binding::{CredentialBindingSpec, GROUP, KIND, VERSION};

use super::{FIELD_MANAGER, binding::Binding, status::Verdict, world::Key};

/// What is applied for the Secret with this uid.
pub fn manifest(key: &Key, uid: &str, spec: &CredentialBindingSpec) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": {
            "name": &*key.name,
            "namespace": &*key.namespace,
            "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
            // No blockOwnerDeletion: it would need the right to change the
            // Secret's finalizers (OwnerReferencesPermissionEnforcement).
            "ownerReferences": [{
                "apiVersion": "v1",
                "kind": "Secret",
                "name": &*key.name,
                "uid": uid,
                "controller": true,
            }],
        },
        "spec": spec,
    })
}

/// What is applied to the status.
pub fn status_manifest(key: &Key, verdict: &Verdict) -> Value {
    let mut status = json!({"conditions": verdict.conditions});
    if let Some(expiry) = verdict.expires_at {
        status["expiresAt"] = json!(expiry);
    }
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": {"name": &*key.name, "namespace": &*key.namespace},
        "status": status,
    })
}

/// Takes the key away whose end has come, of a binding whose Secret asks for
/// nothing that could be applied.
pub fn end_overlap_patch(binding: &Binding, now: Timestamp) -> Option<json_patch::Patch> {
    let (place, hash) = binding.spec.as_ref()?.former.ended(now)?;
    let key = format!("/spec/proxy/keySha256/{place}");
    let version = &*binding.metadata.resource_version;
    let operations = json!([
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
        {"op": "test", "path": key, "value": hash},
        {"op": "remove", "path": key},
        {"op": "remove", "path": "/spec/proxy/previousKeyUntil"},
    ]);
    serde_json::from_value(operations).ok()
}

/// Removes the entries of these nodes from the version that was seen.
pub fn prune_patch(binding: &Binding, gone: &BTreeSet<&str>) -> Option<json_patch::Patch> {
    let mut operations = vec![json!({
        "op": "test", "path": "/metadata/resourceVersion", "value": &*binding.metadata.resource_version,
    })];
    // From the end, so that no index moves.
    for (at, node) in binding.status.nodes.iter().enumerate().rev() {
        if gone.contains(&*node.name) {
            operations.push(json!({"op": "remove", "path": format!("/status/nodes/{at}")}));
        }
    }
    if operations.len() == 1 {
        return None;
    }
    serde_json::from_value(Value::Array(operations)).ok()
}
