//! Checks and completes Argo CD's Secrets: a request flows in, a minimal patch
//! with warnings, or a denial, flows out. Pure.
//!
//! Rewrites add what stock Argo CD needs and leave all else as it is. A bad
//! value is refused when it comes, and only warned about when an update merely
//! keeps it, so that labels and other keys stay editable.

mod config;

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;
use shared::{
    binding::{self, CredentialBindingSpec, Delivery},
    errors::{Code, Named},
};

use super::{
    Skip, Verdict,
    annotations::OurAnnotations,
    patch::{Patch, Slot},
    read,
    review::{Operation, Request, Text},
};
use crate::{
    annotations::REMOVE_STATIC_CREDENTIALS,
    derive::{self, Derivation, object_name},
    proxy_key::{self, Written},
    secret::{
        self, ClusterConfig, ClusterSecret, ExecConfig, RepositorySecret, SecretKind, SecretValues,
        WorkloadIdentity, key,
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

/// Decides about a Secret.
pub fn decide(request: &Request<'_>, rules: &SecretRules) -> Verdict {
    if request.kind.group_kind() != ("", "Secret") {
        return Verdict::skip(Skip::OtherKind, Vec::new());
    }
    if request.operation == Operation::Other || request.is_sub_resource() {
        return Verdict::skip(Skip::OtherOperation, Vec::new());
    }
    let Some(new) = read::<SecretView<'_>>(request.object) else {
        return Verdict::skip(Skip::Unreadable, Vec::new());
    };
    let Some(kind) = new.kind() else {
        return Verdict::skip(Skip::NotWorkloadIdentity, Vec::new());
    };
    // What nobody looked at before, for want of the label, is no old value.
    let old = read::<SecretView<'_>>(request.old_object).filter(|old| old.kind() == Some(kind));
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let restored = old
        .as_ref()
        .map(|old| new.dropped_keys(kind, old))
        .unwrap_or_default();
    let draft = Draft::of(&new, &restored, kind, namespace, rules);
    match draft.result {
        Ok(None) => Verdict::skip(Skip::NotWorkloadIdentity, Vec::new()),
        Ok(Some(mut rewrite)) => {
            if !restored.is_empty() {
                rewrite
                    .warnings
                    .push(Named::new(Code::KeysRestored, draft.object));
                rewrite.data.extend(
                    restored
                        .iter()
                        .map(|(name, text)| (*name, text.to_string())),
                );
            }
            rewrite.into_verdict(&new)
        }
        Err(problems) => {
            let before = old.map(|old| Draft::of(&old, &[], kind, namespace, rules).result);
            let known = before.and_then(Result::err).unwrap_or_default();
            let (kept, mut fresh): (Vec<_>, Vec<_>) = problems
                .into_iter()
                .partition(|problem| known.contains(problem));
            if fresh.is_empty() {
                return Verdict::patch(Patch::new(), kept);
            }
            let first = fresh.remove(0);
            fresh.extend(kept);
            Verdict::deny(first, fresh)
        }
    }
}

/// What is read of a Secret. Values stay in base64 as they came.
#[derive(Deserialize)]
struct SecretView<'a> {
    #[serde(borrow, default)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    data: Option<BTreeMap<Text<'a>, Option<Text<'a>>>>,
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

    fn has(&self, name: &str) -> bool {
        self.entries().any(|(key, _)| key == name)
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
            config.is_ok_and(|config| config.exec().is_some_and(ExecConfig::is_ours))
        });
        if !runs_ours {
            return Vec::new();
        }
        key::WORKLOAD_IDENTITY
            .into_iter()
            .filter_map(|name| {
                let (_, text) = old.entries().find(|(key, _)| *key == name)?;
                Some((name, text))
            })
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
        restored: &[(&'static str, &str)],
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
        let values = SecretValues::from_base64(view.entries().chain(restored.iter().copied()));
        let result = secret::parse(kind, &object, &values).and_then(|secret| {
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
                        let place = (namespace, name);
                        rewrite.proxy(place, repository, &spec, proxy, rules)?;
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

/// Changes to a Secret's data, in base64, and what its author is told.
#[derive(Default)]
struct Rewrite {
    data: BTreeMap<&'static str, String>,
    removed: Vec<&'static str>,
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
        (namespace, name): (&str, &str),
        secret: &RepositorySecret,
        spec: &CredentialBindingSpec,
        written: Option<&str>,
        rules: &SecretRules,
    ) -> Result<(), Vec<Named>> {
        if spec.delivery != Delivery::Proxy {
            let left_over = Self::without_proxy(written, name);
            self.removed
                .extend(left_over.into_iter().flat_map(|it| it.removed));
            return Ok(());
        }
        let object = object_name(namespace, name);
        let mut warnings = derive::proxy_warnings(&object, secret);
        // What is on its way out needs no warning.
        warnings.retain(|warning| {
            warning.code != Code::ClientCertificateUnused || self.removed.is_empty()
        });
        self.warnings.extend(warnings);
        if !rules.credential_proxy {
            self.warnings
                .push(Named::new(Code::ProxyNotInstalled, &*object));
        }
        let ring = rules.derivation.proxy_keys.as_ref();
        let Some(keys) = ring.and_then(|ring| ring.keys()) else {
            return Ok(());
        };
        let url = secret.written_url();
        let subject = derive::subject(namespace, name, secret, &url);
        if keys.judge(written, &subject) == Written::Current {
            return Ok(());
        }
        // Another Secret's value comes along when a Secret is copied.
        if written.is_some_and(|written| proxy_key::written_for(written).is_none()) {
            let detail = format!("{object}, key {}", key::PROXY);
            return Err(vec![Named::new(Code::ProxyConflict, detail)]);
        }
        let value = keys.value(&subject);
        self.data.insert(key::PROXY, STANDARD.encode(&*value));
        Ok(())
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

    fn into_verdict(self, view: &SecretView<'_>) -> Verdict {
        let data = Slot::root().member("data", view.data.is_some());
        let mut patch = Patch::new();
        for name in self.removed.into_iter().filter(|name| view.has(name)) {
            patch.remove(&data, name);
        }
        let changed = self.data.into_iter().filter(|(name, text)| {
            !view
                .entries()
                .any(|(key, value)| key == *name && value == text)
        });
        patch.set(
            &data,
            changed.map(|(name, text)| (name, Value::String(text))),
        );
        Verdict::patch(patch, self.warnings)
    }
}

#[cfg(test)]
mod tests;
