//! Pods to inject: stock Argo CD's own, and those in the shapes that the
//! operator, the Helm chart and the public guides give them.

use std::fs;

use anyhow::{Context as _, Result};
use harness::control_plane::documents;
use harness::peers::Peers;
use serde_json::{Value, json};

/// Parsed install.yaml, as JSON.
pub(crate) struct Stock {
    objects: Vec<Value>,
}

impl Stock {
    pub(crate) fn read(peers: &Peers) -> Result<Self> {
        let path = peers.argocd_module().join("manifests/install.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let objects = documents(&text)?
            .into_iter()
            .map(|object| serde_json::to_value(object).context("an object is not JSON"))
            .collect::<Result<_>>()?;
        Ok(Self { objects })
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects
            .iter()
            .filter(move |object| object["kind"] == kind)
    }

    /// The workloads as they are written.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &Value> {
        self.of_kind("Deployment")
            .chain(self.of_kind("StatefulSet"))
    }

    /// The workload with this name.
    pub(crate) fn workload(&self, name: &str) -> Result<&Value> {
        self.workloads()
            .find(|workload| workload["metadata"]["name"] == name)
            .with_context(|| format!("install.yaml has no workload {name}"))
    }

    /// The pod that the controllers make of a workload.
    pub(crate) fn pod(&self, name: &str) -> Result<Value> {
        let template = &self.workload(name)?["spec"]["template"];
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": template["metadata"],
            "spec": template["spec"],
        });
        pod["metadata"]["generateName"] = json!(format!("{name}-"));
        Ok(pod)
    }

    /// The names of the service accounts.
    pub(crate) fn service_accounts(&self) -> impl Iterator<Item = &str> {
        self.of_kind("ServiceAccount")
            .filter_map(|account| account["metadata"]["name"].as_str())
    }
}

/// Sets annotations of the pod.
pub(crate) fn annotate(pod: &mut Value, pairs: &[(&str, &str)]) {
    for (name, value) in pairs {
        pod["metadata"]["annotations"][*name] = json!(value);
    }
}

/// Appends to the list at `pointer`, which is made if it is not there.
pub(crate) fn push(pod: &mut Value, pointer: &str, value: Value) -> Result<()> {
    let (parent, name) = pointer.rsplit_once('/').context("a pointer without /")?;
    let parent = pod
        .pointer_mut(parent)
        .with_context(|| format!("there is no {parent}"))?;
    match &mut parent[name] {
        Value::Array(list) => list.push(value),
        place => *place = json!([value]),
    }
    Ok(())
}

/// Adds a volume and mounts it in the first container.
pub(crate) fn mount(pod: &mut Value, volume: Value, path: &str) -> Result<()> {
    let mount = json!({ "name": volume["name"], "mountPath": path });
    push(pod, "/spec/volumes", volume)?;
    push(pod, "/spec/containers/0/volumeMounts", mount)
}

/// Sets a variable of the first container.
pub(crate) fn set_env(pod: &mut Value, name: &str, value: &str) -> Result<()> {
    push(
        pod,
        "/spec/containers/0/env",
        json!({ "name": name, "value": value }),
    )
}

/// A config management plugin beside the repo-server.
pub(crate) fn plugin(name: &str) -> Value {
    json!({
        "name": name,
        "image": "plugin.example.test/plugin:1",
        "command": ["/var/run/argocd/argocd-cmp-server"],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "runAsNonRoot": true,
            "runAsUser": 999,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [
            { "name": "var-files", "mountPath": "/var/run/argocd" },
            { "name": "plugins", "mountPath": "/home/argocd/cmp-server/plugins" },
        ],
    })
}

/// The pod as the operator makes it for the resource `openshift-gitops`.
pub(crate) fn of_operator(mut pod: Value, component: &str) -> Value {
    let name = format!("openshift-gitops-{component}");
    let account = match component {
        "repo-server" => "default".to_owned(),
        _ => format!("openshift-gitops-argocd-{component}"),
    };
    pod["metadata"]["generateName"] = json!(format!("{name}-"));
    pod["metadata"]["labels"] = json!({ "app.kubernetes.io/name": name });
    pod["spec"]["serviceAccountName"] = json!(account);
    pod
}

/// What the OpenShift guide adds to controller and server: the exec plugin in
/// an emptyDir, fetched by an init container, and the SPIFFE CSI volume.
pub(crate) fn with_guides_volumes(mut pod: Value) -> Result<Value> {
    let binaries = json!({ "name": "binaries", "emptyDir": {} });
    mount(&mut pod, binaries, "/binaries")?;
    let socket = json!({
        "name": "spiffe-workload-api",
        "csi": { "driver": "csi.spiffe.io", "readOnly": true },
    });
    mount(&mut pod, socket, "/run/spire/sockets")?;
    let install = json!({
        "name": "install-jwt-spiffe",
        "image": "registry.example.test/tools:1",
        "command": ["/bin/bash", "-c", "mv /tmp/k8s-spiffe-workload-jwt-exec-auth /binaries"],
        "volumeMounts": [{ "name": "binaries", "mountPath": "/binaries" }],
    });
    push(&mut pod, "/spec/initContainers", install)?;
    Ok(pod)
}
