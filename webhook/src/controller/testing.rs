//! Bindings for the controller's tests.

use control_plane_core::bindings::binding::Observed;
use serde_json::{Value, json};

use super::objects::BindingObject;

/// A Quay repository without a project, delivered to every pod.
pub(super) fn quay(host: &str) -> Value {
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

/// As the API server has it: created at `second`, owned by its Secret.
pub(super) fn object(name: &str, second: i64, spec: Value, status: Value) -> BindingObject {
    let created = jiff::Timestamp::from_second(second).unwrap();
    serde_json::from_value(json!({
        "apiVersion": "workload-identity.dev/v1alpha1",
        "kind": "CredentialBinding",
        "metadata": {
            "name": name, "namespace": "argocd", "uid": format!("binding-{name}"),
            "resourceVersion": "7", "generation": 2, "creationTimestamp": created,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Secret", "name": name, "uid": format!("uid-{name}"),
                "controller": true,
            }],
        },
        "spec": spec,
        "status": status,
    }))
    .unwrap()
}

/// The same as the controller reads it.
pub(super) fn observed(name: &str, second: i64, spec: Value, status: Value) -> Observed {
    object(name, second, spec, status).observed().1
}
