//! Checks and completes Argo CD's Secrets: a request flows in, a minimal patch
//! with warnings, or a denial, flows out. Pure.
//!
//! Rewrites add what stock Argo CD needs and leave all else as it is. A bad
//! value is refused when it comes, and only warned about when an update merely
//! keeps it, so that labels and other keys stay editable.

mod config;
mod proxy;

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;
use shared::{
    binding::{self, CredentialBindingSpec, Delivery},
    errors::{Code, Named},
};

use self::proxy::{Before, Entry};
use super::{
    Draw, NoRandomness, Skip, Verdict,
    annotations::OurAnnotations,
    patch::{Patch, Slot},
    read,
    review::{Operation, Request, Text},
};
use crate::{
    annotations::{REMOVE_STATIC_CREDENTIALS, ROTATE_PROXY_KEY},
    derive::{self, Derivation, object_name},
    proxy_key::{self, Subject},
    secret::{
        self, ClusterConfig, ClusterSecret, ExecConfig, Place, RepositorySecret, SecretKind,
        SecretValues, WorkloadIdentity, key,
    },
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
    // What nobody looked at before, for want of the label, is no old value.
    let old = read::<SecretView<'_>>(request.old_object).filter(|old| old.kind() == Some(kind));
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let restored = old
        .as_ref()
        .map(|old| new.dropped_keys(kind, old))
        .unwrap_or_default();
    let name = new.metadata.name.as_deref().unwrap_or_default();
    let values = new.values(&restored);
    let place = Place::read(kind, &values);
    let subject = Subject {
        namespace,
        name,
        place: place.as_ref(),
    };
    let old_values = old.as_ref().map(|old| old.values(&[]));
    let before = old.as_ref().zip(old_values.as_ref()).map(|(old, values)| {
        let former = Place::read(kind, values);
        let is_same_place = match (&former, &place) {
            (Some(former), Some(place)) => former == place,
            _ => new.has_same(&[key::PROJECT, key::URL, key::TYPE, key::SERVER], old),
        };
        Before {
            proxy: values.text(key::PROXY),
            is_same_place,
        }
    });
    let draft = Draft::of(&new, &values, kind, namespace, rules);
    let mut rewrite = match draft.result {
        Ok(None) => return Ok(Verdict::skip(Skip::NotWorkloadIdentity, Vec::new())),
        Ok(Some(mut rewrite)) => {
            if !restored.is_empty() {
                rewrite
                    .warnings
                    .push(Named::new(Code::KeysRestored, &*draft.object));
                rewrite.data.extend(
                    restored
                        .iter()
                        .map(|(name, text)| (*name, text.to_string())),
                );
            }
            rewrite
        }
        Err(problems) => {
            // At another place every problem is a new one.
            let is_same_place = before.as_ref().is_some_and(|before| before.is_same_place);
            let known = old
                .as_ref()
                .zip(old_values.as_ref())
                .filter(|_| is_same_place)
                .and_then(|(old, values)| {
                    Draft::of(old, values, kind, namespace, rules).result.err()
                })
                .unwrap_or_default();
            let (kept, mut fresh): (Vec<_>, Vec<_>) = problems
                .into_iter()
                .partition(|problem| known.contains(problem));
            if !fresh.is_empty() {
                let first = fresh.remove(0);
                fresh.extend(kept);
                return Ok(Verdict::deny(first, fresh));
            }
            Rewrite {
                warnings: kept,
                proxy: ProxyWish::OfInvalid,
                ..Rewrite::default()
            }
        }
    };
    let is_immutable = old.as_ref().is_some_and(|old| old.immutable == Some(true));
    if rewrite.proxy != ProxyWish::Nothing && kind != SecretKind::Cluster {
        let is_wanted = rewrite.proxy == ProxyWish::Wanted;
        let rotates = is_wanted && new.asks_for_another_key(old.as_ref());
        let written = values.text(key::PROXY);
        match proxy::entry(written, before.as_ref(), &subject, rotates) {
            Entry::Keep => {}
            Entry::CarryOver(former) => {
                rewrite.data.insert(key::PROXY, STANDARD.encode(former));
            }
            // Nobody could write it.
            Entry::Draw if is_wanted && is_immutable => rewrite.lacks_key = true,
            Entry::Draw if is_wanted => {
                let bytes = draw().ok_or(NoRandomness)?;
                let value = proxy_key::value(&subject, &bytes);
                let text = value.map(|value| STANDARD.encode(&*value));
                rewrite.data.extend(text.map(|text| (key::PROXY, text)));
            }
            // It would lead to what the Secret is no longer for.
            Entry::Draw => rewrite.removed.push(key::PROXY),
            Entry::Conflict if is_wanted => {
                let detail = format!("{}, key {}", draft.object, key::PROXY);
                let conflict = Named::new(Code::ProxyConflict, detail);
                let is_known = before
                    .filter(|before| before.is_same_place && before.proxy == written)
                    .and(old.as_ref().zip(old_values.as_ref()))
                    .is_some_and(|(old, values)| {
                        let before = Draft::of(old, values, kind, namespace, rules).result;
                        matches!(before, Ok(Some(it)) if it.proxy == ProxyWish::Wanted)
                    });
                if is_known {
                    return Ok(Verdict::patch(Patch::new(), vec![conflict]));
                }
                return Ok(Verdict::deny(conflict, Vec::new()));
            }
            Entry::Conflict => {}
        }
    }
    if is_immutable {
        return Ok(rewrite.into_words(&new, &draft.object));
    }
    Ok(rewrite.into_verdict(&new))
}

