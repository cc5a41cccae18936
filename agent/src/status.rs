//! Writes this node's entry in the bindings' status. [`Reports`] flow in,
//! server-side apply requests flow out: one per binding and change, the newest
//! report only, tried again until it is written. A credential never waits for
//! any of this.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::binding::{GROUP, KIND, NodeStatus, VERSION};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::bindings::resource;
use crate::demand::BindingRef;
use crate::report::Reports;

/// First wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// For one request.
const PATIENCE: Duration = Duration::from_secs(15);
/// Changes of one burst (a pod that starts, a rotation) are written together.
const GATHER: Duration = Duration::from_millis(200);
/// Prefix of the field manager; each node owns its own entry.
const MANAGER: &str = "argocd-identity-agent/";
/// Longest field manager that the API server accepts.
const LONGEST_MANAGER: usize = 128;

/// Writes until the engine is gone.
pub async fn write(client: Client, node: String, mut reports: watch::Receiver<Reports>) {
    let mut written = Written::default();
    let mut wait = FIRST_WAIT;
    loop {
        let wanted = reports.borrow_and_update().clone();
        let mut failed = false;
        for (binding, change) in written.changes(&wanted) {
            match apply(&client, &node, &binding, change.as_ref()).await {
                Ok(()) => written.note(binding, change),
                Err(error) => {
                    failed = true;
                    tracing::warn!(%binding, "status is not written, it is tried again: {error}");
                }
            }
        }
        if failed {
            // A newer report does not shorten the wait: it is the API server
            // that is in trouble, and every node would hurry.
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            if reports.has_changed().is_err() {
                return;
            }
        } else {
            wait = FIRST_WAIT;
            if reports.changed().await.is_err() {
                return;
            }
            tokio::time::sleep(GATHER).await;
        }
    }
}

/// What was written last, so that only transitions are written.
#[derive(Debug, Default)]
struct Written {
    nodes: BTreeMap<BindingRef, NodeStatus>,
    /// Entries of an earlier process that were removed.
    removed: BTreeSet<BindingRef>,
}

impl Written {
    /// What to write: an entry, or its removal (`None`).
    fn changes(&mut self, wanted: &Reports) -> Vec<(BindingRef, Option<NodeStatus>)> {
        // An entry that came back must be removable again.
        self.removed.retain(|binding| wanted.left.contains(binding));
        let entries = wanted
            .nodes
            .iter()
            .filter(|(binding, status)| self.nodes.get(binding) != Some(status))
            .map(|(binding, status)| (binding.clone(), Some(status.clone())));
        let gone = self
            .nodes
            .keys()
            .chain(wanted.left.difference(&self.removed))
            .filter(|binding| !wanted.nodes.contains_key(binding))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(|binding| (binding.clone(), None));
        entries.chain(gone).collect()
    }

    fn note(&mut self, binding: BindingRef, change: Option<NodeStatus>) {
        match change {
            Some(status) => drop(self.nodes.insert(binding, status)),
            None => {
                self.nodes.remove(&binding);
                self.removed.insert(binding);
            }
        }
    }
}

/// The field manager of a node. Two nodes must never share one, or each would
/// remove the other's entry: a name that is too long is replaced by its hash.
fn manager(node: &str) -> String {
    if MANAGER.len() + node.len() <= LONGEST_MANAGER {
        return format!("{MANAGER}{node}");
    }
    let hash = Sha256::digest(node.as_bytes());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{MANAGER}{hash}")
}

/// The whole of what this node's field manager owns: its entry, or nothing.
fn document(binding: &BindingRef, status: Option<&NodeStatus>) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": {"namespace": binding.namespace, "name": binding.name},
        "status": {"nodes": status.into_iter().collect::<Vec<_>>()},
    })
}

async fn apply(
    client: &Client,
    node: &str,
    binding: &BindingRef,
    status: Option<&NodeStatus>,
) -> Result<(), String> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &binding.namespace, &resource());
    let params = PatchParams::apply(&manager(node)).force();
    let document = Patch::Apply(document(binding, status));
    let request = api.patch_status(&binding.name, &params, &document);
    match timeout(PATIENCE, request).await {
        Ok(Ok(_)) => Ok(()),
        // The binding is gone, and its status with it.
        Ok(Err(kube::Error::Api(error))) if error.code == 404 => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use shared::binding::NodeState;

    use super::*;
    use crate::demand::tests::reference;

    fn status(rotations: u64) -> NodeStatus {
        NodeStatus {
            name: "node-a".into(),
            observed_generation: 1,
            state: NodeState::Ready,
            expires_at: Some(Timestamp::from_second(60).unwrap()),
            last_rotation: None,
            rotations,
            error: None,
        }
    }

    fn reports(nodes: &[(&str, u64)], left: &[&str]) -> Reports {
        Reports {
            nodes: nodes
                .iter()
                .map(|(name, n)| (reference(name), status(*n)))
                .collect(),
            left: left.iter().map(|name| reference(name)).collect(),
            ..Reports::default()
        }
    }

    #[test]
    fn only_transitions_are_written() {
        let mut written = Written::default();
        let mut write = |wanted: &Reports| -> Vec<(String, Option<u64>)> {
            let changes = written.changes(wanted);
            let shown = changes
                .iter()
                .map(|(binding, status)| {
                    (binding.name.clone(), status.as_ref().map(|it| it.rotations))
                })
                .collect();
            for (binding, change) in changes {
                written.note(binding, change);
            }
            shown
        };
        let first = reports(&[("a", 1), ("b", 1)], &["old"]);
        assert_eq!(
            write(&first),
            [
                ("a".into(), Some(1)),
                ("b".into(), Some(1)),
                ("old".into(), None)
            ]
        );
        assert_eq!(write(&first), []);
        let second = reports(&[("a", 2)], &["old", "b"]);
        assert_eq!(write(&second), [("a".into(), Some(2)), ("b".into(), None)]);
        assert_eq!(write(&second), []);
        // The watch has seen both removals; then a consumer of `b` comes and goes.
        assert_eq!(write(&reports(&[("a", 2)], &[])), []);
        assert_eq!(
            write(&reports(&[("a", 2), ("b", 1)], &[])),
            [("b".into(), Some(1))]
        );
        assert_eq!(write(&reports(&[("a", 2)], &["b"])), [("b".into(), None)]);
    }

    #[test]
    fn every_node_has_a_field_manager_of_its_own() {
        assert_eq!(manager("node-a"), "argocd-identity-agent/node-a");
        let long = |end| manager(&format!("{}{end}", "n".repeat(252)));
        assert!(long("a").len() <= LONGEST_MANAGER);
        assert_ne!(long("a"), long("b"));
    }

    #[test]
    fn the_document_names_this_nodes_entry_only() {
        let document = document(&reference("a"), Some(&status(3)));
        assert_eq!(
            document,
            json!({
                "apiVersion": "workload-identity.dev/v1alpha1",
                "kind": "CredentialBinding",
                "metadata": {"namespace": "argocd", "name": "a"},
                "status": {"nodes": [{
                    "name": "node-a", "observedGeneration": 1, "state": "Ready",
                    "expiresAt": "1970-01-01T00:01:00Z", "rotations": 3,
                }]},
            })
        );
    }
}
