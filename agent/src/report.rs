//! How bindings stand on this node. PURE: the machine's state flows in, the
//! node's entry in a binding's status flows out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::Timestamp;
use shared::binding::{NodeError, NodeState, NodeStatus};
use shared::errors::Named;

use crate::demand::{BindingRef, Demand, EmptyVolume, Holder, Key};
use crate::exchange::Credential;
use crate::refresh::Machine;

/// All that is to be reported.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reports {
    /// This node's entry of every binding with a consumer here.
    pub nodes: BTreeMap<BindingRef, NodeStatus>,
    /// Bindings that have an entry of this node and no consumer here any more.
    pub left: BTreeSet<BindingRef>,
    /// Pods of this node that get nothing.
    pub empty: BTreeSet<EmptyVolume>,
}

/// Deliveries of a binding on this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotation {
    /// How many credentials, since the agent started.
    pub count: u64,
    /// When the last one came.
    pub at: Option<Timestamp>,
}

/// This node's entry for `binding`.
pub fn node_status(
    node: &str,
    binding: &BindingRef,
    generation: i64,
    demand: &Demand,
    machine: &Machine<Key, Holder, Credential>,
    rotation: Option<&Rotation>,
    store_errors: &BTreeMap<PathBuf, Named>,
) -> NodeStatus {
    let mut error: Option<&Named> = demand.refused.get(binding);
    let mut expires_at: Option<Timestamp> = None;
    let mut missing = false;
    let deliveries = demand.volumes.iter().flat_map(|(volume, slots)| {
        let holders = slots.values().flatten();
        holders
            .filter(|(_, holder)| holder.binding == *binding)
            .map(move |(key, holder)| (volume, key, holder))
    });
    for (volume, key, holder) in deliveries {
        let standing = machine.standing(key, holder);
        match standing.as_ref().and_then(|it| it.held) {
            Some(lease) => {
                let seconds = Timestamp::from_second(lease.expires_at.as_second());
                expires_at = expires_at.into_iter().chain(seconds).min();
            }
            None => missing = true,
        }
        error = error
            .or_else(|| store_errors.get(volume))
            .or_else(|| standing.and_then(|it| it.error));
    }
    NodeStatus {
        name: node.to_owned(),
        observed_generation: generation,
        state: match (error, missing) {
            (Some(_), _) => NodeState::Degraded,
            (None, true) => NodeState::Pending,
            (None, false) => NodeState::Ready,
        },
        expires_at,
        // Whole seconds: what Kubernetes stores and people read.
        last_rotation: rotation
            .and_then(|it| it.at)
            .and_then(|at| Timestamp::from_second(at.as_second()).ok()),
        rotations: rotation.map_or(0, |it| it.count),
        error: error.map(NodeError::from),
    }
}
