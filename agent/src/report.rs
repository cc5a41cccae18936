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

/// How one binding stands, as far as its deliveries were looked at.
#[derive(Default)]
struct Standing<'a> {
    error: Option<&'a Named>,
    expires_at: Option<Timestamp>,
    missing: bool,
}

/// This node's entry of every binding that is reported here. Looks at each
/// delivery once.
pub fn node_statuses(
    node: &str,
    demand: &Demand,
    machine: &Machine<Key, Holder, Credential>,
    rotations: &BTreeMap<BindingRef, Rotation>,
    store_errors: &BTreeMap<PathBuf, Named>,
) -> BTreeMap<BindingRef, NodeStatus> {
    let mut standings: BTreeMap<&BindingRef, Standing<'_>> = BTreeMap::new();
    for binding in demand.served.keys() {
        let error = demand.refused.get(binding);
        let standing = Standing {
            error,
            ..Standing::default()
        };
        standings.insert(binding, standing);
    }
    for (volume, slots) in &demand.volumes {
        for (key, holder) in slots.values().flatten() {
            let standing = standings.entry(&holder.binding).or_default();
            let of_machine = machine.standing(key, holder);
            match of_machine.as_ref().and_then(|it| it.held) {
                Some(lease) => {
                    let seconds = Timestamp::from_second(lease.expires_at.as_second());
                    let sooner = standing.expires_at.into_iter().chain(seconds).min();
                    standing.expires_at = sooner;
                }
                None => standing.missing = true,
            }
            standing.error = standing
                .error
                .or_else(|| store_errors.get(volume))
                .or_else(|| of_machine.and_then(|it| it.error));
        }
    }
    let status = |(binding, generation): (&BindingRef, &i64)| {
        let standing = standings.remove(binding).unwrap_or_default();
        let rotation = rotations.get(binding);
        let status = NodeStatus {
            name: node.to_owned(),
            observed_generation: *generation,
            state: match (standing.error, standing.missing) {
                (Some(_), _) => NodeState::Degraded,
                (None, true) => NodeState::Pending,
                (None, false) => NodeState::Ready,
            },
            expires_at: standing.expires_at,
            // Whole seconds: what Kubernetes stores and people read.
            last_rotation: rotation
                .and_then(|it| it.at)
                .and_then(|at| Timestamp::from_second(at.as_second()).ok()),
            rotations: rotation.map_or(0, |it| it.count),
            error: standing.error.map(NodeError::from),
        };
        (binding.clone(), status)
    };
    demand.served.iter().map(status).collect()
}
