//! What to do about one binding: what its Secret means and the binding as it is
//! flow in, one step flows out. Pure.

use shared::errors::{Code, Named};

use super::{
    binding::{Binding, Print},
    world::Key,
};
use crate::{
    derive::{
        meaning::{Derived, Owner},
        object_name,
    },
    proxy_key::accepted::Former,
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
    /// As [`Meaning::Invalid`], and it is for something else than its binding,
    /// or for nobody knows what.
    Elsewhere(Box<str>, Vec<Named>),
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
            Derived::Elsewhere(owner, problems) => Self::Elsewhere(uid(owner), problems.clone()),
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
        // The last good spec would go on giving what the Secret is no longer for.
        (Meaning::Elsewhere(uid, _), Some(binding)) if binding.is_owned_by(uid) => Plan::Delete,
        (Meaning::Invalid(_, problems) | Meaning::Elsewhere(_, problems), Some(_)) => {
            Plan::Report(problems.clone())
        }
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
pub fn on_secret<'m>(meaning: &'m Meaning, notices: &[Named]) -> Option<(&'m str, Vec<Named>)> {
    let (uid, mut problems, has_binding) = match meaning {
        Meaning::Absent => return None,
        Meaning::Invalid(uid, problems) | Meaning::Elsewhere(uid, problems) => {
            (uid, problems.clone(), false)
        }
        Meaning::Unused(uid) => (uid, Vec::new(), false),
        Meaning::Valid(uid, _) => (uid, Vec::new(), true),
    };
    let here = notices
        .iter()
        .filter(|notice| !has_binding || is_loud(notice.code));
    problems.extend(here.cloned());
    (!problems.is_empty()).then_some((uid, problems))
}

/// Whether a notice is said on the Secret although its binding's conditions
/// say it: somebody may know a key that is not theirs.
fn is_loud(code: Code) -> bool {
    matches!(code, Code::ProxyForeign | Code::ProxyKeyStale)
}

/// Why no key opens a binding that is delivered by the credential proxy. No
/// agent serves it then, since nobody could use it. `object` names its Secret.
pub fn keyless(object: &str, former: &Former, notices: &[Named]) -> Option<Named> {
    let is_why = |code| {
        matches!(
            code,
            Code::ProxyKeyStale | Code::ProxyForeign | Code::ProxyNotWritten
        )
    };
    former.is_keyless().then(|| {
        let why = notices.iter().find(|notice| is_why(notice.code)).cloned();
        why.unwrap_or_else(|| Named::new(Code::ProxyNotWritten, object))
    })
}

#[cfg(test)]
mod tests;
