//! What becomes of a Secret's data: a parsed Secret flows in, additions,
//! removals and warnings flow out, and then a patch.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use shared::{
    binding::{CredentialBindingSpec, Delivery},
    errors::{Code, Named},
};

use super::{
    super::{
        Verdict,
        patch::{Patch, Slot},
    },
    SecretRules, config,
    view::SecretView,
};
use crate::{
    derive, proxy_key,
    secret::{ClusterSecret, ExecConfig, RepositorySecret, key},
};

/// What a Secret wants with its `proxy`.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProxyWish {
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
pub(super) struct Rewrite {
    pub(super) data: BTreeMap<&'static str, String>,
    pub(super) removed: Vec<&'static str>,
    pub(super) proxy: ProxyWish,
    pub(super) lacks_key: bool,
    pub(super) warnings: Vec<Named>,
}

impl Rewrite {
    /// Of a Secret that cannot be used, and may stay as it is.
    pub(super) fn of_invalid(problems: Vec<Named>) -> Self {
        Self {
            warnings: problems,
            proxy: ProxyWish::OfInvalid,
            ..Self::default()
        }
    }

    /// Brings keys back that an update has dropped.
    pub(super) fn restore(&mut self, dropped: &[(&'static str, &str)], object: &str) {
        if dropped.is_empty() {
            return;
        }
        self.warnings.push(Named::new(Code::KeysRestored, object));
        let dropped = dropped.iter().map(|(name, text)| (*name, text.to_string()));
        self.data.extend(dropped);
    }

    pub(super) fn repository(
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
    pub(super) fn proxy(
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
    pub(super) fn without_proxy(written: Option<&str>, name: &str) -> Option<Self> {
        let named = written.and_then(proxy_key::written_for)?;
        (named == name).then(|| Self {
            removed: vec![key::PROXY],
            ..Self::default()
        })
    }

    pub(super) fn cluster(
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
    pub(super) fn effective(self, view: &SecretView<'_>) -> Self {
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

    pub(super) fn into_verdict(self, view: &SecretView<'_>) -> Verdict {
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
    pub(super) fn into_words(self, view: &SecretView<'_>, object: &str) -> Verdict {
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
