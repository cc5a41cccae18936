//! What to do about one binding: what its Secret means and the binding as it is
//! flow in, one step flows out. Pure.

use shared::errors::{Code, Named};

use super::{
    binding::{Binding, Print},
    world::Key,
};
use crate::{
    derive::object_name,
    source::{Derived, Owner},
};

/// What a Secret means, without the values that it has.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// There is no Secret of that name.
    Absent,
    /// The Secret with this uid does not use workload identity.
    Unused(Box<str>),
    /// The Secret with this uid uses it, and there are reasons to refuse.
    Invalid(Box<str>, Vec<Named>),
    /// The Secret with this uid asks for a binding with such a spec.
    Valid(Box<str>, Print),
}

impl From<&Derived> for Meaning {
    fn from(derived: &Derived) -> Self {
        let uid = |owner: &Owner| owner.uid.as_str().into();
        match derived {
            Derived::Absent => Self::Absent,
            Derived::Unused(owner) => Self::Unused(uid(owner)),
            Derived::Invalid(owner, problems) => Self::Invalid(uid(owner), problems.clone()),
            Derived::Valid(owner, spec) => Self::Valid(uid(owner), Print::of(spec)),
        }
    }
}

/// What to do about a binding.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Nothing: there is no binding and there shall be none, or somebody else
    /// is about to remove it.
    Nothing,
    /// Write the spec that the Secret asks for.
    Apply,
    /// The Secret is there, but does not use workload identity any more.
    Delete,
    /// The spec is as it should be, or the last good one; say how things are.
    Report(Vec<Named>),
}

/// Decides what to do about the binding of a Secret.
pub fn plan(key: &Key, meaning: &Meaning, binding: Option<&Binding>) -> Plan {
    let orphan = || {
        let object = object_name(&key.namespace, &key.name);
        vec![Named::new(Code::BindingNotFound, object)]
    };
    match (meaning, binding) {
        (Meaning::Valid(uid, print), Some(binding))
            if binding.spec.as_ref().map(|spec| spec.print) == Some(*print)
                && binding.is_owned_by(uid) =>
        {
            Plan::Report(Vec::new())
        }
        // It ends with its finalizers, and then comes back.
        (Meaning::Valid(..), Some(binding)) if binding.metadata.deleting => Plan::Nothing,
        (Meaning::Valid(..), _) => Plan::Apply,
        (_, None) => Plan::Nothing,
        (Meaning::Invalid(_, problems), Some(_)) => Plan::Report(problems.clone()),
        (Meaning::Unused(uid), Some(binding)) if binding.is_owned_by(uid) => Plan::Delete,
        // Kubernetes' garbage collector removes what a Secret owned.
        (Meaning::Unused(_) | Meaning::Absent, Some(binding))
            if !binding.metadata.owners.is_empty() =>
        {
            Plan::Nothing
        }
        (Meaning::Unused(_) | Meaning::Absent, Some(_)) => Plan::Report(orphan()),
    }
}

/// What has to be said on the Secret itself, because it has no binding or
/// because its owner may not see the binding's conditions.
pub(super) fn on_secret<'m>(
    meaning: &'m Meaning,
    notices: &[Named],
) -> Option<(&'m str, Vec<Named>)> {
    let (uid, mut problems, has_binding) = match meaning {
        Meaning::Absent => return None,
        Meaning::Invalid(uid, problems) => (uid, problems.clone(), false),
        Meaning::Unused(uid) => (uid, Vec::new(), false),
        Meaning::Valid(uid, _) => (uid, Vec::new(), true),
    };
    let here = notices
        .iter()
        .filter(|notice| !has_binding || notice.code == Code::ProxyForeign);
    problems.extend(here.cloned());
    (!problems.is_empty()).then_some((uid, problems))
}

#[cfg(test)]
mod tests;
