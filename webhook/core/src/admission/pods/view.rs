//! The parts of a pod that the decision reads, borrowed from the request.
//!
//! Everything else in the pod is skipped over by the parser, so that fields of
//! future Kubernetes versions neither cost anything nor get lost.

use std::fmt;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json, value::RawValue};

use crate::{
    admission::{annotations::OurAnnotations, review::Text},
    annotations::{AppLabels, starts},
};

/// A pod. Every field may be missing or `null`.
#[derive(Debug, Default, Deserialize)]
pub struct PodView<'a> {
    #[serde(borrow, default)]
    pub(super) metadata: Option<Metadata<'a>>,
    #[serde(borrow, default)]
    pub(super) spec: Option<PodSpec<'a>>,
}

impl PodView<'_> {
    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        let annotations = self.metadata.as_ref()?.annotations.as_ref()?;
        annotations.find(name)
    }

    pub(super) fn labels(&self) -> Option<&Labels<'_>> {
        self.metadata.as_ref()?.labels.as_ref()
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Metadata<'a> {
    #[serde(borrow, default)]
    pub(super) labels: Option<Labels<'a>>,
    #[serde(borrow, default)]
    pub(super) annotations: Option<OurAnnotations<'a>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Labels<'a> {
    // The names of crate::annotations::{APP_NAME, APP_PART_OF, APP_COMPONENT,
    // INJECTED}; a test compares them.
    #[serde(borrow, default, rename = "app.kubernetes.io/name")]
    app_name: Option<Text<'a>>,
    #[serde(borrow, default, rename = "app.kubernetes.io/part-of")]
    app_part_of: Option<Text<'a>>,
    #[serde(borrow, default, rename = "app.kubernetes.io/component")]
    app_component: Option<Text<'a>>,
    #[serde(borrow, default, rename = "workload-identity.dev/injected")]
    pub(super) injected: Option<Text<'a>>,
}

impl Labels<'_> {
    /// What the pod says that it is.
    pub(super) fn app(&self) -> AppLabels<'_> {
        AppLabels {
            name: self.app_name.as_deref(),
            part_of: self.app_part_of.as_deref(),
            component: self.app_component.as_deref(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec<'a> {
    #[serde(default)]
    pub(super) host_network: Option<bool>,
    #[serde(default)]
    pub(super) share_process_namespace: Option<bool>,
    #[serde(borrow, default)]
    pub(super) service_account_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) image_pull_secrets: Option<Vec<NamedRef<'a>>>,
    #[serde(borrow, default)]
    pub(super) volumes: Option<Vec<Volume<'a>>>,
    #[serde(borrow, default)]
    pub(super) init_containers: Option<Vec<Container<'a>>>,
    #[serde(borrow, default)]
    pub(super) containers: Option<Vec<Container<'a>>>,
}

impl<'a> PodSpec<'a> {
    pub(super) fn volumes(&self) -> &[Volume<'a>] {
        self.volumes.as_deref().unwrap_or_default()
    }

    pub(super) fn init_containers(&self) -> &[Container<'a>] {
        self.init_containers.as_deref().unwrap_or_default()
    }

    pub(super) fn containers(&self) -> &[Container<'a>] {
        self.containers.as_deref().unwrap_or_default()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Volume<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    #[serde(borrow, default)]
    csi: Option<Csi<'a>>,
    #[serde(default)]
    empty_dir: Option<IgnoredAny>,
}

impl Volume<'_> {
    /// Whether this is the driver's volume for Argo CD's own containers: one
    /// with another view is the credential proxy's alone.
    pub(super) fn is_of_driver(&self, driver: &str) -> bool {
        let csi = self.csi.as_ref();
        csi.is_some_and(|csi| &*csi.driver == driver && !csi.has_view())
    }

    pub(super) fn is_empty_dir(&self) -> bool {
        self.empty_dir.is_some()
    }
}

#[derive(Debug, Deserialize)]
struct Csi<'a> {
    #[serde(borrow)]
    driver: Text<'a>,
    #[serde(borrow, default, rename = "volumeAttributes")]
    attributes: Option<Attributes<'a>>,
}

#[derive(Debug, Deserialize)]
struct Attributes<'a> {
    // The name of shared::layout::VIEW_ATTRIBUTE; a test compares them.
    #[serde(borrow, default)]
    view: Option<Text<'a>>,
}

impl Csi<'_> {
    fn has_view(&self) -> bool {
        let attributes = self.attributes.as_ref();
        attributes.is_some_and(|attributes| attributes.view.is_some())
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    #[serde(borrow, default)]
    command: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    args: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    pub(super) env: Option<Vec<EnvVar<'a>>>,
    #[serde(borrow, default)]
    env_from: Option<Vec<EnvSource<'a>>>,
    #[serde(borrow, default)]
    pub(super) volume_mounts: Option<Vec<VolumeMount<'a>>>,
}

