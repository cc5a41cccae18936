//! What the watches have said so far: events flow in, keys to look at flow
//! out. Pure; tests push objects straight in.
//!
//! Every event costs what it changes, however much is known: what concerns
//! whom is kept beside the objects ([`Claims`], service accounts, nodes).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use shared::{
    conflicts,
    errors::{Code, Named},
};

pub use super::listed::ListEvent;
use super::{
    binding::{Binding, Observed, SpecView},
    claims::Claims,
    listed::Listed,
    pod::RepoServer,
};
use crate::account::Annotations;

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
    /// How often the installation's keys were others.
    rotations: u64,
}

#[derive(Debug, Default)]
struct Namespace {
    /// Whether it has been among [`World::newly_known`].
    is_known: bool,
    secrets: Listed<Arc<str>>,
    service_accounts: Listed<Annotations>,
    bindings: Listed<Arc<Binding>>,
    pods: Listed<RepoServer>,
    claims: Claims,
    /// Bindings that are made of a service account, by that.
    made_of: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Lists of consumers, and how many bindings have each.
    consumers: HashMap<Arc<[Arc<str>]>, usize>,
    /// Running repo-servers without the proxy, by service account.
    lacking: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
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
    /// Which of the installation's keys were in force.
    pub rotations: u64,
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
                self.rotations += 1;
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
            rotations: self.rotations,
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

impl Namespace {
    /// Names of the bindings that are made of a service account.
    fn made_of(&self, account: &Arc<str>) -> impl Iterator<Item = Arc<str>> {
        let from = (Arc::clone(account), "".into());
        let accounts = self.made_of.range(from..);
        accounts
            .take_while(move |(name, _)| name == account)
            .map(|(_, binding)| Arc::clone(binding))
    }

    /// Names of the bindings that have one of these service accounts as a
    /// consumer. A consumer is usually one of half of all bindings: where there
    /// is one, they are gone through.
    fn consumed_by(
        &self,
        accounts: &BTreeSet<Arc<str>>,
        which: impl Fn(&SpecView) -> bool,
    ) -> BTreeSet<Arc<str>> {
        let has_one = |names: &[Arc<str>]| names.iter().any(|name| accounts.contains(name));
        if !self.consumers.keys().any(|names| has_one(names)) {
            return BTreeSet::new();
        }
        let bindings = self.bindings.iter().filter(|(_, binding)| {
            let spec = binding.spec.as_ref();
            spec.is_some_and(|spec| has_one(&spec.consumers) && which(spec))
        });
        bindings.map(|(name, _)| Arc::clone(name)).collect()
    }

    fn note_accounts(&mut self, spec: Option<&SpecView>, name: &Arc<str>) {
        let Some(spec) = spec else {
            return;
        };
        *self
            .consumers
            .entry(Arc::clone(&spec.consumers))
            .or_default() += 1;
        if let Some(account) = &spec.account {
            self.made_of.insert((Arc::clone(account), Arc::clone(name)));
        }
    }

    fn forget_accounts(&mut self, spec: Option<&SpecView>, name: &Arc<str>) {
        let Some(spec) = spec else {
            return;
        };
        if let Some(count) = self.consumers.get_mut(&spec.consumers) {
            *count -= 1;
            if *count == 0 {
                self.consumers.remove(&spec.consumers);
            }
        }
        if let Some(account) = &spec.account {
            self.made_of
                .remove(&(Arc::clone(account), Arc::clone(name)));
        }
    }

    /// Makes what is known already the same piece of memory.
    fn share(&self, binding: &mut Binding) {
        let Some(spec) = &mut binding.spec else {
            return;
        };
        if let Some((known, _)) = self.consumers.get_key_value(&spec.consumers) {
            spec.consumers = Arc::clone(known);
        }
        if let Some(account) = &mut spec.account {
            let from = (Arc::clone(account), "".into());
            match self.made_of.range(from..).next() {
                Some((known, _)) if known == account => *account = Arc::clone(known),
                _ => {}
            }
        }
    }

    fn secret_name(&self, name: Arc<str>) -> Arc<str> {
        self.secrets.shared_name(&name).map_or(name, Arc::clone)
    }

    fn unproxied(&self, spec: Option<&SpecView>) -> Option<Vec<Arc<str>>> {
        if !self.pods.is_synced() {
            return None;
        }
        let consumers = spec
            .filter(|spec| spec.is_proxied)
            .map(|spec| &spec.consumers);
        let lacking = consumers.into_iter().flat_map(|names| names.iter());
        let lacking = lacking.filter_map(|account| self.lacking.get(account));
        let mut pods: Vec<_> = lacking.flatten().cloned().collect();
        pods.sort();
        pods.dedup();
        Some(pods)
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
