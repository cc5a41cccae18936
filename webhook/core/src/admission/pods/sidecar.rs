//! The credential proxy beside the repo-server: the pod and its main container
//! flow in, a native sidecar with its volumes flows out, or the reason why
//! there is none. Pure.
//!
//! All or nothing: half of it would break Argo CD's TLS, or be of no use. A pod
//! that has the sidecar is left as it is.

use crate::annotations::{Component, PodOptions};
use serde_json::{Value, json};
use shared::{
    errors::{Code, Named},
    layout::{
        AUTHORITY_DIR, CSI_DRIVER, PROXY_CONTAINER, PROXY_PROGRAM, PROXY_STATE_PATH,
        PROXY_STATE_VOLUME_NAME, PROXY_VIEW, PROXY_VIEW_PATH, PROXY_VOLUME_NAME,
        SYSTEM_CERTIFICATES_PATH, TLS_DATA_PATH, TLS_DATA_VOLUME_NAME, VIEW_ATTRIBUTE,
    },
};

use super::{
    PlannedVolume, PodConfig,
    container::{self, Additions},
    view::{Container, PodSpec},
};
use crate::admission::patch::{Patch, Slot};

/// Where Argo CD reads the certificates of servers from (its
/// `ARGOCD_TLS_DATA_PATH`, common/common.go); also where stock Argo CD mounts
/// the ConfigMap argocd-tls-certs-cm.
const ARGOCD_TLS_DATA_PATH: &str = "ARGOCD_TLS_DATA_PATH";
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

/// The sidecar that a pod gets.
pub(super) struct Sidecar {
    container: Value,
    volumes: Vec<Value>,
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
    if !is_wanted || spec.init_containers().iter().any(is_sidecar) {
        return None;
    }
    match fits(spec, main).and_then(|()| container::proxied(main, spec, additions)) {
        Ok(()) => {
            container::trusting(main, &trusted_folders(), additions);
            Some(Sidecar {
                container: sidecar(image, main),
                volumes: volumes(),
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

/// What the main container needs: Argo CD's certificates from the sidecar.
pub(super) const CERTIFICATES: PlannedVolume<'static> = PlannedVolume {
    name: TLS_DATA_VOLUME_NAME,
    // Of no CSI driver.
    driver: "",
    is_new: true,
};

/// The variable that leads Argo CD to them, and its value.
pub(super) const CERTIFICATES_VARIABLE: (&str, &str) = (ARGOCD_TLS_DATA_PATH, TLS_DATA_PATH);

/// What programs trust that Argo CD starts without naming a file (Helm, when it
/// builds dependencies): Go reads `SSL_CERT_DIR` at each program's start.
fn trusted_folders() -> String {
    format!("{SYSTEM_CERTIFICATES_PATH}:{TLS_DATA_PATH}/{AUTHORITY_DIR}")
}

fn sidecar(image: &str, main: &Container<'_>) -> Value {
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
        "imagePullPolicy": "IfNotPresent",
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
        "resources": {
            // An autoscaler by CPU needs a request of every container.
            "requests": {"cpu": "10m", "memory": "32Mi"},
            "limits": {"memory": "512Mi"},
        },
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
    }
}

#[cfg(test)]
mod tests;
