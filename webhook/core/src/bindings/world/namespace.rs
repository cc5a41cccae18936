//! What is known of one namespace, and what in it concerns which bindings.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::super::{
    binding::{Binding, SpecView},
    claims::Claims,
    listed::Listed,
    pod::RepoServer,
};
use crate::derive::account::Annotations;

#[derive(Debug, Default)]
pub(super) struct Namespace {
    /// Whether it has been among [`World::newly_known`].
    pub(super) is_known: bool,
    pub(super) secrets: Listed<Arc<str>>,
    pub(super) service_accounts: Listed<Annotations>,
    pub(super) bindings: Listed<Arc<Binding>>,
    pub(super) pods: Listed<RepoServer>,
    pub(super) claims: Claims,
    /// Bindings that are made of a service account, by that.
    made_of: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Lists of consumers, and how many bindings have each.
    consumers: HashMap<Arc<[Arc<str>]>, usize>,
    /// Running repo-servers without the proxy, by service account.
    pub(super) lacking: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl Namespace {
    /// Names of the bindings that are made of a service account.
    pub(super) fn made_of(&self, account: &Arc<str>) -> impl Iterator<Item = Arc<str>> {
        let from = (Arc::clone(account), "".into());
        let accounts = self.made_of.range(from..);
        accounts
            .take_while(move |(name, _)| name == account)
            .map(|(_, binding)| Arc::clone(binding))
    }

    /// Names of the bindings that have one of these service accounts as a
    /// consumer. A consumer is usually one of half of all bindings: where there
    /// is one, they are gone through.
    pub(super) fn consumed_by(
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

    pub(super) fn note_accounts(&mut self, spec: Option<&SpecView>, name: &Arc<str>) {
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

    pub(super) fn forget_accounts(&mut self, spec: Option<&SpecView>, name: &Arc<str>) {
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
    pub(super) fn share(&self, binding: &mut Binding) {
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

    pub(super) fn secret_name(&self, name: Arc<str>) -> Arc<str> {
        self.secrets.shared_name(&name).map_or(name, Arc::clone)
    }

    pub(super) fn unproxied(&self, spec: Option<&SpecView>) -> Option<Vec<Arc<str>>> {
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
