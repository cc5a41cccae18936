//! Bindings for the tests.

use serde_json::{Value, json};

use super::binding::{Metadata, Observed};

/// A Quay repository without a project, delivered to every pod.
pub(crate) fn quay(host: &str) -> Value {
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

/// A cluster.
pub(super) fn cluster(server: &str, audience: &str) -> Value {
    json!({
        "target": {"type": "Cluster", "address": server},
        "provider": "spiffe",
        "identity": {
            "subject": "spiffe://example.org/ns/argocd/sa/argocd-application-controller",
            "audience": audience,
            "serviceAccount": "argocd-application-controller",
            "credential": "SpiffeJWT",
        },
        "exchange": {"type": "none"},
        "delivery": "exec",
        "consumers": ["argocd-application-controller"],
    })
}

/// As the controller observes it: created at `second`, owned by its Secret.
pub(super) fn observed(name: &str, second: i64, spec: Value, status: Value) -> Observed {
    let metadata = Metadata {
        uid: format!("binding-{name}").into(),
        resource_version: "7".into(),
        generation: 2,
        created: jiff::Timestamp::from_second(second).ok(),
        owners: [format!("uid-{name}").into()].into(),
        deleting: false,
    };
    // As the watches read it: what has another shape is not there.
    let spec = serde_json::from_value(spec).ok();
    let status = serde_json::from_value(status).unwrap_or_default();
    Observed::new("argocd", name, metadata, spec, status)
}
