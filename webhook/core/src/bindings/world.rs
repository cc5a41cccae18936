//! What the watches have said so far: events flow in, keys to look at flow
//! out. Pure; tests push objects straight in.
//!
//! Every event costs what it changes, however much is known: what concerns
//! whom is kept beside the objects ([`Claims`], service accounts, nodes).

mod namespace;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use shared::{
    conflicts,
    errors::{Code, Named},
};

use self::namespace::Namespace;
pub use super::listed::ListEvent;
use super::{
    binding::{Binding, Observed},
    listed::Listed,
    pod::RepoServer,
};
use crate::derive::account::Annotations;

/// A Secret and its binding, which share a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace of both.
    pub namespace: Arc<str>,
    /// The name of both.
    pub name: Arc<str>,
}

/// An event of one of the watches, with its namespace.
#[derive(Debug)]
pub enum Change {
    /// Of Argo CD's Secrets: their versions.
    Secret(Arc<str>, ListEvent<Arc<str>>),
    /// Of service accounts.
    ServiceAccount(Arc<str>, ListEvent<Annotations>),
    /// Of bindings.
    Binding(Arc<str>, ListEvent<Box<Observed>>),
    /// Of pods; `None` is one that is no repo-server.
    Pod(Arc<str>, ListEvent<Option<RepoServer>>),
    /// Of nodes.
    Node(ListEvent<()>),
    /// The installation's keys are others.
    Keys,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct World {
    namespaces: HashMap<Arc<str>, Namespace>,
    nodes: Listed<()>,
    /// How many entries bindings have of a node, which may be gone.
    reports: HashMap<Arc<str>, usize>,
}

/// What is known about one binding's surroundings at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The Secret's version; `None` if it is not there, or not known.
    pub secret: Option<Arc<str>>,
    /// The binding, if there is one.
    pub binding: Option<Arc<Binding>>,
    /// Why it has to stand back for another one.
    pub conflict: Option<Named>,
    /// Those of the nodes that report which are gone; `None` while the nodes
    /// are not known.
    pub vanished: Option<Vec<Arc<str>>>,
    /// Whether a consumer's service account is there; `None` while service
    /// accounts are not known.
    pub has_consumer: Option<bool>,
    /// The service account that the binding is made of, if it is there; `None`
    /// while service accounts are not known.
    pub account: Option<Option<Annotations>>,
    /// Running repo-servers that lack the credential proxy which the binding
    /// needs; `None` while pods are not known.
    pub unproxied: Option<Vec<Arc<str>>>,
}

