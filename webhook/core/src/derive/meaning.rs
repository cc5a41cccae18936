//! What a Secret means: its kind and values flow in, a binding's spec or the
//! reasons against it flow out, and what somebody has to do about its `proxy`.
//! Pure; the time is an argument.

use jiff::Timestamp;
use shared::{
    binding::{CredentialBindingSpec, Delivery},
    errors::{Code, Named},
};

use super::{Derivation, object_name, proxy_warnings};
use crate::{
    proxy_key::{
        self, Subject, Written,
        accepted::{Accepted, Former, accepted},
    },
    secret::{Place, PlacePrint, SecretKind, SecretValues, WorkloadIdentity, key, parse},
};

/// The Secret that a binding belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// When it was created.
    pub created: Option<Timestamp>,
}

/// What a Secret means.
#[derive(Debug, Clone, PartialEq)]
pub enum Derived {
    /// There is no Secret of that name.
    Absent,
    /// The Secret does not use workload identity.
    Unused(Owner),
    /// The Secret uses it, and there are reasons to refuse.
    Invalid(Owner, Vec<Named>),
    /// The same, and it is not for what the binding that is there is for.
    Elsewhere(Owner, Vec<Named>),
    /// The Secret's binding.
    Valid(Owner, Box<CredentialBindingSpec>),
}

/// What one look at a Secret found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What it means.
    pub derived: Derived,
    /// What the binding lacks of its service account. It stands nevertheless,
    /// and nothing is issued for it.
    pub lacks: Option<Named>,
    /// What somebody has to do about its `proxy`, although its binding stands.
    pub notices: Vec<Named>,
    /// What its `proxy` is.
    written: Written,
    /// What it is for, as far as that can be read.
    place: Option<Place>,
}

impl Found {
    /// Nothing besides what the Secret means.
    pub fn nothing(derived: Derived) -> Self {
        Self {
            derived,
            lacks: None,
            notices: Vec::new(),
            written: Written::Nothing,
            place: None,
        }
    }

    /// Takes into account what the binding was before: which keys open it, and
    /// whether the last good spec is still for the same. `object` names the
    /// Secret.
    pub fn settle(&mut self, object: &str, former: Option<&Former>, now: Timestamp) {
        let Some(former) = former else {
            return;
        };
        match &mut self.derived {
            Derived::Valid(_, spec) => {
                let print = PlacePrint::of(spec);
                let Some(proxy) = &mut spec.proxy else {
                    return;
                };
                let Accepted {
                    hashes,
                    previous_until,
                    is_stale,
                } = accepted(&self.written, &print, Some(former), now);
                proxy.key_sha256 = hashes;
                proxy.previous_key_until = previous_until;
                if is_stale && matches!(self.written, Written::Unmarked(_)) {
                    self.notices.insert(0, stale(object));
                }
            }
            Derived::Invalid(owner, problems) => {
                let print = self.place.as_ref().map(Place::print);
                if print != Some(former.print) {
                    let (owner, problems) = (owner.clone(), std::mem::take(problems));
                    self.derived = Derived::Elsewhere(owner, problems);
                }
            }
            Derived::Absent | Derived::Unused(_) | Derived::Elsewhere(..) => {}
        }
    }
}

fn stale(object: &str) -> Named {
    Named::new(Code::ProxyKeyStale, format!("{object}, key {}", key::PROXY))
}

/// Derives the binding of the Secret `owner` in `namespace`, whose kind and
/// values these are, and compares its `proxy` with what the webhook would have
/// written: it can be down when a Secret is written.
pub fn look(
    derivation: &Derivation,
    namespace: &str,
    owner: Owner,
    kind: SecretKind,
    values: &SecretValues,
) -> Found {
    let object = object_name(namespace, &owner.name);
    let place = Place::read(kind, values);
    let subject = Subject {
        namespace,
        name: &owner.name,
        place: place.as_ref(),
    };
    let proxy = values
        .text(key::PROXY)
        .filter(|_| kind != SecretKind::Cluster);
    let written = proxy_key::judge(proxy, &subject);
    let named = proxy.and_then(proxy_key::names);
    let parsed = parse(kind, &object, values);
    let spec = match &parsed {
        Ok(None) => Ok(None),
        Ok(Some(parsed)) => derivation.binding(namespace, &owner.name, parsed).map(Some),
        Err(problems) => Err(problems.clone()),
    };
    let notices = match &parsed {
        Ok(Some(WorkloadIdentity::Repository(parsed))) if matches!(&spec, Ok(Some(spec)) if spec.delivery == Delivery::Proxy) =>
        {
            let mut notices: Vec<_> = notice(&object, &written, named).into_iter().collect();
            notices.extend(proxy_warnings(&object, parsed));
            notices
        }
        _ => left_over(&object, &owner.name, named, spec.is_err())
            .into_iter()
            .collect(),
    };
    let derived = match spec {
        Ok(None) => Derived::Unused(owner),
        Ok(Some(mut spec)) => {
            let print = PlacePrint::of(&spec);
            if let Some(proxy) = &mut spec.proxy {
                // Without a binding nothing ends at any time.
                let now = Timestamp::UNIX_EPOCH;
                proxy.key_sha256 = accepted(&written, &print, None, now).hashes;
            }
            Derived::Valid(owner, Box::new(spec))
        }
        Err(problems) => Derived::Invalid(owner, problems),
    };
    Found {
        derived,
        lacks: None,
        notices,
        written,
        place,
    }
}

/// What is wrong with the `proxy` of a Secret that needs the webhook's.
fn notice(object: &str, written: &Written, named: Option<String>) -> Option<Named> {
    let not_written = |what: &str| Named::new(Code::ProxyNotWritten, format!("{object}: {what}"));
    match written {
        Written::Fits(_) | Written::Unmarked(_) => None,
        Written::Stale(_) => Some(stale(object)),
        Written::Nothing => Some(not_written("it is not there")),
        Written::Malformed => Some(not_written("it has a key that no webhook made")),
        Written::Another if named.is_some() => Some(foreign(object, named)),
        Written::Another | Written::Own => Some(not_written("it is another proxy")),
    }
}

/// What is wrong with the `proxy` of any other Secret.
fn left_over(object: &str, name: &str, named: Option<String>, is_invalid: bool) -> Option<Named> {
    match named {
        None => None,
        Some(other) if other != name => Some(foreign(object, Some(other))),
        Some(_) if is_invalid => None,
        Some(_) => {
            let what = "it is still there, and no binding of the credential proxy needs it";
            Some(Named::new(
                Code::ProxyNotWritten,
                format!("{object}: {what}"),
            ))
        }
    }
}

fn foreign(object: &str, named: Option<String>) -> Named {
    let shown: String = named.unwrap_or_default().chars().take(253).collect();
    let detail = format!("{object}: it names `{}`", shown.escape_debug());
    Named::new(Code::ProxyForeign, detail)
}
