//! Every case goes through [`check`]: a snapshot of the verdict, and a second
//! decision about the patched pod that finds nothing to do.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::*;
use crate::{admission::Outcome, annotations};

static WITH_SPIFFE: LazyLock<PodConfig> = LazyLock::new(|| PodConfig {
    spiffe_csi_driver: true,
    ..PodConfig::default()
});
static WITHOUT_SPIFFE: LazyLock<PodConfig> = LazyLock::new(PodConfig::default);

pub(super) fn verdict(pod: &Value, entry: Entry, config: &PodConfig) -> Verdict {
    let bytes = serde_json::to_vec(pod).unwrap();
    let view: PodView<'_> = serde_json::from_slice(&bytes).unwrap();
    decide(&view, entry, config)
}

fn show(verdict: &Verdict) -> Value {
    let warnings: Vec<_> = verdict.warnings.iter().map(Named::to_string).collect();
    match &verdict.outcome {
        Outcome::Skip(reason) => json!({"skip": reason.as_str(), "warnings": warnings}),
        Outcome::Patch(patch) => json!({"patch": patch, "warnings": warnings}),
        Outcome::Deny(error) => panic!("a pod is never denied: {error}"),
    }
}

pub(super) fn apply(pod: &Value, verdict: &Verdict) -> Value {
    let mut patched = pod.clone();
    if let Outcome::Patch(patch) = &verdict.outcome {
        json_patch::patch(&mut patched, patch.operations()).unwrap();
    }
    patched
}

/// Returns the patched pod.
#[track_caller]
pub(super) fn check(name: &str, pod: &Value, entry: Entry, config: &PodConfig) -> Value {
    let first = verdict(pod, entry, config);
    insta::assert_json_snapshot!(name, show(&first));
    let patched = apply(pod, &first);
    let second = verdict(&patched, entry, config);
    match &second.outcome {
        Outcome::Patch(patch) => assert!(patch.is_empty(), "second pass: {patch:?}"),
        skip => assert_eq!(*skip, first.outcome),
    }
    assert_eq!(second.warnings, first.warnings);
    patched
}

/// A pod in the shape of stock Argo CD's install.yaml.
pub(super) fn stock(component: &str) -> Value {
    let name = format!("argocd-{component}");
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": format!("{name}-5d8f-"),
            "creationTimestamp": null,
            "labels": {"app.kubernetes.io/name": name, "pod-template-hash": "5d8f"},
        },
        "spec": {
            "serviceAccountName": name,
            "volumes": [
                {"name": "tls-certs", "configMap": {"name": "argocd-tls-certs-cm"}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "home", "emptyDir": {}},
            ],
            "containers": [{
                "name": name,
                "image": "quay.io/argoproj/argocd:v3.2.11",
                "args": [format!("/usr/local/bin/{name}")],
                "env": [
                    {"name": "REDIS_PASSWORD",
                     "valueFrom": {"secretKeyRef": {"name": "argocd-redis", "key": "auth"}}},
                    {"name": "HELM_CACHE_HOME", "value": "/helm-working-dir"},
                ],
                "volumeMounts": [
                    {"name": "tls-certs", "mountPath": "/app/config/tls"},
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "home", "mountPath": "/home/argocd"},
                ],
            }],
        },
    })
}

pub(super) fn annotate(pod: &mut Value, pairs: &[(&str, &str)]) {
    for (name, value) in pairs {
        pod["metadata"]["annotations"][*name] = json!(value);
    }
}

/// Adds a volume and mounts it in the first container.
pub(super) fn mount(pod: &mut Value, volume: Value, path: &str) {
    let name = volume["name"].clone();
    let spec = &mut pod["spec"];
    spec["volumes"].as_array_mut().unwrap().push(volume);
    spec["containers"][0]["volumeMounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": name, "mountPath": path}));
}

pub(super) fn set_env(pod: &mut Value, name: &str, value: &str) {
    let env = pod["spec"]["containers"][0]["env"].as_array_mut().unwrap();
    env.push(json!({"name": name, "value": value}));
}

