//! Idempotence over pods that fit and pods that do not.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Entry, PodConfig,
    tests::{apply, verdict},
};
use crate::{admission::Outcome, annotations};

/// Pods with everything that the decision looks at, fitting or not.
fn any_pod() -> impl Strategy<Value = Value> {
    let path = prop::sample::select(vec![
        "/binaries",
        "/binaries/exec-auth",
        "/run",
        "/run/spire/sockets",
        "/spiffe-workload-api",
        "/var/run/workload-identity",
        "/var/run/workload-identity/x",
        "/",
        "/tmp",
        "/app/config/tls",
        "/var/run/workload-identity-tls",
        "/home/argocd/.docker",
    ]);
    let volume_name = prop::sample::select(vec![
        "workload-identity",
        "spiffe-workload-api",
        "workload-identity-tls",
        "a",
        "b",
    ]);
    let source = prop::sample::select(vec![
        json!({"emptyDir": {}}),
        json!({"configMap": {"name": "x"}}),
        json!({"csi": {"driver": "csi.spiffe.io"}}),
        json!({"csi": {"driver": "csi.workload-identity.dev"}}),
        json!({"csi": {"driver": "csi.workload-identity.dev", "volumeAttributes": {"view": "proxy"}}}),
    ]);
    let volumes = prop::collection::btree_map(volume_name.clone(), source, 0..4).prop_map(|map| {
        let named = map.into_iter().map(|(name, mut source)| {
            source["name"] = json!(name);
            source
        });
        named.collect::<Vec<_>>()
    });
    let sub_path = prop::option::of(prop::sample::select(vec!["bin", "bin/exec-auth", "x"]));
    let mount = (volume_name, path, sub_path, any::<bool>()).prop_map(|(name, path, sub, ro)| {
        json!({"name": name, "mountPath": path, "subPath": sub, "readOnly": ro})
    });
    let env = prop::sample::select(vec![
        json!({"name": "DOCKER_CONFIG", "value": "/var/run/workload-identity/docker"}),
        json!({"name": "DOCKER_CONFIG", "value": "/x"}),
        json!({"name": "SPIFFE_ENDPOINT_SOCKET", "value": "unix:///run/spire/sockets/a"}),
        json!({"name": "SPIFFE_ENDPOINT_SOCKET", "valueFrom": {}}),
        json!({"name": "OTHER"}),
        json!({"name": "ARGOCD_TLS_DATA_PATH", "value": "/x"}),
        json!({"name": "SSL_CERT_DIR", "value": "/x"}),
        json!({"name": "https_proxy", "value": "http://proxy:3128"}),
        json!({"name": "HOME", "value": "/x"}),
    ]);
    let source = prop::sample::select(vec![
        json!({"configMapRef": {"name": "x"}}),
        json!({"prefix": "DOCKER_", "secretRef": {"name": "x"}}),
        json!({"prefix": "SSL_", "secretRef": {"name": "x"}}),
        json!({"prefix": "NONE_", "secretRef": {"name": "x"}}),
    ]);
    let name = prop::sample::select(vec![
        "argocd-server",
        "repo-server",
        "one",
        "two",
        "credential-proxy",
    ]);
    let list = |item| prop::option::of(prop::collection::vec(item, 0..4));
    let container = (name, list(env.boxed()), list(mount.boxed()), list(source.boxed()))
        .prop_map(|(name, env, mounts, sources)| {
            json!({"name": name, "env": env, "volumeMounts": mounts, "envFrom": sources})
        })
        .boxed();
    let label = prop::sample::select(vec![
        "argocd-server",
        "x-repo-server",
        "argocd-application-controller",
    ]);
    let value = |values: &'static [&'static str]| prop::option::of(prop::sample::select(values));
    let annotations = (
        value(&["one", "one,two,argocd-server", "none", "credential-proxy"]),
        value(&["argocd-server", "two"]),
        value(&["true", "false"]),
        value(&["csi", "none", "init-container"]),
        value(&["/run/spire/sockets/a", "/x/y/z.sock", "/z.sock"]),
    );
    (
        label,
        prop::option::of(volumes),
        list(container.clone()),
        list(container),
        annotations,
    )
        .prop_map(|(label, volumes, containers, init, annotations)| {
            json!({
                "metadata": {
                    "labels": {annotations::APP_NAME: label},
                    "annotations": serde_json::Map::from_iter([
                        (annotations::CONTAINERS, annotations.0),
                        (annotations::EXCLUDE_CONTAINERS, annotations.1),
                        (annotations::SPIFFE_CSI, annotations.2),
                        (annotations::EXEC_AUTH, annotations.3),
                        (annotations::SPIFFE_SOCKET_PATH, annotations.4),
                    ].into_iter().filter_map(|(k, v)| Some((k.to_owned(), json!(v?))))),
                },
                "spec": {"volumes": volumes, "containers": containers, "initContainers": init},
            })
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever a pod has: the patch applies, only adds, and a second decision
    /// finds nothing to do and warns of the same.
    #[test]
    fn a_patched_pod_needs_no_patch(
        mut pod in any_pod(), spiffe in any::<bool>(), proxy in any::<bool>(),
        pull in prop::sample::select(vec![json!(null), json!([]), json!([{"name": "mirror"}]), json!([{"name": "own"}, {}])]),
    ) {
        pod["spec"]["imagePullSecrets"] = pull;
        let mut config = PodConfig { spiffe_csi_driver: spiffe, ..PodConfig::default() };
        config.proxy_image = proxy.then(|| "agent:v1".into());
        config.sidecar.pull_secrets = vec!["mirror".into()];
        let first = verdict(&pod, Entry::Namespace, &config);
        let patched = apply(&pod, &first);
        let second = verdict(&patched, Entry::Namespace, &config);
        prop_assert_eq!(&second.warnings, &first.warnings);
        match (first.outcome, second.outcome) {
            (Outcome::Patch(first), Outcome::Patch(second)) => {
                prop_assert!(second.is_empty(), "{:?}", second);
                for operation in first.operations().iter() {
                    prop_assert!(matches!(operation, json_patch::PatchOperation::Add(_)));
                }
            }
            (first, second) => prop_assert_eq!(first, second),
        }
    }
}
