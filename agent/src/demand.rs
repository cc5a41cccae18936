//! Consumers published on this node × bindings → what is wanted. PURE.
//!
//! A consumer gets what the bindings of its own namespace list its service
//! account for, and nothing else. Whatever the controller decided already is
//! decided here again where it protects something: a credential of a project
//! never enters the pod-wide Docker configuration, one host there has one
//! identity, and one audience goes to one exchange. A pod may have two volumes,
//! one for each [`View`]; a binding is put into one of them only.

mod route;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use secrecy::SecretString;
use shared::binding::{
    CredentialBindingSpec, CredentialKind, Delivery, ExchangeKind, TargetKind, undeliverable,
};
use shared::conflicts::{Claim, conflicts};
use shared::errors::{Code, Named};
use shared::layout;
use shared::registry::{RegistryHost, RepositoryReference};

use crate::exchange::Trade;
use crate::store::FileName;

pub use route::Route;

/// Namespace and name of a binding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindingRef {
    /// Namespace.
    pub namespace: String,
    /// Name; the same as its Secret's.
    pub name: String,
}

impl fmt::Display for BindingRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A binding, as far as the agent looks at it.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// `metadata.creationTimestamp`: the oldest wins a conflict.
    pub created_at: Timestamp,
    /// `metadata.generation`.
    pub generation: i64,
    /// `spec`.
    pub spec: CredentialBindingSpec,
    /// Whether its status has an entry of this node.
    pub reported_here: bool,
}

/// All bindings of the cluster that could be read.
pub type Bindings = BTreeMap<BindingRef, Binding>;

/// Whom a volume is for. The two see different credentials of the same pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    /// Argo CD's own containers: credentials of no project, and clusters.
    ArgoCd,
    /// The credential proxy alone: credentials of projects, too.
    Proxy,
}

impl View {
    /// The view that credentials of this delivery are put into.
    pub fn of(delivery: Delivery) -> Self {
        match delivery {
            Delivery::Proxy => Self::Proxy,
            Delivery::DockerConfig | Delivery::Exec => Self::ArgoCd,
        }
    }
}

/// A pod that kubelet published a volume to. With both views it is here twice.
#[derive(Debug, Clone)]
pub struct Consumer {
    /// The pod's UID.
    pub pod_uid: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's service account.
    pub service_account: String,
    /// Where its volume is mounted on the node.
    pub volume: PathBuf,
    /// Whom in the pod that volume is for.
    pub view: View,
    /// The pod's own token, for the control plane.
    pub token: SecretString,
    /// When that token expires.
    pub token_expires_at: Timestamp,
}

/// What is obtained once on this node, for all holders that want it.
///
/// `namespace` and `project` are part of it so that nothing ever crosses those
/// borders by sharing, whatever a binding claims as its identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Namespace of the bindings.
    pub namespace: String,
    /// Project of the bindings.
    pub project: Option<String>,
    /// The kind of proof.
    pub credential: CredentialKind,
    /// The identity's subject.
    pub subject: String,
    /// The service account that stands for the project.
    pub service_account: String,
    /// The audience.
    pub audience: String,
    /// What the identity is traded for; without it the identity itself is the
    /// credential (clusters, certificates).
    pub trade: Option<Trade>,
}

/// Who has a credential: the pods of one service account, through one binding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The binding.
    pub binding: BindingRef,
    /// The consumers' service account.
    pub service_account: String,
}

/// Where a credential is put in a volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// A host of the Docker configuration, by its key there.
    Docker(RegistryHost),
    /// A file in `clusters/`.
    Cluster(FileName),
    /// A file of the credential proxy's view, which is there without a
    /// credential, too: the proxy waits for the first one of a host it knows.
    Proxy(Box<Route>),
}

/// A pod whose volume stays empty, because no binding of its namespace names its
/// service account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EmptyVolume {
    /// The pod's UID.
    pub pod_uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's service account.
    pub service_account: String,
    /// The service accounts that bindings of the namespace do name; `None`
    /// while the namespace has no binding.
    pub consumers: Option<BTreeSet<String>>,
}

/// What is wanted.
#[derive(Debug, Default, PartialEq)]
pub struct Demand {
    /// What to obtain, and for whom, with each binding's generation.
    pub wanted: BTreeMap<Key, BTreeMap<Holder, i64>>,
    /// What each volume has to hold. Several holders of one slot have the same key.
    pub volumes: BTreeMap<PathBuf, BTreeMap<Slot, Vec<(Key, Holder)>>>,
    /// Bindings that are reported here, with their generation: those that a
    /// volume of this node has, and those that no volume of a consumer can have.
    pub served: BTreeMap<BindingRef, i64>,
    /// Those of them that cannot be delivered.
    pub refused: BTreeMap<BindingRef, Named>,
    /// Consumers that no binding names.
    pub empty: BTreeSet<EmptyVolume>,
}