/// The shape that the public guide gives to controller and server.
pub(super) fn openshift(component: &str) -> Value {
    let mut pod = stock(component);
    pod["metadata"]["labels"]["app.kubernetes.io/name"] =
        json!(format!("openshift-gitops-{component}"));
    pod["spec"]["serviceAccountName"] = json!(format!("openshift-gitops-argocd-{component}"));
    mount(
        &mut pod,
        json!({"name": "binaries", "emptyDir": {}}),
        "/binaries",
    );
    mount(
        &mut pod,
        json!({"name": "spiffe-workload-api",
               "csi": {"driver": "csi.spiffe.io", "readOnly": true}}),
        "/run/spire/sockets",
    );
    pod["spec"]["initContainers"] = json!([{
        "name": "install-jwt-spiffe",
        "command": ["/bin/bash", "-c", "install"],
        "volumeMounts": [{"name": "binaries", "mountPath": "/binaries"}],
    }]);
    pod
}

pub(super) fn plugin(name: &str) -> Value {
    json!({
        "name": name,
        "command": ["/var/run/argocd/argocd-cmp-server"],
        "volumeMounts": [{"name": "plugins", "mountPath": "/home/argocd/cmp-server/plugins"}],
    })
}

#[test]
fn the_labels_of_the_view_are_those_of_the_contract() {
    let text = json!({
        annotations::APP_NAME: "name", annotations::INJECTED: "v1",
        annotations::APP_PART_OF: "whole", annotations::APP_COMPONENT: "part",
    })
    .to_string();
    let labels: view::Labels<'_> = serde_json::from_str(&text).unwrap();
    let expected = annotations::AppLabels {
        name: Some("name"),
        part_of: Some("whole"),
        component: Some("part"),
    };
    assert_eq!(labels.app(), expected);
    assert_eq!(labels.injected.as_deref(), Some("v1"));
}

#[test]
fn stock_workloads() {
    for component in ["repo-server", "server", "application-controller"] {
        let name = format!("stock-{component}");
        check(&name, &stock(component), Entry::Namespace, &WITHOUT_SPIFFE);
        let name = format!("stock-{component}-spiffe");
        check(&name, &stock(component), Entry::Namespace, &WITH_SPIFFE);
    }
    for other in [
        "dex-server",
        "redis",
        "notifications-controller",
        "applicationset-controller",
        "commit-server",
    ] {
        let verdict = verdict(&stock(other), Entry::Namespace, &WITH_SPIFFE);
        assert_eq!(verdict, Verdict::skip(Skip::NotArgoCd, vec![]), "{other}");
    }
}

/// A pod of another product beside Argo CD.
fn neighbour(name: &str, part_of: Option<&str>, container: Value) -> Value {
    json!({
        "metadata": {"labels": {
            "app.kubernetes.io/name": name, "app.kubernetes.io/component": "server",
            "app.kubernetes.io/part-of": part_of,
        }},
        "spec": {"serviceAccountName": name, "containers": [container]},
    })
}

#[test]
fn servers_of_other_products_are_left_alone() {
    let argo = json!({"name": "argo-server", "args": ["server", "--auth-mode=server"]});
    let client = json!({
        "name": "argocd-mcp-server", "command": ["node", "dist/index.js"],
        "args": ["--argocd-server", "argocd-server", "https://argocd-server"],
        "env": [{"name": "ARGOCD_BASE_URL", "value": "https://argocd-server"}],
    });
    for pod in [
        neighbour("argo-workflows-server", Some("argo-workflows"), argo),
        neighbour("metrics-server", None, json!({"name": "metrics-server"})),
        neighbour(
            "minio-server",
            None,
            json!({"name": "minio", "args": ["server", "/data"]}),
        ),
        neighbour("argocd-mcp-server", None, client.clone()),
        neighbour("argocd-mcp-server", Some("mcp"), client),
        neighbour("gitea-repo-server", None, json!({"name": "repo-server"})),
        neighbour(
            "vela-application-controller",
            None,
            json!({"name": "manager"}),
        ),
    ] {
        let name = &pod["metadata"]["labels"]["app.kubernetes.io/name"];
        let found = verdict(&pod, Entry::Namespace, &WITH_SPIFFE);
        assert_eq!(found, Verdict::skip(Skip::NotArgoCd, vec![]), "{name}");
        // Whoever means it says so.
        let mut named = pod.clone();
        annotate(&mut named, &[(annotations::COMPONENT, "server")]);
        let found = verdict(&named, Entry::Namespace, &WITH_SPIFFE);
        assert_eq!(found.label().as_str(), "patch", "{name}");
    }
}

