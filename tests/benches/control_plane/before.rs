//! The algorithm of version 0.1.0, kept to measure against: every binding was
//! compared with every other one on a first list, and one look asked
//! `conflicts` of all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use shared::{
    binding::{CredentialBindingSpec, CredentialBindingStatus},
    conflicts::{Claim, conflicts, stakes},
    errors::Named,
};

#[derive(Debug, PartialEq)]
pub(crate) struct Binding {
    pub(crate) name: String,
    pub(crate) created: Option<Timestamp>,
    pub(crate) spec: Option<CredentialBindingSpec>,
    pub(crate) status: CredentialBindingStatus,
}

#[derive(Default)]
pub(crate) struct World {
    current: BTreeMap<String, Arc<Binding>>,
}

impl World {
    /// The end of the first list.
    pub(crate) fn first_list(&mut self, listed: Vec<Arc<Binding>>) -> BTreeSet<(String, String)> {
        self.fill(listed);
        let all: Vec<_> = self.current.values().cloned().collect();
        let mut keys = BTreeSet::new();
        for binding in all {
            keys.extend(self.rivals(None, binding.spec.as_ref()));
            keys.insert(key(&binding.name));
        }
        keys
    }

    /// An event of the watch.
    pub(crate) fn apply(&mut self, binding: Arc<Binding>) -> BTreeSet<(String, String)> {
        let before = self
            .current
            .insert(binding.name.clone(), Arc::clone(&binding));
        let before = before.as_ref().and_then(|binding| binding.spec.as_ref());
        let mut keys = BTreeSet::new();
        if before != binding.spec.as_ref() {
            keys.extend(self.rivals(before, binding.spec.as_ref()));
        }
        keys.insert(key(&binding.name));
        keys
    }

    /// Without asking who is whose rival.
    pub(crate) fn fill(&mut self, listed: Vec<Arc<Binding>>) {
        self.current = listed
            .into_iter()
            .map(|binding| (binding.name.clone(), binding))
            .collect();
    }

    /// One look.
    pub(crate) fn snapshot(&self, name: &str) -> Option<Named> {
        let all = self.current.values();
        let claims = all.filter_map(|other| {
            Some(Claim {
                name: &other.name,
                created: other.created,
                spec: other.spec.as_ref()?,
            })
        });
        conflicts(claims).remove(name)
    }

    fn rivals(
        &self,
        before: Option<&CredentialBindingSpec>,
        after: Option<&CredentialBindingSpec>,
    ) -> BTreeSet<(String, String)> {
        let is_rival = |other: &Binding| {
            let others = other.spec.as_ref();
            [before, after]
                .into_iter()
                .flatten()
                .any(|spec| others.is_some_and(|other| are_rivals(spec, other)))
        };
        let bindings = self.current.values().filter(|other| is_rival(other));
        bindings.map(|binding| key(&binding.name)).collect()
    }
}

fn key(name: &str) -> (String, String) {
    ("argocd".to_owned(), name.to_owned())
}

fn are_rivals(a: &CredentialBindingSpec, b: &CredentialBindingSpec) -> bool {
    let (a, b) = (stakes("a", a), stakes("b", b));
    a.iter().any(|(place, holding)| {
        b.iter()
            .any(|(other, held)| place == other && holding != held)
    })
}