impl Snapshot {
    /// Names the repo-servers that lack the credential proxy.
    pub fn without_proxy(&self) -> Option<Named> {
        let (first, more) = self.unproxied.as_ref()?.split_first()?;
        let more = match more.len() {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        let detail = format!("pod {first}{more}");
        Some(Named::new(Code::ProxyNotInjected, detail))
    }
}

impl World {
    /// Takes in an event. Returns what has to be looked at because of it;
    /// [`World::settle`] says what else.
    pub fn apply(&mut self, change: Change) -> BTreeSet<Key> {
        match change {
            Change::Secret(namespace, event) => {
                let known = self.namespace(&namespace);
                let deltas = known.secrets.apply(event).into_iter();
                let changed = deltas.filter(|delta| delta.before != delta.after);
                let names = changed.map(|delta| delta.name);
                names.map(|name| key(&namespace, name)).collect()
            }
            Change::ServiceAccount(namespace, event) => {
                let known = self.namespace(&namespace);
                let mut names = BTreeSet::new();
                let mut came_or_went = BTreeSet::new();
                for delta in known.service_accounts.apply(event) {
                    // Of one that stays, only what a binding takes from it is
                    // of interest.
                    if delta.before != delta.after {
                        names.extend(known.made_of(&delta.name));
                    }
                    if delta.before.is_some() != delta.after.is_some() {
                        came_or_went.insert(delta.name);
                    }
                }
                names.extend(known.consumed_by(&came_or_went, |_| true));
                keys(&namespace, names)
            }
            Change::Binding(namespace, event) => self.binding(&namespace, event),
            Change::Pod(namespace, event) => {
                let known = self.namespace(&namespace);
                let event = match event {
                    // Of other pods, not even the names are kept.
                    ListEvent::Apply(name, None) | ListEvent::InitApply(name, None) => {
                        ListEvent::Delete(name)
                    }
                    ListEvent::Apply(name, Some(pod)) => ListEvent::Apply(name, pod),
                    ListEvent::InitApply(name, Some(pod)) => ListEvent::InitApply(name, pod),
                    ListEvent::Delete(name) => ListEvent::Delete(name),
                    ListEvent::Init => ListEvent::Init,
                    ListEvent::InitDone => ListEvent::InitDone,
                };
                let mut accounts = BTreeSet::new();
                for delta in known.pods.apply(event) {
                    let [before, after] = [&delta.before, &delta.after]
                        .map(|pod| pod.as_ref().and_then(RepoServer::lacks_proxy).cloned());
                    if before == after {
                        continue;
                    }
                    accounts.extend([&before, &after].into_iter().flatten().cloned());
                    if let Some(pods) = before.as_ref().and_then(|it| known.lacking.get_mut(it)) {
                        pods.remove(&delta.name);
                    }
                    if let Some(account) = after {
                        known.lacking.entry(account).or_default().insert(delta.name);
                    }
                }
                known.lacking.retain(|_, pods| !pods.is_empty());
                let names = known.consumed_by(&accounts, |spec| spec.is_proxied);
                keys(&namespace, names)
            }
            Change::Keys => {
                let namespaces = self.namespaces.iter();
                namespaces
                    .flat_map(|(namespace, known)| {
                        let names = known.secrets.iter();
                        names.map(|(name, _)| key(namespace, Arc::clone(name)))
                    })
                    .collect()
            }
            Change::Node(event) => {
                let was_synced = self.nodes.is_synced();
                let deltas = self.nodes.apply(event).into_iter();
                if !self.nodes.is_synced() {
                    return BTreeSet::new();
                }
                let changed: BTreeSet<Arc<str>> = if was_synced {
                    let differs = deltas.filter(|it| it.before.is_some() != it.after.is_some());
                    let names = differs.map(|delta| delta.name);
                    names
                        .filter(|name| self.reports.contains_key(name))
                        .collect()
                } else {
                    // Before the list, nothing was known to be gone.
                    let names = self.reports.keys();
                    let gone = names.filter(|name| self.nodes.value(name).is_none());
                    gone.cloned().collect()
                };
                self.reported_by(&changed)
            }
        }
    }

    /// Brings up to date who stands back for whom, in at most `most` steps.
    /// Returns what has to be looked at, and whether nothing is left to do.
    pub fn settle(&mut self, most: usize) -> (BTreeSet<Key>, bool) {
        let mut found = BTreeSet::new();
        let mut is_settled = true;
        for (namespace, known) in &mut self.namespaces {
            if known.claims.is_settled() {
                continue;
            }
            let mut changed = Vec::new();
            is_settled &= known.claims.settle(most, &mut changed);
            found.extend(changed.into_iter().map(|name| key(namespace, name)));
            if !is_settled {
                break;
            }
        }
        (found, is_settled)
    }

    /// Namespaces whose bindings have been listed since this was asked last.
    /// Before that, nothing can be said about them.
    pub fn newly_known(&mut self) -> Vec<Arc<str>> {
        let namespaces = self.namespaces.iter_mut();
        let new = namespaces.filter(|(_, known)| known.bindings.is_synced() && !known.is_known);
        new.map(|(name, known)| {
            known.is_known = true;
            Arc::clone(name)
        })
        .collect()
    }

    /// How many namespaces are known.
    pub fn known_namespaces(&self) -> usize {
        let known = self.namespaces.values();
        known.filter(|known| known.bindings.is_synced()).count()
    }

    /// How many bindings there are.
    pub fn bindings(&self) -> usize {
        let known = self.namespaces.values();
        known.map(|known| known.bindings.len()).sum()
    }

    /// A key whose name is the same piece of memory as the Secret's.
    pub fn key(&self, namespace: &Arc<str>, name: &str) -> Key {
        let known = self.namespaces.get(namespace);
        let known = known.and_then(|known| known.secrets.shared_name(name));
        key(namespace, known.map_or_else(|| name.into(), Arc::clone))
    }

