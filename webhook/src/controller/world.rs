//! What the watches have said so far: events flow in, keys to look at flow
//! out. Pure; tests push objects straight in.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use control_plane_core::derive::account::{self, Annotations};
use k8s_openapi::api::core::v1::{Node, Secret, ServiceAccount};
use kube::{
    core::{DynamicObject, PartialObjectMeta},
    runtime::watcher::Event,
};
use shared::{
    binding::Delivery,
    conflicts::{self, Claim},
    errors::{Code, Named},
};

use super::{binding::Binding, pod::RepoServer};

/// A Secret and its binding, which share a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace of both.
    pub namespace: String,
    /// The name of both.
    pub name: String,
}

/// An event of one of the watches, with its namespace.
#[derive(Debug)]
pub enum Change {
    /// Of Argo CD's Secrets.
    Secret(String, Event<PartialObjectMeta<Secret>>),
    /// Of service accounts.
    ServiceAccount(String, Event<PartialObjectMeta<ServiceAccount>>),
    /// Of bindings.
    Binding(String, Event<DynamicObject>),
    /// Of pods.
    Pod(String, Event<DynamicObject>),
    /// Of nodes.
    Node(Event<PartialObjectMeta<Node>>),
    /// The installation's keys are others.
    Keys,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct World {
    namespaces: HashMap<String, Namespace>,
    nodes: Tracked<()>,
}

#[derive(Debug, Default)]
struct Namespace {
    secrets: Tracked<()>,
    service_accounts: Tracked<Annotations>,
    bindings: Tracked<Arc<Binding>>,
    /// Pods that are no repo-server count as one that is not there.
    pods: Tracked<Option<RepoServer>>,
}

/// What is known about one binding's surroundings at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The binding, if there is one.
    pub binding: Option<Arc<Binding>>,
    /// Why it has to stand back for another one.
    pub conflict: Option<Named>,
    /// All nodes; `None` while they are not known.
    pub nodes: Option<BTreeSet<String>>,
    /// The namespace's service accounts; `None` while they are not known.
    pub service_accounts: Option<BTreeSet<String>>,
    /// Running repo-servers that lack the credential proxy which the binding
    /// needs.
    pub unproxied: Vec<String>,
}