#[test]
fn argo_cds_own_are_known_by_name_product_container_or_program() {
    let program = "/usr/local/bin/argocd-server";
    for (name, part_of, container) in [
        ("argocd-server", None, json!({"name": "x"})),
        ("argocd-server", Some("platform"), json!({"name": "x"})),
        ("toto-server", Some("argocd"), json!({"name": "server"})),
        (
            "openshift-gitops-server",
            None,
            json!({"name": "argocd-server"}),
        ),
        (
            "main-server",
            Some("platform"),
            json!({"name": "server", "args": [program]}),
        ),
        (
            "main-server",
            None,
            json!({"name": "a", "command": ["argocd-server", "--insecure"]}),
        ),
        (
            "main-server",
            None,
            json!({"name": "a", "command": ["tini", "--", program]}),
        ),
        (
            "main-server",
            None,
            json!({"name": "a", "command": ["sh", "-c"], "args": ["set -e; exec argocd-server"]}),
        ),
    ] {
        let pod = neighbour(name, part_of, container);
        let found = verdict(&pod, Entry::Namespace, &WITHOUT_SPIFFE);
        assert_eq!(found.label().as_str(), "patch", "{pod}");
    }
    let mut mcp = neighbour("argocd-mcp-server", Some("argocd"), json!({"name": "mcp"}));
    mcp["metadata"]["labels"]["app.kubernetes.io/component"] = json!("mcp-server");
    let found = verdict(&mcp, Entry::Namespace, &WITHOUT_SPIFFE);
    assert_eq!(found, Verdict::skip(Skip::NotArgoCd, vec![]));
}

#[test]
fn a_docker_configuration_at_home_is_not_hidden() {
    let secret = |name| json!({"name": name, "secret": {"secretName": "legacy-docker"}});
    for (home, path) in [
        (None, "/home/argocd/.docker"),
        (None, "/home/argocd/.docker/config.json"),
        (Some("/root"), "/root/.docker/"),
    ] {
        let mut pod = stock("repo-server");
        mount(&mut pod, secret("docker"), path);
        if let Some(home) = home {
            set_env(&mut pod, "HOME", home);
        }
        let name = path.trim_matches('/').replace('/', "-");
        let patched = check(
            &format!("docker-at-home-{name}"),
            &pod,
            Entry::Namespace,
            &WITHOUT_SPIFFE,
        );
        let env = patched["spec"]["containers"][0]["env"].to_string();
        assert!(!env.contains("DOCKER_CONFIG"), "{env}");
    }
    // A home without one, and another user's.
    for (home, path) in [
        (None, "/home/argocd"),
        (Some("/root"), "/home/argocd/.docker"),
    ] {
        let mut pod = stock("repo-server");
        pod["spec"]["containers"][0]["volumeMounts"]
            .as_array_mut()
            .unwrap()
            .retain(|it| it["name"] != "home");
        mount(&mut pod, json!({"name": "own", "emptyDir": {}}), path);
        if let Some(home) = home {
            set_env(&mut pod, "HOME", home);
        }
        assert_eq!(
            verdict(&pod, Entry::Namespace, &WITHOUT_SPIFFE).warnings,
            []
        );
    }
}

#[test]
fn what_env_from_may_hold_is_overridden_with_a_word() {
    let with = |sources: Value| {
        let mut pod = stock("repo-server");
        pod["spec"]["containers"][0]["envFrom"] = sources;
        pod
    };
    let pod = with(json!([
        {"configMapRef": {"name": "settings"}},
        {"prefix": "DOCKER_", "secretRef": {"name": "more", "optional": true}},
        {"prefix": "HELM_", "secretRef": {"name": "of-helm"}},
        {"futureRef": {"name": "x"}},
    ]));
    check("env-from", &pod, Entry::Namespace, &WITHOUT_SPIFFE);
    for none in [
        json!(null),
        json!([]),
        json!([{"prefix": "HELM_", "secretRef": {"name": "a"}}]),
    ] {
        assert_eq!(
            verdict(&with(none), Entry::Namespace, &WITHOUT_SPIFFE).warnings,
            []
        );
    }
    // A variable of the container's own is left as it is, and says so by itself.
    let mut pod = with(json!([{"configMapRef": {"name": "settings"}}]));
    set_env(&mut pod, "DOCKER_CONFIG", "/x");
    let found = verdict(&pod, Entry::Namespace, &WITHOUT_SPIFFE).warnings;
    let codes: Vec<_> = found.iter().map(|warning| warning.code).collect();
    assert_eq!(codes, [Code::EnvConflict]);
}