    /// What is known about one binding and its surroundings now.
    pub fn snapshot(&self, key: &Key) -> Snapshot {
        let known = self.namespaces.get(&key.namespace);
        let binding = known.and_then(|known| known.bindings.value(&key.name));
        let conflict = known.and_then(|known| known.claims.conflict(&key.name));
        let vanished = self.nodes.is_synced().then(|| {
            let reports = binding.iter().flat_map(|binding| &binding.status.nodes);
            let names = reports.map(|report| &report.name);
            names
                .filter(|it| self.nodes.value(it).is_none())
                .cloned()
                .collect()
        });
        let spec = binding.and_then(|binding| binding.spec.as_ref());
        let accounts = known.map(|known| &known.service_accounts);
        let accounts = accounts.filter(|accounts| accounts.is_synced());
        Snapshot {
            secret: known
                .and_then(|known| known.secrets.value(&key.name))
                .cloned(),
            binding: binding.cloned(),
            conflict,
            vanished,
            has_consumer: accounts.map(|accounts| {
                let mut consumers = spec.iter().flat_map(|spec| spec.consumers.iter());
                consumers.any(|name| accounts.value(name).is_some())
            }),
            account: accounts.map(|accounts| {
                let name = spec.and_then(|spec| spec.account.as_ref())?;
                accounts.value(name).cloned()
            }),
            unproxied: known.and_then(|known| known.unproxied(spec)),
        }
    }

    fn binding(&mut self, namespace: &Arc<str>, event: ListEvent<Box<Observed>>) -> BTreeSet<Key> {
        let known = self.namespaces.entry(Arc::clone(namespace)).or_default();
        let mut spec = None;
        let event = event.map(|observed| {
            let mut binding = observed.binding;
            known.share(&mut binding);
            for report in &mut binding.status.nodes {
                if let Some((name, _)) = self.reports.get_key_value(&report.name) {
                    report.name = Arc::clone(name);
                }
            }
            spec = observed.spec;
            Arc::new(binding)
        });
        let event = match event {
            ListEvent::InitApply(name, it) => ListEvent::InitApply(known.secret_name(name), it),
            ListEvent::Apply(name, it) => ListEvent::Apply(known.secret_name(name), it),
            other => other,
        };
        let mut found = BTreeSet::new();
        for delta in known.bindings.apply(event) {
            if delta.before == delta.after {
                continue;
            }
            let views = [&delta.before, &delta.after]
                .map(|binding| binding.as_ref().and_then(|binding| binding.spec.as_ref()));
            // Status changes are frequent, and others do not care.
            if views[0] != views[1] {
                known.forget_accounts(views[0], &delta.name);
                known.note_accounts(views[1], &delta.name);
            }
            let claimed = [&delta.before, &delta.after].map(|binding| {
                let binding = binding.as_ref().filter(|it| !it.metadata.deleting)?;
                Some((binding.spec.as_ref()?.print, binding.metadata.created))
            });
            if claimed[0] != claimed[1] {
                match (claimed[1], &spec) {
                    (Some((_, created)), Some(spec)) => {
                        let stakes = conflicts::stakes(&delta.name, spec);
                        known.claims.set(&delta.name, created, stakes);
                    }
                    _ => known.claims.forget(&delta.name),
                }
            }
            for report in delta.before.iter().flat_map(|it| &it.status.nodes) {
                if let Some(count) = self.reports.get_mut(&report.name) {
                    *count -= 1;
                }
            }
            for report in delta.after.iter().flat_map(|it| &it.status.nodes) {
                *self.reports.entry(Arc::clone(&report.name)).or_default() += 1;
            }
            for report in delta.before.iter().flat_map(|it| &it.status.nodes) {
                if self.reports.get(&report.name) == Some(&0) {
                    self.reports.remove(&report.name);
                }
            }
            found.insert(key(namespace, delta.name));
        }
        found
    }

    /// Bindings with an entry of one of these nodes.
    fn reported_by(&self, nodes: &BTreeSet<Arc<str>>) -> BTreeSet<Key> {
        let mut found = BTreeSet::new();
        if nodes.is_empty() {
            return found;
        }
        for (namespace, known) in &self.namespaces {
            let has_one = |binding: &Binding| {
                let mut reports = binding.status.nodes.iter();
                reports.any(|report| nodes.contains(&report.name))
            };
            let bindings = known
                .bindings
                .iter()
                .filter(|(_, binding)| has_one(binding));
            found.extend(bindings.map(|(name, _)| key(namespace, Arc::clone(name))));
        }
        found
    }

    fn namespace(&mut self, name: &Arc<str>) -> &mut Namespace {
        self.namespaces.entry(Arc::clone(name)).or_default()
    }
}

fn keys(namespace: &Arc<str>, names: BTreeSet<Arc<str>>) -> BTreeSet<Key> {
    names.into_iter().map(|name| key(namespace, name)).collect()
}

fn key(namespace: &Arc<str>, name: Arc<str>) -> Key {
    Key {
        namespace: Arc::clone(namespace),
        name,
    }
}

#[cfg(test)]
mod tests;