impl Snapshot {
    /// Names the repo-servers that lack the credential proxy.
    pub fn without_proxy(&self) -> Option<Named> {
        let (first, more) = self.unproxied.split_first()?;
        let more = match more.len() {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        let detail = format!("pod {first}{more}");
        Some(Named::new(Code::ProxyNotInjected, detail))
    }
}

impl World {
    /// Takes in an event. Returns what has to be looked at because of it.
    pub fn apply(&mut self, change: Change) -> BTreeSet<Key> {
        match change {
            Change::Secret(namespace, event) => {
                let secrets = &mut self.namespace(&namespace).secrets;
                let deltas = secrets.apply(event, |secret| {
                    (secret.metadata.name.unwrap_or_default(), ())
                });
                let names = deltas.into_iter().map(|delta| delta.name);
                names.map(|name| key(&namespace, name)).collect()
            }
            Change::ServiceAccount(namespace, event) => {
                let known = self.namespace(&namespace);
                let named = |account: PartialObjectMeta<ServiceAccount>| {
                    let annotations = Annotations::read(account.metadata.annotations.as_ref());
                    (account.metadata.name.unwrap_or_default(), annotations)
                };
                let deltas = known.service_accounts.apply(event, named);
                // Of one that stays, only what a binding takes from it is of
                // interest, and of a consumer nothing.
                let changed: BTreeMap<_, _> = deltas
                    .into_iter()
                    .filter(|delta| delta.before != delta.after)
                    .map(|delta| (delta.name, delta.before.is_some() != delta.after.is_some()))
                    .collect();
                let came_or_went = |name: &String| changed.get(name).is_some_and(|it| *it);
                let concerns = |binding: &Binding| {
                    binding.spec.as_ref().is_some_and(|spec| {
                        spec.consumers.iter().any(came_or_went)
                            || (account::is_needed(spec)
                                && changed.contains_key(&spec.identity.service_account))
                    })
                };
                known.keys_of_bindings(&namespace, concerns).collect()
            }
            Change::Binding(namespace, event) => {
                let known = self.namespace(&namespace);
                let deltas = known.bindings.apply(event, |object| {
                    let binding = Binding::from(object);
                    (binding.name.clone(), Arc::new(binding))
                });
                let mut keys = BTreeSet::new();
                for delta in deltas {
                    let specs = [&delta.before, &delta.after]
                        .map(|binding| binding.as_ref().and_then(|binding| binding.spec.as_ref()));
                    // Status changes are frequent, and rivals do not care.
                    if specs[0] != specs[1] {
                        let is_rival = |other: &Binding| {
                            let others = other.spec.as_ref();
                            specs.into_iter().flatten().any(|spec| {
                                others.is_some_and(|other| conflicts::are_rivals(spec, other))
                            })
                        };
                        keys.extend(known.keys_of_bindings(&namespace, is_rival));
                    }
                    keys.insert(key(&namespace, delta.name));
                }
                keys
            }
            Change::Pod(namespace, event) => {
                let known = self.namespace(&namespace);
                let deltas = known.pods.apply(event, RepoServer::read);
                // Only running repo-servers without the proxy are of interest.
                let lacking = |pod: &Option<Option<RepoServer>>| {
                    let pod = pod.as_ref().and_then(Option::as_ref);
                    pod.and_then(RepoServer::lacks_proxy).map(str::to_owned)
                };
                let changed: BTreeSet<_> = deltas
                    .iter()
                    .filter(|delta| lacking(&delta.before) != lacking(&delta.after))
                    .flat_map(|delta| [lacking(&delta.before), lacking(&delta.after)])
                    .flatten()
                    .collect();
                let concerns = |binding: &Binding| {
                    changed
                        .iter()
                        .any(|account| needs_proxy_in(binding, account))
                };
                known.keys_of_bindings(&namespace, concerns).collect()
            }
            Change::Keys => {
                let namespaces = self.namespaces.iter();
                namespaces
                    .flat_map(|(namespace, known)| {
                        let names = known.secrets.current.keys();
                        names.map(|name| key(namespace, name.clone()))
                    })
                    .collect()
            }
            Change::Node(event) => {
                let was_synced = self.nodes.synced;
                let deltas = self
                    .nodes
                    .apply(event, |node| (node.metadata.name.unwrap_or_default(), ()));
                let came_or_went = deltas
                    .iter()
                    .any(|delta| delta.before.is_some() != delta.after.is_some());
                if !self.nodes.synced || (was_synced && !came_or_went) {
                    return BTreeSet::new();
                }
                // After a list there may be entries of nodes that went unseen.
                let nodes = &self.nodes.current;
                let has_vanished = |binding: &Binding| {
                    let mut entries = binding.status.nodes.iter();
                    entries.any(|entry| !nodes.contains_key(&entry.name))
                };
                let namespaces = self.namespaces.iter();
                namespaces
                    .flat_map(|(name, known)| known.keys_of_bindings(name, has_vanished))
                    .collect()
            }
        }
    }

    /// Whether the namespace's bindings have been listed; before that, nothing
    /// can be said about them.
    pub fn is_known(&self, namespace: &str) -> bool {
        self.namespaces
            .get(namespace)
            .is_some_and(|known| known.bindings.synced)
    }