#[test]
fn openshift_workloads_keep_what_the_guide_made() {
    for component in ["server", "application-controller"] {
        let name = format!("openshift-{component}");
        let pod = openshift(component);
        let patched = check(&name, &pod, Entry::Namespace, &WITH_SPIFFE);
        let env = patched["spec"]["containers"][0]["env"].as_array().unwrap();
        let endpoint = json!("unix:///run/spire/sockets/spire-agent.sock");
        assert!(env.iter().any(|variable| variable["value"] == endpoint));
        assert_eq!(
            patched["spec"]["initContainers"],
            pod["spec"]["initContainers"]
        );
    }
    let mut pod = openshift("repo-server");
    pod["spec"]["serviceAccountName"] = json!("default");
    check(
        "openshift-repo-server",
        &pod,
        Entry::Namespace,
        &WITH_SPIFFE,
    );
}

#[test]
fn an_endpoint_inside_a_mounted_spiffe_volume_is_left_as_it_is() {
    let mut pod = openshift("server");
    set_env(
        &mut pod,
        "SPIFFE_ENDPOINT_SOCKET",
        "unix:///run/spire/sockets/api.sock",
    );
    let verdict = verdict(&pod, Entry::Namespace, &WITH_SPIFFE);
    assert_eq!(verdict.warnings, []);
    assert!(!show(&verdict)["patch"].to_string().contains("SPIFFE"));
}

#[test]
fn the_nearest_opt_in_wins() {
    let pod = stock("server");
    let with = |value| {
        let mut pod = pod.clone();
        annotate(&mut pod, &[(annotations::INJECT, value)]);
        pod
    };
    let outcome = |pod: &Value, entry| verdict(pod, entry, &WITHOUT_SPIFFE).label().as_str();
    assert_eq!(outcome(&pod, Entry::Namespace), "patch");
    assert_eq!(outcome(&pod, Entry::Annotation), "skip");
    assert_eq!(outcome(&with("enabled"), Entry::Annotation), "patch");
    assert_eq!(outcome(&with("enabled"), Entry::Namespace), "patch");
    for entry in [Entry::Namespace, Entry::Annotation] {
        let verdict = verdict(&with("disabled"), entry, &WITHOUT_SPIFFE);
        assert_eq!(verdict, Verdict::skip(Skip::OptedOut, vec![]));
    }
    // A value that cannot be read counts as not set.
    assert_eq!(outcome(&with("yes"), Entry::Namespace), "patch");
    let verdict = verdict(&with("yes"), Entry::Annotation, &WITHOUT_SPIFFE);
    assert_eq!(verdict.outcome, Outcome::Skip(Skip::NotOptedIn));
    assert_eq!(verdict.warnings[0].code, Code::InvalidAnnotation);
}

#[test]
fn the_component_can_be_named() {
    let mut pod = stock("redis");
    annotate(&mut pod, &[(annotations::INJECT, "enabled")]);
    check(
        "unknown-component",
        &pod,
        Entry::Annotation,
        &WITHOUT_SPIFFE,
    );
    annotate(&mut pod, &[(annotations::COMPONENT, "repo-server")]);
    check("named-component", &pod, Entry::Annotation, &WITHOUT_SPIFFE);
}

#[test]
fn helm_chart_container_names() {
    let mut pod = stock("repo-server");
    pod["spec"]["containers"][0]["name"] = json!("repo-server");
    let main = pod["spec"]["containers"][0].clone();
    pod["spec"]["containers"] = json!([plugin("a-plugin"), main]);
    check("helm-chart", &pod, Entry::Namespace, &WITHOUT_SPIFFE);
}

#[test]
fn the_first_container_that_is_no_plugin_is_the_main_one() {
    let mut pod = stock("repo-server");
    pod["spec"]["containers"][0]["name"] = json!("renamed");
    let main = pod["spec"]["containers"][0].clone();
    pod["spec"]["containers"] = json!([plugin("a-plugin"), main]);
    let patched = check("renamed-main", &pod, Entry::Namespace, &WITHOUT_SPIFFE);
    assert_eq!(patched["spec"]["containers"][0], plugin("a-plugin"));
}

