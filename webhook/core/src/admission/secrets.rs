//! Checks and completes Argo CD's Secrets: a request flows in, a minimal patch
//! with warnings, or a denial, flows out. Pure.
//!
//! Rewrites add what stock Argo CD needs and leave all else as it is. A bad
//! value is refused when it comes, and only warned about when an update merely
//! keeps it, so that labels and other keys stay editable.

mod config;
mod proxy;
mod rewrite;
mod view;

use base64::{Engine, engine::general_purpose::STANDARD};
use shared::{
    binding,
    errors::{Code, Named},
};

use self::{
    proxy::{Before, Entry},
    rewrite::{ProxyWish, Rewrite},
    view::SecretView,
};
use super::{
    Draw, NoRandomness, Skip, Verdict,
    patch::Patch,
    read,
    review::{Operation, Request},
};
use crate::{
    derive::{Derivation, object_name},
    proxy_key::{self, Subject},
    secret::{self, Place, SecretKind, SecretValues, WorkloadIdentity, key},
};

/// What becomes of Secrets.
#[derive(Debug, Clone, Default)]
pub struct SecretRules {
    /// What makes a binding of a Secret.
    pub derivation: Derivation,
    /// Repo-servers get the credential proxy.
    pub credential_proxy: bool,
}

/// Decides about a Secret. `draw` is asked at most once, for a new key.
///
/// # Errors
/// When a key is needed and there are no random bytes.
pub fn decide(
    request: &Request<'_>,
    rules: &SecretRules,
    draw: &mut Draw<'_>,
) -> Result<Verdict, NoRandomness> {
    if request.kind.group_kind() != ("", "Secret") {
        return Ok(Verdict::skip(Skip::OtherKind, Vec::new()));
    }
    if request.operation == Operation::Other || request.is_sub_resource() {
        return Ok(Verdict::skip(Skip::OtherOperation, Vec::new()));
    }
    let Some(new) = read::<SecretView<'_>>(request.object) else {
        return Ok(Verdict::skip(Skip::Unreadable, Vec::new()));
    };
    let Some(kind) = new.kind() else {
        return Ok(Verdict::skip(Skip::NotWorkloadIdentity, Vec::new()));
    };
    let old = read::<SecretView<'_>>(request.old_object);
    // The API server's rule, whatever labels there were.
    let is_immutable = old.as_ref().is_some_and(|old| old.immutable == Some(true));
    // What nobody looked at before, for want of the label, is no old value.
    let old = old.filter(|old| old.kind() == Some(kind));
    let restored = old
        .as_ref()
        .map(|old| new.dropped_keys(kind, old))
        .unwrap_or_default();
    let values = new.values(&restored);
    let review = SecretReview {
        kind,
        namespace: request.namespace.as_deref().unwrap_or_default(),
        rules,
        place: Place::read(kind, &values),
        old: old.as_ref().map(|old| (old, old.values(&[]))),
        new: &new,
        values,
        is_immutable,
    };
    let draft = review.draft();
    let object = draft.object;
    let mut rewrite = match draft.result {
        Ok(None) => return Ok(Verdict::skip(Skip::NotWorkloadIdentity, Vec::new())),
        Ok(Some(mut rewrite)) => {
            rewrite.restore(&restored, &object);
            rewrite
        }
        Err(problems) => {
            let known = review.known_problems();
            let (kept, mut fresh): (Vec<_>, Vec<_>) = problems
                .into_iter()
                .partition(|problem| known.contains(problem));
            if !fresh.is_empty() {
                let first = fresh.remove(0);
                fresh.extend(kept);
                return Ok(Verdict::deny(first, fresh));
            }
            let mut rewrite = Rewrite::of_invalid(kept);
            rewrite.restore(&restored, &object);
            rewrite
        }
    };
    if let Some(conflict) = review.write_proxy(&mut rewrite, &object, draw)? {
        return Ok(if review.had_that_proxy() {
            Verdict::patch(Patch::new(), vec![conflict])
        } else {
            Verdict::deny(conflict, Vec::new())
        });
    }
    Ok(if review.is_immutable {
        rewrite.into_words(&new, &object)
    } else {
        rewrite.into_verdict(&new)
    })
}

/// A Secret under review, and the version before it.
struct SecretReview<'a> {
    kind: SecretKind,
    namespace: &'a str,
    rules: &'a SecretRules,
    new: &'a SecretView<'a>,
    /// Those of the new version, with what is restored.
    values: SecretValues,
    place: Option<Place>,
    old: Option<(&'a SecretView<'a>, SecretValues)>,
    /// The API server lets nobody change its values.
    is_immutable: bool,
}

