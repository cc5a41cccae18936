//! What agents and the controller report of a binding.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::errors::Named;

/// What agents and controller report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CredentialBindingStatus {
    /// `Ready` and `Degraded`, written by the controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// One entry per node with a consumer, each written by that node's agent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeStatus>,
    /// The earliest expiry over all nodes, written by the controller while
    /// something is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What one node has of a binding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node's name.
    pub name: String,
    /// The `metadata.generation` of the binding that this speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// Whether consumers on the node have a valid credential.
    pub state: NodeState,
    /// When the credential that is delivered now expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rotation: Option<Timestamp>,
    /// How many credentials this agent has delivered since it started.
    #[serde(default)]
    pub rotations: u64,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<NodeError>,
}

/// Whether consumers on a node have a valid credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// There is a valid credential, and the last refresh worked.
    Ready,
    /// The first credential is being obtained.
    Pending,
    /// There is no valid credential, or the last refresh failed.
    Degraded,
}

/// A named error as a status carries it. The code stays text, so that an older
/// controller can show a newer agent's code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeError {
    /// A code of the catalogue.
    pub code: String,
    /// Detail and remedy.
    pub message: String,
}

impl From<&Named> for NodeError {
    fn from(error: &Named) -> Self {
        Self {
            code: error.code.as_str().to_owned(),
            message: error.to_string(),
        }
    }
}

/// A condition, in the shape of `metav1.Condition`. `reason` is a catalogue
/// code where something is wrong, so it is in kebab case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Ready` or `Degraded`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word; a catalogue code where something is wrong.
    pub reason: String,
    /// The whole sentence.
    #[serde(default)]
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
    /// The generation that this speaks of.
    #[serde(default)]
    pub observed_generation: i64,
}
