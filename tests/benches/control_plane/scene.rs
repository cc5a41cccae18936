//! Bindings of a large installation in steady state: 200 projects, most of them
//! with repositories behind the credential proxy, some registries that all
//! pods share, some clusters.

use std::sync::Arc;

use control_plane_core::bindings::binding::{Metadata, Observed};
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::binding::{CredentialBindingSpec, CredentialBindingStatus};

use crate::before;

pub(crate) const NAMESPACE: &str = "argocd";
/// Nodes with consumers.
pub(crate) const NODES: usize = 3;

pub(crate) struct Scene {
    specs: Vec<CredentialBindingSpec>,
}

/// Names are not in the order of ages.
pub(crate) fn name(at: usize) -> Arc<str> {
    format!("repository-{:08x}", (at as u32).wrapping_mul(0x9e37_79b1)).into()
}

impl Scene {
    pub(crate) fn new(count: usize) -> Self {
        let specs = (0..count).map(spec).collect();
        Self { specs }
    }

    pub(crate) fn of_one_server(count: usize) -> Self {
        let spec = |at| cluster(at, "https://one.example.org");
        let specs = (0..count).map(spec).collect();
        Self { specs }
    }

    /// One of [`Scene::new`].
    pub(crate) fn binding(at: usize) -> (Arc<str>, Observed) {
        observed(at, spec(at), 0)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = Arc<str>> {
        (0..self.specs.len()).map(name)
    }

    pub(crate) fn now(&self) -> Vec<(Arc<str>, Observed)> {
        let specs = self.specs.iter().cloned().enumerate();
        let mut listed: Vec<_> = specs.map(|(at, spec)| observed(at, spec, 0)).collect();
        // As the API server lists them.
        listed.sort_by(|a, b| a.0.cmp(&b.0));
        listed
    }

    pub(crate) fn before(&self) -> Vec<Arc<before::Binding>> {
        let specs = self.specs.iter().cloned().enumerate();
        specs.map(|(at, spec)| before(at, spec, 0)).collect()
    }

    /// A node's agent has renewed a credential.
    pub(crate) fn renewed(&self, at: usize) -> (Arc<str>, Observed) {
        observed(at, self.specs[at].clone(), 1)
    }

    pub(crate) fn renewed_before(&self, at: usize) -> Arc<before::Binding> {
        before(at, self.specs[at].clone(), 1)
    }

    /// The binding has another address and audience.
    pub(crate) fn moved(&self, at: usize, turn: usize) -> (Arc<str>, Observed) {
        observed(at, spec(at + turn * 7), 0)
    }

    pub(crate) fn moved_before(&self, at: usize, turn: usize) -> Arc<before::Binding> {
        before(at, spec(at + turn * 7), 0)
    }
}

fn observed(at: usize, spec: CredentialBindingSpec, turn: i64) -> (Arc<str>, Observed) {
    let name = name(at);
    let metadata = Metadata {
        uid: format!("b0000000-0000-4000-8000-{at:012x}").into(),
        resource_version: format!("{}", 2_000_000 + at).into(),
        generation: 1,
        created: created(at),
        owners: [format!("5ec00000-0000-4000-8000-{at:012x}").into()].into(),
        deleting: false,
    };
    let observed = Observed::new(NAMESPACE, &name, metadata, Some(spec), status(turn));
    (name, observed)
}

fn before(at: usize, spec: CredentialBindingSpec, turn: i64) -> Arc<before::Binding> {
    Arc::new(before::Binding {
        name: name(at).to_string(),
        created: created(at),
        spec: Some(spec),
        status: status(turn),
    })
}

fn created(at: usize) -> Option<Timestamp> {
    Timestamp::from_second(1_700_000_000 + i64::try_from(at).unwrap()).ok()
}

fn status(turn: i64) -> CredentialBindingStatus {
    let time = |seconds| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
    let node = |at: usize| {
        json!({
            "name": format!("ip-10-0-{at}-23.eu-central-1.compute.internal"),
            "observedGeneration": 1, "state": "Ready", "expiresAt": time(3600 * (turn + 1)),
            "lastRotation": time(3600 * turn), "rotations": turn,
        })
    };
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": time(0), "observedGeneration": 1,
        })
    };
    let status = json!({
        "nodes": (0..NODES).map(node).collect::<Vec<_>>(),
        "conditions": [
            condition("Ready", "True", "ready", "valid credentials are on 3 nodes"),
            condition("Degraded", "False", "as-expected", ""),
        ],
    });
    serde_json::from_value(status).unwrap()
}

fn spec(at: usize) -> CredentialBindingSpec {
    match at % 10 {
        0 => cluster(at, &format!("https://cluster-{at}.example.org:6443")),
        1 => registry(at, None, "docker-config", json!(null)),
        _ => {
            let project = format!("project-{}", at % 200);
            let proxy = json!({"keySha256": [format!("{at:064x}")], "type": "oci"});
            registry(at, Some(&project), "proxy", proxy)
        }
    }
}

fn registry(
    at: usize,
    project: Option<&str>,
    delivery: &str,
    proxy: Value,
) -> CredentialBindingSpec {
    let host = format!("registry-{}.example.org", at % 5);
    let account = match project {
        Some(project) => format!("argocd-project-{project}"),
        None => "argocd-global".to_owned(),
    };
    let spec = json!({
        "target": {"type": "Registry", "address": format!("{host}/team-{at}/charts")},
        "project": project,
        "provider": "spiffe",
        "identity": {
            "subject": format!("spiffe://example.org/ns/argocd/sa/{account}"),
            "audience": host, "serviceAccount": account, "credential": "SpiffeJWT",
        },
        "exchange": {
            "type": "quay", "authUrl": format!("https://{host}/oauth2/federation/robot/token"),
            "username": format!("{}+puller", project.unwrap_or("global")),
        },
        "delivery": delivery,
        "consumers": ["argocd-repo-server"],
        "proxy": proxy,
    });
    serde_json::from_value(spec).unwrap()
}

fn cluster(at: usize, server: &str) -> CredentialBindingSpec {
    let spec = json!({
        "target": {"type": "Cluster", "address": server},
        "provider": "spiffe",
        "identity": {
            "subject": "spiffe://example.org/ns/argocd/sa/argocd-application-controller",
            "audience": format!("cluster-{at}"),
            "serviceAccount": "argocd-application-controller", "credential": "SpiffeJWT",
        },
        "exchange": {"type": "none"},
        "delivery": "exec",
        "consumers": ["argocd-application-controller", "argocd-server"],
    });
    serde_json::from_value(spec).unwrap()
}