impl SecretReview<'_> {
    fn draft(&self) -> Draft {
        Draft::of(
            self.new,
            &self.values,
            self.kind,
            self.namespace,
            self.rules,
        )
    }

    fn draft_before(&self) -> Option<Draft> {
        let (old, values) = self.old.as_ref()?;
        Some(Draft::of(
            old,
            values,
            self.kind,
            self.namespace,
            self.rules,
        ))
    }

    /// Whether the Secret was for the same project, URL and type.
    fn is_same_place(&self) -> bool {
        let Some((old, values)) = &self.old else {
            return false;
        };
        match (Place::read(self.kind, values), &self.place) {
            (Some(former), Some(place)) => former == *place,
            _ => {
                let names = [key::PROJECT, key::URL, key::TYPE, key::SERVER];
                self.new.has_same(&names, old)
            }
        }
    }

    /// The problems that an update may keep. At another place every problem is
    /// a new one.
    fn known_problems(&self) -> Vec<Named> {
        if !self.is_same_place() {
            return Vec::new();
        }
        let before = self.draft_before();
        before
            .and_then(|draft| draft.result.err())
            .unwrap_or_default()
    }

    /// Whether a proxy of the user's own was there before, and in the way.
    fn had_that_proxy(&self) -> bool {
        let Some((_, values)) = &self.old else {
            return false;
        };
        self.is_same_place()
            && values.text(key::PROXY) == self.values.text(key::PROXY)
            && self.draft_before().is_some_and(
                |draft| matches!(draft.result, Ok(Some(it)) if it.proxy == ProxyWish::Wanted),
            )
    }

    /// Sees to the Secret's `proxy`. Returns why it cannot be written.
    fn write_proxy(
        &self,
        rewrite: &mut Rewrite,
        object: &str,
        draw: &mut Draw<'_>,
    ) -> Result<Option<Named>, NoRandomness> {
        if rewrite.proxy == ProxyWish::Nothing || self.kind == SecretKind::Cluster {
            return Ok(None);
        }
        let is_wanted = rewrite.proxy == ProxyWish::Wanted;
        let subject = Subject {
            namespace: self.namespace,
            name: self.new.metadata.name.as_deref().unwrap_or_default(),
            place: self.place.as_ref(),
        };
        let before = self.old.as_ref().map(|(_, values)| Before {
            proxy: values.text(key::PROXY),
            is_same_place: self.is_same_place(),
        });
        let old = self.old.as_ref().map(|(old, _)| *old);
        let rotates = is_wanted && self.new.asks_for_another_key(old);
        let written = self.values.text(key::PROXY);
        match proxy::entry(written, before.as_ref(), &subject, rotates) {
            Entry::Keep => {}
            Entry::CarryOver(former) => {
                rewrite.data.insert(key::PROXY, STANDARD.encode(former));
            }
            // Nobody could write it.
            Entry::Draw if is_wanted && self.is_immutable => rewrite.lacks_key = true,
            Entry::Draw if is_wanted => {
                let bytes = draw().ok_or(NoRandomness)?;
                let value = proxy_key::value(&subject, &bytes);
                let text = value.map(|value| STANDARD.encode(&*value));
                rewrite.data.extend(text.map(|text| (key::PROXY, text)));
            }
            // It would lead to what the Secret is no longer for.
            Entry::Draw => rewrite.removed.push(key::PROXY),
            Entry::Conflict if is_wanted => {
                let detail = format!("{object}, key {}", key::PROXY);
                return Ok(Some(Named::new(Code::ProxyConflict, detail)));
            }
            Entry::Conflict => {}
        }
        Ok(None)
    }
}

/// What a Secret would become.
struct Draft {
    object: String,
    result: Result<Option<Rewrite>, Vec<Named>>,
}

impl Draft {
    fn of(
        view: &SecretView<'_>,
        values: &SecretValues,
        kind: SecretKind,
        namespace: &str,
        rules: &SecretRules,
    ) -> Self {
        let metadata = &view.metadata;
        let name = metadata.name.as_deref().unwrap_or_default();
        let shown = if name.is_empty() {
            metadata.generate_name.as_deref()
        } else {
            Some(name)
        };
        let object = object_name(namespace, shown.unwrap_or_default());
        let result = secret::parse(kind, &object, values).and_then(|secret| {
            let proxy = values.text(key::PROXY);
            let Some(secret) = secret else {
                let is_repository = kind != SecretKind::Cluster;
                let left_over = proxy.filter(|_| is_repository && !name.is_empty());
                return Ok(Rewrite::without_proxy(left_over, name));
            };
            if name.is_empty() {
                return Err(vec![Named::new(Code::GenerateNameRefused, object.clone())]);
            }
            let mut rewrite = Rewrite::default();
            let may_remove = view.may_remove_static_credentials();
            match &secret {
                WorkloadIdentity::Repository(repository) => {
                    rewrite.repository(&object, repository, may_remove)?;
                }
                WorkloadIdentity::Cluster(cluster) => {
                    let config = values.text(key::CONFIG).unwrap_or_default();
                    rewrite.cluster(&object, name, cluster, config, may_remove)?;
                }
            }
            let is_guide_form =
                matches!(&secret, WorkloadIdentity::Cluster(cluster) if cluster.is_guide_form);
            match rules.derivation.binding(namespace, name, &secret) {
                Ok(spec) => {
                    if let WorkloadIdentity::Repository(repository) = &secret {
                        let place = (object.as_str(), name);
                        rewrite.proxy(place, repository, &spec, proxy, rules);
                    }
                    rewrite
                        .warnings
                        .extend(binding::undeliverable(&object, &spec));
                }
                // It may run with another plugin of that name: no reason to refuse it.
                Err(problems) if is_guide_form => rewrite.warnings.extend(problems),
                Err(problems) => return Err(problems),
            }
            Ok(Some(rewrite))
        });
        Self { object, result }
    }
}

#[cfg(test)]
mod tests;
