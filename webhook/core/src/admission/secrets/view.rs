//! What is read of a Secret under admission. Values stay in base64 as they came.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::{annotations::OurAnnotations, review::Text};
use crate::{
    annotations::{REMOVE_STATIC_CREDENTIALS, ROTATE_PROXY_KEY},
    secret::{self, ClusterConfig, ExecConfig, SecretKind, SecretValues, key},
};

/// What is read of a Secret. Values stay in base64 as they came.
#[derive(Deserialize)]
pub(super) struct SecretView<'a> {
    #[serde(borrow, default)]
    pub(super) metadata: Metadata<'a>,
    #[serde(borrow, default)]
    pub(super) data: Option<BTreeMap<Text<'a>, Option<Text<'a>>>>,
    #[serde(default)]
    pub(super) immutable: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata<'a> {
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) generate_name: Option<Text<'a>>,
    #[serde(borrow)]
    labels: Option<BTreeMap<Text<'a>, Text<'a>>>,
    #[serde(borrow)]
    annotations: Option<OurAnnotations<'a>>,
}

impl SecretView<'_> {
    pub(super) fn kind(&self) -> Option<SecretKind> {
        let labels = self.metadata.labels.as_ref()?;
        let (_, value) = labels
            .iter()
            .find(|(name, _)| name.as_str() == secret::SECRET_TYPE)?;
        SecretKind::from_label(value)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.data.iter().flatten();
        entries.filter_map(|(name, value)| Some((name.as_str(), value.as_ref()?.as_str())))
    }

    pub(super) fn values(&self, restored: &[(&'static str, &str)]) -> SecretValues {
        SecretValues::from_base64(self.entries().chain(restored.iter().copied()))
    }

    /// The value of a key as it came.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.entries()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    pub(super) fn has_same(&self, names: &[&str], other: &SecretView<'_>) -> bool {
        names.iter().all(|name| self.raw(name) == other.raw(name))
    }

    /// Whether an update brings a new value of the annotation for that.
    pub(super) fn asks_for_another_key(&self, old: Option<&SecretView<'_>>) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        let asked = annotations.and_then(|found| found.find(ROTATE_PROXY_KEY));
        let before = old.and_then(|old| old.metadata.annotations.as_ref());
        let before = before.and_then(|found| found.find(ROTATE_PROXY_KEY));
        old.is_some() && asked.is_some_and(|asked| !asked.is_empty()) && asked != before
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    pub(super) fn may_remove_static_credentials(&self) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        annotations.and_then(|found| found.find(REMOVE_STATIC_CREDENTIALS)) == Some("true")
    }

    /// The workload identity keys of `old` that an update dropped. Argo CD's
    /// own updates replace a cluster Secret's data and lose keys that Argo CD
    /// does not know; while the exec plugin is ours, they are still meant.
    pub(super) fn dropped_keys<'o>(
        &self,
        kind: SecretKind,
        old: &'o SecretView<'_>,
    ) -> Vec<(&'static str, &'o str)> {
        let is_ours = |name: &str| key::WORKLOAD_IDENTITY.contains(&name);
        if kind != SecretKind::Cluster || self.entries().any(|(name, _)| is_ours(name)) {
            return Vec::new();
        }
        let dropped: Vec<_> = key::WORKLOAD_IDENTITY
            .into_iter()
            .filter_map(|name| Some((name, old.raw(name)?)))
            .collect();
        // Most clusters have none, and their config need not be read.
        if dropped.is_empty() {
            return dropped;
        }
        let values = SecretValues::from_base64(self.entries());
        let config = values.text(key::CONFIG).map(ClusterConfig::parse);
        // The volume has the plugin under the guides' name, too.
        let is_known = |exec: &ExecConfig| exec.is_ours() || exec.is_guides();
        let runs_ours =
            config.is_some_and(|config| config.is_ok_and(|it| it.exec().is_some_and(is_known)));
        if runs_ours { dropped } else { Vec::new() }
    }
}
