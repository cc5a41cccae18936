//! A CredentialBinding as the controller keeps it: what the API server has
//! flows in, what conditions and plans are made from flows out. Pure.
//!
//! There may be tens of thousands of them, so the spec itself is not kept: its
//! [`Print`] tells whether it is the one that the Secret asks for.

use std::{
    borrow::Cow,
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
};

use jiff::Timestamp;
use shared::{
    binding::{
        Condition, CredentialBindingSpec, CredentialBindingStatus, CredentialKind, Delivery,
        ExchangeKind, NodeError, NodeState, NodeStatus, undeliverable,
    },
    errors::{Code, Named},
};

use super::condition::{DEGRADED, READY, WORDS};
use crate::{
    derive::{account, object_name},
    proxy_key::accepted::Former,
};

/// A binding as it was seen: what is kept, and the spec, which is not.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// What is kept.
    pub binding: Binding,
    /// The spec; `None` if it does not have the shape of one.
    pub spec: Option<CredentialBindingSpec>,
}

/// What the API server says of every object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    /// Its uid.
    pub uid: Box<str>,
    /// The version that was seen.
    pub resource_version: Box<str>,
    /// The spec's generation.
    pub generation: i64,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// The uids of its owners.
    pub owners: Box<[Box<str>]>,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// What the controller needs to know of a binding.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// What every object has.
    pub metadata: Metadata,
    /// Of its spec; `None` if that does not have the shape of one.
    pub spec: Option<SpecView>,
    /// Of its status.
    pub status: StatusView,
}

/// What is kept of a spec.
#[derive(Debug, Clone, PartialEq)]
pub struct SpecView {
    /// Tells it from others.
    pub print: Print,
    /// Service accounts whose pods may have the credential.
    pub consumers: Arc<[Arc<str>]>,
    /// Whether the credential travels by the credential proxy.
    pub is_proxied: bool,
    /// The service account without which there is no credential.
    pub account: Option<Arc<str>>,
    /// The kind of proof.
    pub credential: CredentialKind,
    /// The exchange.
    pub exchange: ExchangeKind,
    /// Why this version delivers nothing for it, if so.
    pub undeliverable: Option<Box<Named>>,
    /// What its keys and its place are compared with.
    pub former: Former,
}

/// What is kept of a status; empty if it does not have the shape of one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StatusView {
    /// What the controller wrote last.
    pub conditions: Box<[ConditionView]>,
    /// What nodes report.
    pub nodes: Box<[NodeView]>,
    /// The expiry that the controller wrote last.
    pub expires_at: Option<Timestamp>,
}

/// What is kept of a condition.
#[derive(Debug, Clone, PartialEq)]
pub struct ConditionView {
    /// [`READY`] or [`DEGRADED`].
    pub kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// One word, in most cases one of the catalogue.
    pub reason: Cow<'static, str>,
    /// The whole sentence.
    pub message: Box<str>,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
    /// The generation that this speaks of.
    pub observed_generation: i64,
}

/// What is kept of a node's report.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// The node's name.
    pub name: Arc<str>,
    /// Whether it speaks of an earlier generation.
    pub is_behind: bool,
    /// Whether consumers on the node have a valid credential.
    pub state: NodeState,
    /// When that expires.
    pub expires_at: Option<Timestamp>,
    /// Why the last attempt failed.
    pub error: Option<Box<NodeError>>,
}

/// Tells specs apart within one process. Two specs have the same print by a
/// chance of 1 in 2^128, under keys that are drawn at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Print([u64; 2]);

impl Print {
    /// The print of a spec.
    pub fn of(spec: &CredentialBindingSpec) -> Self {
        static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);
        // A spec is made of strings and lists: it is always written.
        let text = serde_json::to_vec(spec).unwrap_or_default();
        Self([KEYS[0].hash_one(&text), KEYS[1].hash_one(&text)])
    }
}

impl Observed {
    /// The binding `namespace/name`, of what the API server has.
    pub fn new(
        namespace: &str,
        name: &str,
        metadata: Metadata,
        spec: Option<CredentialBindingSpec>,
        status: CredentialBindingStatus,
    ) -> Self {
        let status = StatusView::new(status, metadata.generation);
        let view = |spec| SpecView::new(&object_name(namespace, name), spec);
        Self {
            binding: Binding {
                metadata,
                spec: spec.as_ref().map(view),
                status,
            },
            spec,
        }
    }
}

impl Binding {
    /// Whether the Secret with this uid owns it.
    pub fn is_owned_by(&self, uid: &str) -> bool {
        self.metadata.owners.iter().any(|owner| **owner == *uid)
    }

    /// What was last written of a condition.
    pub fn condition(&self, kind: &str) -> Option<&ConditionView> {
        let mut written = self.status.conditions.iter();
        written.find(|condition| condition.kind == kind)
    }
}

impl SpecView {
    fn new(object: &str, spec: &CredentialBindingSpec) -> Self {
        let account = || spec.identity.service_account.as_str().into();
        Self {
            print: Print::of(spec),
            consumers: spec
                .consumers
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            is_proxied: spec.delivery == Delivery::Proxy,
            account: account::is_needed(spec).then(account),
            credential: spec.identity.credential,
            exchange: spec.exchange.kind,
            undeliverable: undeliverable(object, spec).map(Box::new),
            former: Former::of(spec),
        }
    }
}

impl StatusView {
    fn new(status: CredentialBindingStatus, generation: i64) -> Self {
        let conditions = status.conditions.into_iter();
        let nodes = status.nodes.into_iter();
        Self {
            // Others' are none of the controller's business.
            conditions: conditions.filter_map(ConditionView::new).collect(),
            nodes: nodes.map(|node| NodeView::new(node, generation)).collect(),
            expires_at: status.expires_at,
        }
    }
}

impl ConditionView {
    fn new(condition: Condition) -> Option<Self> {
        let word = |word: &str| WORDS.into_iter().find(|known| *known == word);
        let reason = word(&condition.reason);
        let code = || Code::from_name(&condition.reason).map(Code::as_str);
        Some(Self {
            kind: [READY, DEGRADED]
                .into_iter()
                .find(|kind| *kind == condition.kind)?,
            status: word(&condition.status).unwrap_or_default(),
            reason: match reason.or_else(code) {
                Some(known) => Cow::Borrowed(known),
                None => Cow::Owned(condition.reason),
            },
            message: condition.message.into(),
            last_transition_time: condition.last_transition_time,
            observed_generation: condition.observed_generation,
        })
    }
}

impl From<&ConditionView> for Condition {
    fn from(view: &ConditionView) -> Self {
        Self {
            kind: view.kind.to_owned(),
            status: view.status.to_owned(),
            reason: view.reason.clone().into_owned(),
            message: view.message.to_string(),
            last_transition_time: view.last_transition_time,
            observed_generation: view.observed_generation,
        }
    }
}

impl NodeView {
    fn new(node: NodeStatus, generation: i64) -> Self {
        Self {
            name: node.name.into(),
            is_behind: node.observed_generation < generation,
            state: node.state,
            expires_at: node.expires_at,
            error: node.error.map(Box::new),
        }
    }
}
