//! The credential proxy beside the repo-server: the pod and its main container
//! flow in, a native sidecar with its volumes flows out, or the reason why
//! there is none. Pure.
//!
//! All or nothing: half of it would break Argo CD's TLS, or be of no use. A pod
//! that has the sidecar is left as it is.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::{
    errors::{Code, Named},
    layout::{
        CSI_DRIVER, PROXY_CONTAINER, PROXY_PROGRAM, PROXY_STATE_PATH, PROXY_STATE_VOLUME_NAME,
        PROXY_VIEW, PROXY_VIEW_PATH, PROXY_VOLUME_NAME, TLS_DATA_PATH, TLS_DATA_VOLUME_NAME,
        VIEW_ATTRIBUTE,
    },
};

use super::{
    PodConfig,
    container::{self, Additions},
    view::{Container, PodSpec},
};
use crate::{
    admission::patch::{Patch, Slot},
    annotations::{Component, PodOptions},
    settings::Setting,
};

/// Where stock Argo CD mounts the ConfigMap argocd-tls-certs-cm.
const STOCK_TLS_DATA_PATH: &str = "/app/config/tls";

/// The variables that lead through a proxy of the environment.
const PROXY_VARIABLES: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// Where the node does not have it.
    #[default]
    IfNotPresent,
    /// Not at all.
    Never,
}

impl PullPolicy {
    /// Its name in Kubernetes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

impl Setting for PullPolicy {
    const FIX: &'static str = "Use Always, IfNotPresent or Never";

    fn parse(text: &str) -> Result<Self, String> {
        [Self::Always, Self::IfNotPresent, Self::Never]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or_else(|| "it is no pull policy".to_owned())
    }
}

/// How the credential proxy runs and where its image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarSettings {
    /// What is reserved for it, by resource: quantities as Kubernetes writes them.
    pub requests: BTreeMap<String, String>,
    /// What it has at most, by resource.
    pub limits: BTreeMap<String, String>,
    /// When its image is pulled.
    pub pull_policy: PullPolicy,
    /// Secrets with which its image is pulled.
    pub pull_secrets: Vec<String>,
}

impl Default for SidecarSettings {
    fn default() -> Self {
        let pairs = |cpu: &str, memory: &str| {
            let pairs = [("cpu", cpu), ("memory", memory)];
            pairs
                .map(|(name, quantity)| (name.into(), quantity.into()))
                .into()
        };
        Self {
            // An autoscaler by CPU needs a request of every container, and a
            // quota refuses a pod where one has no limit.
            requests: pairs("10m", "32Mi"),
            limits: pairs("1", "512Mi"),
            pull_policy: PullPolicy::default(),
            pull_secrets: Vec::new(),
        }
    }
}

/// The sidecar that a pod gets.
pub(super) struct Sidecar {
    container: Value,
    volumes: Vec<Value>,
    pull_secrets: Vec<Value>,
}

/// Whether this container is the credential proxy.
pub(super) fn is_sidecar(container: &Container<'_>) -> bool {
    &*container.name == PROXY_CONTAINER && container.program() == Some(PROXY_PROGRAM)
}