    /// What is known about one binding and its surroundings now.
    pub fn snapshot(&self, key: &Key) -> Snapshot {
        let known = self.namespaces.get(&key.namespace);
        let binding = known
            .and_then(|known| known.bindings.current.get(&key.name))
            .cloned();
        let conflict = known.zip(binding.as_ref()).and_then(|(known, binding)| {
            let all = known.bindings.current.values();
            let claims = all.filter(|other| !other.deleting).filter_map(|other| {
                Some(Claim {
                    name: &other.name,
                    created: other.created,
                    spec: other.spec.as_ref()?,
                })
            });
            conflicts::conflicts(claims).remove(binding.name.as_str())
        });
        let unproxied = known.zip(binding.as_deref()).map(|(known, binding)| {
            let pods = known.pods.current.iter();
            let lacking = pods.filter(|(_, pod)| {
                let account = pod.as_ref().and_then(RepoServer::lacks_proxy);
                account.is_some_and(|account| needs_proxy_in(binding, account))
            });
            lacking.map(|(name, _)| name.clone()).collect()
        });
        Snapshot {
            unproxied: unproxied.unwrap_or_default(),
            binding,
            conflict,
            nodes: self.nodes.names(),
            service_accounts: known.and_then(|known| known.service_accounts.names()),
        }
    }

    fn namespace(&mut self, name: &str) -> &mut Namespace {
        self.namespaces.entry(name.to_owned()).or_default()
    }
}

impl Namespace {
    fn keys_of_bindings(
        &self,
        namespace: &str,
        matches: impl Fn(&Binding) -> bool,
    ) -> impl Iterator<Item = Key> {
        let bindings = self.bindings.current.values();
        bindings
            .filter(move |binding| matches(binding))
            .map(move |binding| key(namespace, binding.name.clone()))
    }
}

/// Whether pods of this service account serve the binding by the credential
/// proxy.
fn needs_proxy_in(binding: &Binding, account: &str) -> bool {
    binding.spec.as_ref().is_some_and(|spec| {
        spec.delivery == Delivery::Proxy && spec.consumers.iter().any(|name| name == account)
    })
}

fn key(namespace: &str, name: String) -> Key {
    Key {
        namespace: namespace.to_owned(),
        name,
    }
}

/// The objects of one watch, by name.
#[derive(Debug)]
struct Tracked<V> {
    current: BTreeMap<String, V>,
    /// What a list in progress has brought so far.
    listing: BTreeMap<String, V>,
    /// Whether there was a whole list.
    synced: bool,
}

impl<V> Default for Tracked<V> {
    fn default() -> Self {
        Self {
            current: BTreeMap::new(),
            listing: BTreeMap::new(),
            synced: false,
        }
    }
}

/// What an event did to one object.
struct Delta<V> {
    name: String,
    before: Option<V>,
    after: Option<V>,
}

impl<V: Clone> Tracked<V> {
    fn apply<K>(&mut self, event: Event<K>, read: impl Fn(K) -> (String, V)) -> Vec<Delta<V>> {
        match event {
            Event::Init => {
                self.listing.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let (name, value) = read(object);
                self.listing.insert(name, value);
                Vec::new()
            }
            Event::InitDone => {
                self.synced = true;
                let before =
                    std::mem::replace(&mut self.current, std::mem::take(&mut self.listing));
                let names: BTreeSet<_> =
                    before.keys().chain(self.current.keys()).cloned().collect();
                let delta = |name: String| Delta {
                    before: before.get(&name).cloned(),
                    after: self.current.get(&name).cloned(),
                    name,
                };
                names.into_iter().map(delta).collect()
            }
            Event::Apply(object) => {
                let (name, value) = read(object);
                let before = self.current.insert(name.clone(), value.clone());
                vec![Delta {
                    name,
                    before,
                    after: Some(value),
                }]
            }
            Event::Delete(object) => {
                let (name, _) = read(object);
                let before = self.current.remove(&name);
                vec![Delta {
                    name,
                    before,
                    after: None,
                }]
            }
        }
    }

    fn names(&self) -> Option<BTreeSet<String>> {
        self.synced.then(|| self.current.keys().cloned().collect())
    }
}

#[cfg(test)]
mod tests;