#[test]
fn plugins_and_init_containers_are_left_alone_unless_named() {
    let mut pod = stock("repo-server");
    pod["spec"]["initContainers"] = json!([
        {"name": "copyutil", "command": ["/bin/cp", "-n", "/usr/local/bin/argocd",
                                         "/var/run/argocd/argocd-cmp-server"]},
        {"name": "fetch", "command": ["/bin/true"]},
    ]);
    let containers = pod["spec"]["containers"].as_array_mut().unwrap();
    containers.push(plugin("one"));
    containers.push(json!({"name": "two", "command": ["/bin/sh", "-c"],
                           "args": ["exec /var/run/argocd/argocd-cmp-server"]}));
    containers.push(json!({"name": "istio-proxy"}));
    let patched = check("plugins", &pod, Entry::Namespace, &WITHOUT_SPIFFE);
    for index in 1..4 {
        let path = format!("/spec/containers/{index}");
        assert_eq!(patched.pointer(&path), pod.pointer(&path));
    }
    assert_eq!(
        patched["spec"]["initContainers"],
        pod["spec"]["initContainers"]
    );

    annotate(
        &mut pod,
        &[(annotations::CONTAINERS, "two, fetch, missing")],
    );
    check("plugins-named", &pod, Entry::Namespace, &WITHOUT_SPIFFE);
    annotate(
        &mut pod,
        &[(annotations::EXCLUDE_CONTAINERS, "argocd-repo-server,two")],
    );
    check("plugins-excluded", &pod, Entry::Namespace, &WITHOUT_SPIFFE);
    annotate(
        &mut pod,
        &[(
            annotations::EXCLUDE_CONTAINERS,
            "argocd-repo-server,two,fetch",
        )],
    );
    let verdict = verdict(&pod, Entry::Namespace, &WITHOUT_SPIFFE);
    assert_eq!(verdict.outcome, Outcome::Skip(Skip::NoContainer));
}

#[test]
fn host_network_is_skipped() {
    let mut pod = stock("server");
    pod["spec"]["hostNetwork"] = json!(true);
    check("host-network", &pod, Entry::Namespace, &WITH_SPIFFE);
}

#[test]
fn what_annotations_leave_out() {
    let cases: [(&str, &[(&str, &str)]); 6] = [
        ("no-credentials", &[(annotations::CREDENTIALS, "false")]),
        ("no-exec-auth", &[(annotations::EXEC_AUTH, "none")]),
        (
            "init-container",
            &[(annotations::EXEC_AUTH, "init-container")],
        ),
        ("no-spiffe", &[(annotations::SPIFFE_CSI, "false")]),
        (
            "spiffe-socket-path",
            &[(annotations::SPIFFE_SOCKET_PATH, "/run/spire/agent.sock")],
        ),
        (
            "spiffe-socket-in-root",
            &[(annotations::SPIFFE_SOCKET_PATH, "/agent.sock")],
        ),
    ];
    for (name, annotations) in cases {
        let mut pod = stock("application-controller");
        annotate(&mut pod, annotations);
        check(name, &pod, Entry::Namespace, &WITH_SPIFFE);
    }
}

#[test]
fn the_repo_server_gets_the_workload_api_on_request() {
    let mut pod = stock("repo-server");
    annotate(&mut pod, &[(annotations::SPIFFE_CSI, "true")]);
    check("spiffe-on-request", &pod, Entry::Namespace, &WITH_SPIFFE);
    check(
        "spiffe-unavailable",
        &pod,
        Entry::Namespace,
        &WITHOUT_SPIFFE,
    );
}

#[test]
fn conflicting_volumes_are_left_out() {
    let mut pod = stock("server");
    let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
    volumes.push(json!({"name": "workload-identity", "emptyDir": {}}));
    volumes.push(json!({"name": "spiffe-workload-api", "hostPath": {"path": "/run/spire"}}));
    check("conflict-volumes", &pod, Entry::Namespace, &WITH_SPIFFE);
}

#[test]
fn conflicting_mounts_are_left_out() {
    let config_map = |name| json!({"name": name, "configMap": {"name": name}});
    for (name, component, path) in [
        ("credentials", "repo-server", "/var/run/workload-identity"),
        ("credentials-run", "server", "/run/workload-identity/"),
        (
            "credentials-below",
            "server",
            "/var/run/workload-identity/docker",
        ),
        ("credentials-above", "server", "/var/run"),
        ("binaries", "server", "/binaries"),
        ("binaries-below", "server", "/binaries/tool"),
        ("spiffe", "server", "/spiffe-workload-api"),
    ] {
        let mut pod = stock(component);
        mount(&mut pod, config_map("theirs"), path);
        let name = format!("conflict-mount-{name}");
        check(&name, &pod, Entry::Namespace, &WITH_SPIFFE);
    }
}