/// What is read of a Secret. Values stay in base64 as they came.
#[derive(Deserialize)]
struct SecretView<'a> {
    #[serde(borrow, default)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    data: Option<BTreeMap<Text<'a>, Option<Text<'a>>>>,
    #[serde(default)]
    immutable: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    generate_name: Option<Text<'a>>,
    #[serde(borrow)]
    labels: Option<BTreeMap<Text<'a>, Text<'a>>>,
    #[serde(borrow)]
    annotations: Option<OurAnnotations<'a>>,
}

impl SecretView<'_> {
    fn kind(&self) -> Option<SecretKind> {
        let labels = self.metadata.labels.as_ref()?;
        let (_, value) = labels
            .iter()
            .find(|(name, _)| name.as_str() == secret::SECRET_TYPE)?;
        SecretKind::from_label(value)
    }

    fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.data.iter().flatten();
        entries.filter_map(|(name, value)| Some((name.as_str(), value.as_ref()?.as_str())))
    }

    fn values(&self, restored: &[(&'static str, &str)]) -> SecretValues {
        SecretValues::from_base64(self.entries().chain(restored.iter().copied()))
    }

    /// The value of a key as it came.
    fn raw(&self, name: &str) -> Option<&str> {
        self.entries()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    fn has_same(&self, names: &[&str], other: &SecretView<'_>) -> bool {
        names.iter().all(|name| self.raw(name) == other.raw(name))
    }

    /// Whether an update brings a new value of the annotation for that.
    fn asks_for_another_key(&self, old: Option<&SecretView<'_>>) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        let asked = annotations.and_then(|found| found.find(ROTATE_PROXY_KEY));
        let before = old.and_then(|old| old.metadata.annotations.as_ref());
        let before = before.and_then(|found| found.find(ROTATE_PROXY_KEY));
        old.is_some() && asked.is_some_and(|asked| !asked.is_empty()) && asked != before
    }

    fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    fn may_remove_static_credentials(&self) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        annotations.and_then(|found| found.find(REMOVE_STATIC_CREDENTIALS)) == Some("true")
    }

    /// The workload identity keys of `old` that an update dropped. Argo CD's
    /// own updates replace a cluster Secret's data and lose keys that Argo CD
    /// does not know; while the exec plugin is ours, they are still meant.
    fn dropped_keys<'o>(
        &self,
        kind: SecretKind,
        old: &'o SecretView<'_>,
    ) -> Vec<(&'static str, &'o str)> {
        let is_ours = |name: &str| key::WORKLOAD_IDENTITY.contains(&name);
        if kind != SecretKind::Cluster || self.entries().any(|(name, _)| is_ours(name)) {
            return Vec::new();
        }
        let values = SecretValues::from_base64(self.entries());
        let config = values.text(key::CONFIG).map(ClusterConfig::parse);
        let runs_ours = config.is_some_and(|config| {
            // The volume has it under the guides' name, too.
            let is_known = |exec: &ExecConfig| exec.is_ours() || exec.is_guides();
            config.is_ok_and(|config| config.exec().is_some_and(is_known))
        });
        if !runs_ours {
            return Vec::new();
        }
        key::WORKLOAD_IDENTITY
            .into_iter()
            .filter_map(|name| Some((name, old.raw(name)?)))
            .collect()
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

/// What a Secret wants with its `proxy`.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum ProxyWish {
    /// Nothing of the webhook's.
    #[default]
    Nothing,
    /// To lead to the credential proxy.
    Wanted,
    /// The Secret cannot be used: what is there stays while it fits.
    OfInvalid,
}

/// Changes to a Secret's data, in base64, and what its author is told.
#[derive(Default)]
struct Rewrite {
    data: BTreeMap<&'static str, String>,
    removed: Vec<&'static str>,
    proxy: ProxyWish,
    lacks_key: bool,
    warnings: Vec<Named>,
}

impl Rewrite {
    fn repository(
        &mut self,
        object: &str,
        secret: &RepositorySecret,
        may_remove: bool,
    ) -> Result<(), Vec<Named>> {
        // A client certificate does no harm on the way to the credential proxy.
        let by_proxy = derive::delivery(secret) == Delivery::Proxy;
        let is_harmless = |name: &str| by_proxy && key::CLIENT_CERTIFICATE.contains(&name);
        let present = secret.static_credentials.iter().copied();
        let harmful: Vec<_> = present.filter(|name| !is_harmless(name)).collect();
        if may_remove {
            self.removed.extend(&secret.static_credentials);
        } else if !harmful.is_empty() {
            let detail = format!("{object}, keys {}", harmful.join(", "));
            return Err(vec![Named::new(Code::StaticCredentialsPresent, detail)]);
        }
        if secret.is_helm_with_oci_scheme() {
            let address = secret.url.address();
            self.data.insert(key::URL, STANDARD.encode(&address));
            self.warnings.push(Named::new(
                Code::UrlRewritten,
                format!("repoURL: {address}"),
            ));
            let mut pointers = vec!["/data/url"];
            if !secret.enable_oci {
                self.data.insert(key::ENABLE_OCI, STANDARD.encode("true"));
                pointers.push("/data/enableOCI");
            }
            let detail = format!("{object}: {}", pointers.join(", "));
            self.warnings.push(Named::new(Code::DriftFromGit, detail));
        }
        Ok(())
    }

    /// Leads Argo CD to the credential proxy where that delivers the credential,
    /// and no longer where it does not.
    fn proxy(
        &mut self,
        (object, name): (&str, &str),
        secret: &RepositorySecret,
        spec: &CredentialBindingSpec,
        written: Option<&str>,
        rules: &SecretRules,
    ) {
        if spec.delivery != Delivery::Proxy {
            let left_over = Self::without_proxy(written, name);
            self.removed
                .extend(left_over.into_iter().flat_map(|it| it.removed));
            return;
        }
        self.proxy = ProxyWish::Wanted;
        let mut warnings = derive::proxy_warnings(object, secret);
        // What is on its way out needs no warning.
        warnings.retain(|warning| {
            warning.code != Code::ClientCertificateUnused || self.removed.is_empty()
        });
        self.warnings.extend(warnings);
        if !rules.credential_proxy {
            self.warnings
                .push(Named::new(Code::ProxyNotInstalled, object));
        }
    }

    /// Takes away a value of ours that nothing needs any more; `None` where
    /// there is none.
    fn without_proxy(written: Option<&str>, name: &str) -> Option<Self> {
        let named = written.and_then(proxy_key::written_for)?;
        (named == name).then(|| Self {
            removed: vec![key::PROXY],
            ..Self::default()
        })
    }

    fn cluster(
        &mut self,
        object: &str,
        name: &str,
        secret: &ClusterSecret,
        config: &str,
        may_remove: bool,
    ) -> Result<(), Vec<Named>> {
        let at = |detail: &str| format!("{object}, key {}: {detail}", key::CONFIG);
        let variables = secret.exec.as_ref().and_then(|exec| exec.env.as_ref());
        if variables.is_some_and(|env| env.len() > 1) {
            self.warnings.push(Named::new(
                Code::MultipleExecEnv,
                at("execProviderConfig.env"),
            ));
        }
        if secret.is_guide_form {
            return Ok(());
        }
        let mut config = config.to_owned();
        if !secret.other_auth.is_empty() {
            if !may_remove {
                let detail = at(&secret.other_auth.join(", "));
                return Err(vec![Named::new(Code::ClusterAuthConflict, detail)]);
            }
            config = config::without(&config, &secret.other_auth)
                .map_err(|error| vec![Named::new(Code::InvalidClusterConfig, at(&error))])?;
        }
        let wanted = ExecConfig::ours(name);
        match &secret.exec {
            // The volume has the plugin under the guides' name too.
            Some(exec) if exec.is_guides() => {}
            Some(exec) if !exec.is_ours() => {
                let detail = at(&format!("command `{}`", exec.command.escape_debug()));
                return Err(vec![Named::new(Code::ClusterExecConflict, detail)]);
            }
            // Version and environment are the user's choice.
            Some(exec) if exec.args == wanted.args => {}
            _ => {
                config = config::with_exec(&config, &wanted)
                    .map_err(|error| vec![Named::new(Code::InvalidClusterConfig, at(&error))])?;
                let detail = format!("{object}: /data/config");
                self.warnings.push(Named::new(Code::DriftFromGit, detail));
            }
        }
        self.data.insert(key::CONFIG, STANDARD.encode(config));
        Ok(())
    }

    /// Leaves out what the Secret has, or has not, already.
    fn effective(self, view: &SecretView<'_>) -> Self {
        let changes = |name: &&str, text: &String| view.raw(name) != Some(text);
        Self {
            removed: self
                .removed
                .into_iter()
                .filter(|name| view.has(name))
                .collect(),
            data: self
                .data
                .into_iter()
                .filter(|(name, text)| changes(name, text))
                .collect(),
            ..self
        }
    }

    fn into_verdict(self, view: &SecretView<'_>) -> Verdict {
        let data = Slot::root().member("data", view.data.is_some());
        let mut patch = Patch::new();
        let rewrite = self.effective(view);
        for name in rewrite.removed {
            patch.remove(&data, name);
        }
        let changed = rewrite.data.into_iter();
        patch.set(
            &data,
            changed.map(|(name, text)| (name, Value::String(text))),
        );
        Verdict::patch(patch, rewrite.warnings)
    }

    /// Says what an immutable Secret lacks. The API server would refuse the
    /// whole update, such as that of a label, if its data came with it.
    fn into_words(self, view: &SecretView<'_>, object: &str) -> Verdict {
        let rewrite = self.effective(view);
        let lacking = rewrite.lacks_key.then_some(key::PROXY);
        let names = rewrite.data.keys().chain(&rewrite.removed).copied();
        let names: Vec<_> = names.chain(lacking).collect();
        let mut warnings = rewrite.warnings;
        if !names.is_empty() {
            // They speak of changes that are not made.
            warnings.retain(|it| {
                !matches!(
                    it.code,
                    Code::UrlRewritten | Code::DriftFromGit | Code::KeysRestored
                )
            });
            let detail = format!("{object}, keys {}", names.join(", "));
            warnings.push(Named::new(Code::SecretImmutable, detail));
        }
        Verdict::patch(Patch::new(), warnings)
    }
}

#[cfg(test)]
mod tests;