impl<'a> Container<'a> {
    /// Whether this is a config management plugin: its program is the one that
    /// the init container `copyutil` puts into the pod.
    pub(super) fn is_plugin(&self) -> bool {
        let words = |list: &Option<Vec<Text<'_>>>| {
            list.iter()
                .flatten()
                .any(|word| word.contains("argocd-cmp-server"))
        };
        words(&self.command) || words(&self.args)
    }

    /// The program that it starts, if the pod says so.
    pub(super) fn program(&self) -> Option<&str> {
        self.command.as_ref()?.first().map(|word| &**word)
    }

    /// Whether it has this name or starts this program.
    pub(super) fn runs(&self, program: &str) -> bool {
        let words = self.command.iter().chain(&self.args).flatten();
        &*self.name == program || starts(program, words.map(|word| &**word))
    }

    /// The mount at exactly this path.
    pub(super) fn mount_at(&self, path: &str) -> Option<&VolumeMount<'a>> {
        self.mounts().iter().find(|mount| mount.path() == path)
    }

    pub(super) fn mounts(&self) -> &[VolumeMount<'a>] {
        self.volume_mounts.as_deref().unwrap_or_default()
    }

    /// The sources that may have a variable with this name: what is in them is
    /// not known here.
    pub(super) fn sources_of(&self, name: &str) -> impl Iterator<Item = &EnvSource<'a>> {
        let sources = self.env_from.iter().flatten();
        sources.filter(move |source| name.starts_with(source.prefix.as_deref().unwrap_or_default()))
    }

    /// The variable with this name; the last one wins, as in the container.
    pub(super) fn variable(&self, name: &str) -> Option<&EnvVar<'a>> {
        let env = self.env.as_deref().unwrap_or_default();
        env.iter().rev().find(|variable| &*variable.name == name)
    }
}

/// An entry of `envFrom`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EnvSource<'a> {
    #[serde(borrow, default)]
    prefix: Option<Text<'a>>,
    #[serde(borrow, default)]
    config_map_ref: Option<NamedRef<'a>>,
    #[serde(borrow, default)]
    secret_ref: Option<NamedRef<'a>>,
}

impl fmt::Display for EnvSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, source) = match (&self.config_map_ref, &self.secret_ref) {
            (Some(source), _) => ("ConfigMap", source),
            (None, Some(source)) => ("Secret", source),
            (None, None) => return f.write_str("another source"),
        };
        write!(f, "{kind} {}", source.name.as_deref().unwrap_or_default())
    }
}

/// A reference to an object of the pod's namespace.
#[derive(Debug, Deserialize)]
pub(super) struct NamedRef<'a> {
    #[serde(borrow, default)]
    pub(super) name: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct EnvVar<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    /// Missing where the value comes from elsewhere (`valueFrom`).
    #[serde(borrow, default)]
    pub(super) value: Option<Text<'a>>,
    #[serde(borrow, default, rename = "valueFrom")]
    value_from: Option<&'a RawValue>,
}

impl EnvVar<'_> {
    /// The variable for another container of the pod.
    pub(super) fn to_json(&self) -> Value {
        let mut variable = json!({"name": &*self.name});
        if let Some(value) = self.value.as_deref() {
            variable["value"] = json!(value);
        }
        let from = self.value_from.map(RawValue::get);
        if let Some(Ok(source)) = from.map(serde_json::from_str::<Value>) {
            variable["valueFrom"] = source;
        }
        variable
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VolumeMount<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    #[serde(borrow)]
    mount_path: Text<'a>,
    #[serde(borrow, default)]
    sub_path: Option<Text<'a>>,
    #[serde(borrow, default)]
    sub_path_expr: Option<Text<'a>>,
    #[serde(default)]
    read_only: Option<bool>,
}

impl VolumeMount<'_> {
    /// The mount path as the container sees it, without a slash at the end.
    pub(super) fn path(&self) -> &str {
        match self.mount_path.trim_end_matches('/') {
            "" => "/",
            path => path,
        }
    }

    /// The folder or file of the volume that is mounted; empty for all of it.
    pub(super) fn sub_path(&self) -> &str {
        let given = |text: &Option<Text<'_>>| text.as_deref().is_some_and(|path| !path.is_empty());
        if given(&self.sub_path_expr) {
            // An expression is never one of ours.
            return self.sub_path_expr.as_deref().unwrap_or_default();
        }
        self.sub_path.as_deref().unwrap_or_default()
    }

    /// Whether what is mounted depends on the container's environment.
    pub(super) fn has_expression(&self) -> bool {
        self.sub_path_expr
            .as_deref()
            .is_some_and(|path| !path.is_empty())
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only.unwrap_or(false)
    }
}