#[test]
fn a_writable_folder_above_is_no_conflict() {
    let mut pod = stock("server");
    mount(&mut pod, json!({"name": "run", "emptyDir": {}}), "/run");
    let verdict = verdict(&pod, Entry::Namespace, &WITHOUT_SPIFFE);
    assert_eq!(verdict.warnings, []);
    assert!(
        show(&verdict)
            .to_string()
            .contains("/var/run/workload-identity")
    );
}

#[test]
fn a_read_only_binaries_folder_is_a_conflict() {
    let mut pod = openshift("server");
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array_mut();
    let binaries = mounts.unwrap().iter_mut().find(|m| m["name"] == "binaries");
    binaries.unwrap()["readOnly"] = json!(true);
    check(
        "binaries-read-only",
        &pod,
        Entry::Namespace,
        &WITHOUT_SPIFFE,
    );
}

#[test]
fn conflicting_variables_are_left_out() {
    let mut pod = stock("repo-server");
    set_env(&mut pod, "DOCKER_CONFIG", "/home/argocd/.docker");
    check("conflict-env-docker", &pod, Entry::Namespace, &WITH_SPIFFE);

    let mut pod = stock("repo-server");
    let env = pod["spec"]["containers"][0]["env"].as_array_mut().unwrap();
    env.push(json!({"name": "DOCKER_CONFIG", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}));
    let found = verdict(&pod, Entry::Namespace, &WITH_SPIFFE).warnings;
    assert_eq!(found[0].code, Code::EnvConflict);

    let mut pod = stock("server");
    set_env(&mut pod, "SPIFFE_ENDPOINT_SOCKET", "unix:///tmp/agent.sock");
    check("conflict-env-spiffe", &pod, Entry::Namespace, &WITH_SPIFFE);
}

#[test]
fn the_same_content_is_no_conflict() {
    let mut pod = stock("repo-server");
    set_env(
        &mut pod,
        "DOCKER_CONFIG",
        "/var/run/workload-identity/docker",
    );
    mount(
        &mut pod,
        json!({"name": "own-name",
               "csi": {"driver": "csi.workload-identity.dev", "readOnly": true}}),
        "/var/run/workload-identity",
    );
    let verdict = verdict(&pod, Entry::Namespace, &WITHOUT_SPIFFE);
    assert_eq!(
        show(&verdict),
        json!({
            "patch": [{"op": "add", "value": "v1",
                       "path": "/metadata/labels/workload-identity.dev~1injected"}],
            "warnings": [],
        })
    );
}

#[test]
fn missing_parents_are_made() {
    let pod = json!({
        "metadata": {"labels": {"app.kubernetes.io/name": "argocd-repo-server"}},
        "spec": {"serviceAccountName": "argocd-repo-server",
                 "containers": [{"name": "argocd-repo-server", "env": null}]},
    });
    check("missing-parents", &pod, Entry::Namespace, &WITHOUT_SPIFFE);
}

#[test]
fn unknown_fields_survive() {
    let mut pod = stock("server");
    pod["spec"]["futureField"] = json!({"a": [1, 2.50, "x"]});
    pod["spec"]["containers"][0]["futurePolicy"] = json!({"b": null});
    pod["spec"]["volumes"][1]["emptyDir"]["futureMedium"] = json!("HugePages-2Gi");
    let patched = apply(&pod, &verdict(&pod, Entry::Namespace, &WITH_SPIFFE));
    for path in [
        "/spec/futureField",
        "/spec/containers/0/futurePolicy",
        "/spec/volumes/1",
    ] {
        assert_eq!(patched.pointer(path), pod.pointer(path));
    }
}

#[test]
fn two_hundred_containers() {
    let mut pod = stock("server");
    let mut names = Vec::new();
    for index in 0..199 {
        let name = format!("sidecar-{index}");
        let containers = pod["spec"]["containers"].as_array_mut().unwrap();
        containers.push(json!({"name": name}));
        names.push(name);
    }
    annotate(&mut pod, &[(annotations::CONTAINERS, &names.join(","))]);
    let first = verdict(&pod, Entry::Namespace, &WITH_SPIFFE);
    let patched = apply(&pod, &first);
    for container in patched["spec"]["containers"].as_array().unwrap() {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let ours = mounts.iter().filter(|mount| mount["readOnly"] == true);
        assert_eq!(ours.count(), 3, "{container}");
    }
    let second = verdict(&patched, Entry::Namespace, &WITH_SPIFFE);
    assert_eq!(second.label().as_str(), "keep");
}