/// Plans the sidecar for the pod's `main` container, and adds to its additions
/// what that needs. `None` where the pod gets none; what stands in the way is
/// a warning.
pub(super) fn plan(
    spec: &PodSpec<'_>,
    main: Option<(&Container<'_>, &mut Additions)>,
    component: Component,
    options: &PodOptions<'_>,
    config: &PodConfig,
    warnings: &mut Vec<Named>,
) -> Option<Sidecar> {
    let image = config.proxy_image.as_deref()?;
    let (main, additions) = main?;
    let is_wanted = component == Component::RepoServer && options.proxy && options.credentials;
    if !is_wanted {
        return None;
    }
    if spec.init_containers().iter().any(is_sidecar) {
        container::trust_warnings(main, false, warnings);
        return None;
    }
    match fits(spec, main).and_then(|()| container::proxied(main, spec, additions)) {
        Ok(()) => {
            container::trusting(main, additions);
            container::trust_warnings(main, true, warnings);
            Some(Sidecar {
                container: sidecar(image, main, &config.sidecar),
                volumes: volumes(),
                pull_secrets: missing_secrets(spec, &config.sidecar),
            })
        }
        Err(conflict) => {
            warnings.push(conflict);
            None
        }
    }
}

/// Whether the pod has room for the sidecar.
fn fits(spec: &PodSpec<'_>, main: &Container<'_>) -> Result<(), Named> {
    if spec.share_process_namespace == Some(true) {
        let detail = "spec.shareProcessNamespace: the credential proxy was left out";
        return Err(Named::new(Code::SharedProcessNamespace, detail));
    }
    let mut containers = spec.containers().iter().chain(spec.init_containers());
    if containers.any(|container| &*container.name == PROXY_CONTAINER) {
        let detail = format!("container `{PROXY_CONTAINER}`; the credential proxy was left out");
        return Err(Named::new(Code::ContainerConflict, detail));
    }
    let ours = [
        PROXY_VOLUME_NAME,
        PROXY_STATE_VOLUME_NAME,
        TLS_DATA_VOLUME_NAME,
    ];
    // Also a mount of a volume that is not there yet: ours would come to be in it.
    let mounts = || {
        let containers = spec.containers().iter().chain(spec.init_containers());
        containers.flat_map(Container::mounts)
    };
    for name in ours {
        let is_volume = spec.volumes().iter().any(|volume| &*volume.name == name);
        if is_volume || mounts().any(|mount| &*mount.name == name) {
            let detail = format!("volume `{name}`; the credential proxy was left out");
            return Err(Named::new(Code::VolumeConflict, detail));
        }
    }
    let certificates = main.mount_at(STOCK_TLS_DATA_PATH);
    if certificates.is_some_and(|mount| mount.has_expression()) {
        let detail = format!(
            "{}: {STOCK_TLS_DATA_PATH} has a subPathExpr; the credential proxy was left out",
            main.name
        );
        return Err(Named::new(Code::MountConflict, detail));
    }
    Ok(())
}

/// The secrets that the image is pulled with and that the pod does not name
/// yet. Kubernetes has them for a pod, not for a container; those of the service
/// account are in the pod already, because its admission comes before ours.
fn missing_secrets(spec: &PodSpec<'_>, settings: &SidecarSettings) -> Vec<Value> {
    let present = |name: &str| {
        let mut secrets = spec.image_pull_secrets.iter().flatten();
        secrets.any(|secret| secret.name.as_deref() == Some(name))
    };
    let names = settings.pull_secrets.iter();
    names
        .filter(|name| !present(name))
        .map(|name| json!({"name": name}))
        .collect()
}

fn sidecar(image: &str, main: &Container<'_>, settings: &SidecarSettings) -> Value {
    let mut mounts = vec![
        json!({"name": PROXY_VOLUME_NAME, "mountPath": PROXY_VIEW_PATH, "readOnly": true}),
        json!({"name": PROXY_STATE_VOLUME_NAME, "mountPath": PROXY_STATE_PATH}),
        json!({"name": TLS_DATA_VOLUME_NAME, "mountPath": TLS_DATA_PATH}),
    ];
    if let Some(mount) = main.mount_at(STOCK_TLS_DATA_PATH) {
        let mut copy = json!({
            "name": &*mount.name, "mountPath": STOCK_TLS_DATA_PATH, "readOnly": true,
        });
        if !mount.sub_path().is_empty() {
            copy["subPath"] = json!(mount.sub_path());
        }
        mounts.push(copy);
    }
    let mut sidecar = json!({
        "name": PROXY_CONTAINER,
        "image": image,
        "imagePullPolicy": settings.pull_policy.as_str(),
        // A native sidecar: it runs before and as long as the containers, and
        // the operator, which looks at the first container, does not see it.
        "restartPolicy": "Always",
        "command": [PROXY_PROGRAM],
        "args": [
            "run", "--view", PROXY_VIEW_PATH, "--state", PROXY_STATE_PATH,
            "--tls-data", TLS_DATA_PATH,
        ],
        "startupProbe": {
            "exec": {"command": [PROXY_PROGRAM, "ready", "--state", PROXY_STATE_PATH]},
            "periodSeconds": 1,
            "failureThreshold": 60,
        },
        // No runAsUser: the image has one that is not root, and OpenShift
        // chooses its own.
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": resources(settings),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    });
    let variables: Vec<_> = PROXY_VARIABLES
        .into_iter()
        .filter_map(|name| Some(main.variable(name)?.to_json()))
        .collect();
    if !variables.is_empty() {
        sidecar["env"] = Value::Array(variables);
    }
    sidecar
}

fn resources(settings: &SidecarSettings) -> Value {
    let both = [
        ("requests", &settings.requests),
        ("limits", &settings.limits),
    ];
    let set = both
        .into_iter()
        .filter(|(_, quantities)| !quantities.is_empty());
    set.map(|(name, quantities)| (name.to_owned(), json!(quantities)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn volumes() -> Vec<Value> {
    let in_memory =
        |name, limit| json!({"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": limit}});
    vec![
        json!({
            "name": PROXY_VOLUME_NAME,
            "csi": {
                "driver": CSI_DRIVER,
                "readOnly": true,
                "volumeAttributes": {VIEW_ATTRIBUTE: PROXY_VIEW},
            },
        }),
        in_memory(PROXY_STATE_VOLUME_NAME, "1Mi"),
        in_memory(TLS_DATA_VOLUME_NAME, "16Mi"),
    ]
}

impl Sidecar {
    /// Adds it to the pod.
    pub(super) fn write(self, spec: &PodSpec<'_>, patch: &mut Patch) {
        let list = |name, exists| Slot::root().member("spec", true).member(name, exists);
        patch.append(&list("volumes", spec.volumes.is_some()), self.volumes);
        let containers = list("initContainers", spec.init_containers.is_some());
        patch.append(&containers, vec![self.container]);
        let secrets = list("imagePullSecrets", spec.image_pull_secrets.is_some());
        patch.append(&secrets, self.pull_secrets);
    }
}

#[cfg(test)]
mod tests;