/// Computes what is wanted. The same input gives the same output.
pub fn demand<'a>(
    consumers: impl IntoIterator<Item = &'a Consumer>,
    bindings: &Bindings,
) -> Demand {
    let offers = offers(bindings);
    let mut demand = Demand::default();
    for consumer in consumers {
        let slots = demand.volumes.entry(consumer.volume.clone()).or_default();
        let mut consumers: Option<BTreeSet<String>> = None;
        for (reference, binding) in bindings {
            if reference.namespace != consumer.namespace {
                continue;
            }
            let named = &binding.spec.consumers;
            consumers
                .get_or_insert_default()
                .extend(named.iter().cloned());
            if !named.contains(&consumer.service_account) {
                continue;
            }
            match offers.get(reference) {
                // The pod has another volume for it, or is older than the binding.
                Some(Ok(_)) if View::of(binding.spec.delivery) != consumer.view => {}
                Some(Ok((key, slot))) => {
                    demand.served.insert(reference.clone(), binding.generation);
                    let holder = Holder {
                        binding: reference.clone(),
                        service_account: consumer.service_account.clone(),
                    };
                    demand
                        .wanted
                        .entry(key.clone())
                        .or_default()
                        .insert(holder.clone(), binding.generation);
                    slots
                        .entry(slot.clone())
                        .or_default()
                        .push((key.clone(), holder));
                }
                Some(Err(error)) => {
                    demand.served.insert(reference.clone(), binding.generation);
                    demand.refused.insert(reference.clone(), error.clone());
                }
                None => {}
            }
        }
        let is_named = |all: &BTreeSet<String>| all.contains(&consumer.service_account);
        if !consumers.as_ref().is_some_and(is_named) {
            demand.empty.insert(EmptyVolume {
                pod_uid: consumer.pod_uid.clone(),
                namespace: consumer.namespace.clone(),
                pod: consumer.pod.clone(),
                service_account: consumer.service_account.clone(),
                consumers,
            });
        }
    }
    demand
}

type Offer = Result<(Key, Slot), Named>;

/// What each binding offers to its consumers, conflicts resolved.
fn offers(bindings: &Bindings) -> BTreeMap<&BindingRef, Offer> {
    let mut offers: BTreeMap<_, _> = bindings
        .iter()
        .map(|(reference, binding)| (reference, offer(reference, &binding.spec)))
        .collect();
    // References sort by namespace first, so each chunk is one.
    let bindings: Vec<_> = bindings.iter().collect();
    for namespace in bindings.chunk_by(|(a, _), (b, _)| a.namespace == b.namespace) {
        let claims = namespace.iter().map(|(reference, binding)| Claim {
            name: &reference.name,
            created: Some(binding.created_at),
            spec: &binding.spec,
        });
        let losers = conflicts(claims);
        for (reference, _) in namespace {
            if let Some(conflict) = losers.get(reference.name.as_str()) {
                offers.insert(reference, Err(conflict.clone()));
            }
        }
    }
    offers
}

/// What one binding offers, looked at alone.
fn offer(reference: &BindingRef, spec: &CredentialBindingSpec) -> Offer {
    let refuse = |code, detail: &str| Named::new(code, format!("binding {reference}: {detail}"));
    if let Some(error) = undeliverable(&format!("binding {reference}"), spec) {
        return Err(error);
    }
    let trade = |host: &RegistryHost| {
        Trade::of(spec, host).map_err(|error| refuse(error.code, &error.detail))
    };
    let (slot, trade) = match (spec.delivery, spec.target.kind) {
        (Delivery::Exec, TargetKind::Cluster) => {
            let file = layout::cluster_file(&reference.name)
                .ok()
                .and_then(|path| FileName::of(path).ok())
                .ok_or_else(|| refuse(Code::InvalidSecret, "its name cannot be a file name"))?;
            if spec.exchange.kind != ExchangeKind::None {
                return Err(refuse(
                    Code::ExchangeNotAvailable,
                    "a cluster takes the token itself",
                ));
            }
            (Slot::Cluster(file), None)
        }
        // `undeliverable` says it too. This line is the one that keeps a
        // project's credential out of a pod-wide file.
        (Delivery::DockerConfig, TargetKind::Registry) if spec.project.is_none() => {
            let host = RepositoryReference::parse(&spec.target.address)
                .map_err(|error| refuse(error.code, &format!("target.address: {}", error.detail)))?
                .host;
            let trade = trade(&host)?;
            (Slot::Docker(host), trade)
        }
        (Delivery::Proxy, TargetKind::Registry) => {
            let proxy = spec
                .proxy
                .as_ref()
                .ok_or_else(|| refuse(Code::InvalidSecret, "delivery proxy without spec.proxy"))?;
            let route = Route::of(&reference.name, spec, proxy)
                .map_err(|error| refuse(error.code, &error.detail))?;
            let trade = trade(route.target())?;
            (Slot::Proxy(Box::new(route)), trade)
        }
        (delivery, target) => {
            return Err(refuse(
                Code::DeliveryNotAvailable,
                &format!("delivery {delivery:?} to a target of type {target:?}"),
            ));
        }
    };
    let key = Key {
        namespace: reference.namespace.clone(),
        project: spec.project.clone(),
        credential: spec.identity.credential,
        subject: spec.identity.subject.clone(),
        service_account: spec.identity.service_account.clone(),
        audience: spec.identity.audience.clone(),
        trade,
    };
    Ok((key, slot))
}

#[cfg(test)]
#[path = "demand_tests.rs"]
pub(crate) mod tests;
