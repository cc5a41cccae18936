//! Pods of an installation that has the credential proxy.

use serde_json::{Value, json};
use shared::{
    errors::Code,
    layout::{PROXY_CONTAINER, PROXY_VIEW, VIEW_ATTRIBUTE},
};

use crate::{
    admission::{
        Outcome, Verdict,
        pods::{
            Entry, PodConfig, PullPolicy,
            tests::{annotate, apply, check, mount, openshift, plugin, set_env, stock, verdict},
        },
    },
    annotations,
};

fn config() -> PodConfig {
    PodConfig {
        proxy_image: Some("registry.example.org/agent:v1".into()),
        ..PodConfig::default()
    }
}

fn settle(name: &str, pod: &Value) -> Value {
    check(name, pod, Entry::Namespace, &config())
}

fn sidecar(pod: &Value) -> Option<&Value> {
    let containers = pod["spec"]["initContainers"].as_array()?;
    containers.iter().find(|it| it["name"] == PROXY_CONTAINER)
}

/// The code of the warning that says why there is no sidecar.
#[track_caller]
fn left_out(pod: &Value) -> Code {
    let with = verdict(pod, Entry::Namespace, &config());
    let without = verdict(pod, Entry::Namespace, &PodConfig::default());
    assert_eq!(
        with.outcome, without.outcome,
        "nothing of the sidecar is there"
    );
    let known = &without.warnings;
    let mut fresh = with.warnings.iter().filter(|it| !known.contains(it));
    let code = fresh.next().unwrap().code;
    assert!(fresh.next().is_none());
    code
}

#[test]
fn the_view_reads_the_attribute_of_the_contract() {
    assert_eq!((VIEW_ATTRIBUTE, PROXY_VIEW), ("view", "proxy"));
}

#[test]
fn a_repo_server_gets_the_credential_proxy_and_no_other_component_does() {
    let patched = settle("proxy-stock-repo-server", &stock("repo-server"));
    let containers = patched["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1, "a native sidecar is an init container");
    for mount in containers[0]["volumeMounts"].as_array().unwrap() {
        let path = mount["mountPath"].as_str().unwrap();
        assert!(!path.contains("proxy"), "{path} is the sidecar's alone");
    }
    for component in ["server", "application-controller"] {
        let pod = stock(component);
        let (with, without) = (config(), PodConfig::default());
        assert_eq!(
            verdict(&pod, Entry::Namespace, &with),
            verdict(&pod, Entry::Namespace, &without)
        );
    }
}

#[test]
fn the_operators_and_the_charts_repo_servers() {
    settle("proxy-openshift-repo-server", &openshift("repo-server"));
    let mut chart = stock("repo-server");
    chart["spec"]["containers"][0]["name"] = json!("repo-server");
    chart["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(plugin("cmp"));
    chart["spec"]["initContainers"] = json!([{"name": "copyutil"}]);
    let mounts = &mut chart["spec"]["containers"][0]["volumeMounts"];
    mounts[0]["subPath"] = json!("certificates");
    let patched = settle("proxy-helm-chart", &chart);
    assert_eq!(patched["spec"]["initContainers"][0]["name"], "copyutil");
    let bare = json!({
        "metadata": {"labels": {"app.kubernetes.io/name": "argocd-repo-server"}},
        "spec": {"serviceAccountName": "argocd-repo-server",
                 "containers": [{"name": "argocd-repo-server"}]},
    });
    settle("proxy-missing-parents", &bare);
}

#[test]
fn proxies_of_the_environment_are_the_sidecars_too() {
    let mut pod = stock("repo-server");
    set_env(&mut pod, "HTTPS_PROXY", "http://first:3128");
    set_env(&mut pod, "HTTPS_PROXY", "http://proxy.corp:3128");
    set_env(&mut pod, "no_proxy", ".corp");
    let env = pod["spec"]["containers"][0]["env"].as_array_mut().unwrap();
    let source = json!({"configMapKeyRef": {"name": "proxies", "key": "http", "future": [1.50]}});
    env.push(json!({"name": "HTTP_PROXY", "valueFrom": source}));
    let patched = settle("proxy-environment", &pod);
    assert_eq!(
        sidecar(&patched).unwrap()["env"],
        json!([
            {"name": "HTTP_PROXY", "valueFrom": source},
            {"name": "HTTPS_PROXY", "value": "http://proxy.corp:3128"},
            {"name": "no_proxy", "value": ".corp"},
        ])
    );
}

#[test]
fn trusted_folders_of_the_users_own_stay() {
    let mut pod = stock("repo-server");
    set_env(&mut pod, "SSL_CERT_DIR", "/my/roots");
    let verdict = verdict(&pod, Entry::Namespace, &config());
    // Helm's building of dependencies would not trust the credential proxy.
    let warning = &verdict.warnings[0];
    assert_eq!(
        (warning.code, verdict.warnings.len()),
        (Code::EnvConflict, 1)
    );
    let joined = "SSL_CERT_DIR=/my/roots:/var/run/workload-identity-tls/_authority";
    assert!(warning.detail.contains(joined), "{warning}");
    let patched = settle("proxy-own-trust", &pod);
    assert!(sidecar(&patched).is_some());
    let env = patched["spec"]["containers"][0]["env"].as_array().unwrap();
    let values: Vec<_> = env
        .iter()
        .filter(|it| it["name"] == "SSL_CERT_DIR")
        .map(|it| &it["value"])
        .collect();
    assert_eq!(values, ["/my/roots"]);
}

#[test]
fn trusted_folders_with_the_proxys_among_them_are_fine() {
    let mut pod = stock("repo-server");
    let folders = "/my/roots:/var/run/workload-identity-tls/_authority/";
    set_env(&mut pod, "SSL_CERT_DIR", folders);
    assert_eq!(verdict(&pod, Entry::Namespace, &config()).warnings, []);
    let mut pod = stock("repo-server");
    let env = pod["spec"]["containers"][0]["env"].as_array_mut().unwrap();
    env.push(json!({"name": "SSL_CERT_DIR", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}));
    let found = verdict(&pod, Entry::Namespace, &config()).warnings;
    assert_eq!(found[0].code, Code::EnvConflict);
}

#[test]
fn what_env_from_may_hold_is_overridden_with_a_word() {
    let mut pod = stock("repo-server");
    pod["spec"]["containers"][0]["envFrom"] = json!([
        {"prefix": "SSL_", "configMapRef": {"name": "trust"}},
        {"prefix": "ARGOCD_TLS", "configMapRef": {"name": "tls"}},
    ]);
    let patched = settle("proxy-env-from", &pod);
    assert!(sidecar(&patched).is_some());
}

#[test]
fn resources_and_pulling_are_the_installations_choice() {
    let resources = |config: &PodConfig| {
        let pod = stock("repo-server");
        let patched = apply(&pod, &verdict(&pod, Entry::Namespace, config));
        sidecar(&patched).unwrap()["resources"].clone()
    };
    // A quota on any of the four refuses a container without it.
    assert_eq!(
        resources(&config()),
        json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}})
    );
    let pairs = |text: &[(&str, &str)]| {
        text.iter()
            .map(|(n, q)| ((*n).into(), (*q).into()))
            .collect()
    };
    let mut own = config();
    own.sidecar.requests = pairs(&[("cpu", "50m"), ("ephemeral-storage", "1Mi")]);
    own.sidecar.limits = pairs(&[]);
    own.sidecar.pull_policy = PullPolicy::Always;
    assert_eq!(
        resources(&own),
        json!({"requests": {"cpu": "50m", "ephemeral-storage": "1Mi"}})
    );
    own.sidecar.requests = pairs(&[]);
    assert_eq!(resources(&own), json!({}));
    let pod = stock("repo-server");
    let patched = apply(&pod, &verdict(&pod, Entry::Namespace, &own));
    assert_eq!(sidecar(&patched).unwrap()["imagePullPolicy"], "Always");
}

#[test]
fn the_pod_learns_where_the_image_may_be_pulled() {
    let mut config = config();
    config.sidecar.pull_secrets = vec!["mirror".into(), "other".into()];
    let secrets = |pod: &Value| pod["spec"]["imagePullSecrets"].clone();
    let patched = check(
        "proxy-pull-secrets",
        &stock("repo-server"),
        Entry::Namespace,
        &config,
    );
    assert_eq!(
        secrets(&patched),
        json!([{"name": "mirror"}, {"name": "other"}])
    );
    let mut pod = stock("repo-server");
    pod["spec"]["imagePullSecrets"] = json!([{"name": "own"}, {}, {"name": "mirror"}]);
    let patched = check("proxy-pull-secrets-too", &pod, Entry::Namespace, &config);
    assert_eq!(
        secrets(&patched),
        json!([{"name": "own"}, {}, {"name": "mirror"}, {"name": "other"}])
    );
    // Who gets no sidecar gets none of its secrets.
    for pod in [stock("server"), {
        let mut pod = stock("repo-server");
        pod["spec"]["shareProcessNamespace"] = json!(true);
        pod
    }] {
        let patched = apply(&pod, &verdict(&pod, Entry::Namespace, &config));
        assert_eq!(secrets(&patched), Value::Null);
    }
}

#[test]
fn what_stands_in_the_way_is_named_and_nothing_is_half_done() {
    // It would come to have the credentials.
    let mut pod = stock("repo-server");
    let dangling = json!({"name": "workload-identity-proxy", "mountPath": "/x"});
    let mounts = &mut pod["spec"]["containers"][0]["volumeMounts"];
    mounts.as_array_mut().unwrap().push(dangling);
    assert_eq!(left_out(&pod), Code::VolumeConflict);

    let mut pod = stock("repo-server");
    pod["spec"]["shareProcessNamespace"] = json!(true);
    assert_eq!(left_out(&pod), Code::SharedProcessNamespace);

    let mut pod = stock("repo-server");
    set_env(&mut pod, "ARGOCD_TLS_DATA_PATH", "/my/certificates");
    assert_eq!(left_out(&pod), Code::EnvConflict);

    let mut pod = stock("repo-server");
    let foreign = json!({"name": PROXY_CONTAINER, "command": ["/squid"]});
    pod["spec"]["initContainers"] = json!([foreign]);
    assert_eq!(left_out(&pod), Code::ContainerConflict);
    let mut pod = stock("repo-server");
    pod["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(foreign);
    assert_eq!(left_out(&pod), Code::ContainerConflict);

    for name in [
        "workload-identity-proxy",
        "credential-proxy-state",
        "workload-identity-tls",
    ] {
        let mut pod = stock("repo-server");
        let volume = json!({"name": name, "emptyDir": {}});
        pod["spec"]["volumes"].as_array_mut().unwrap().push(volume);
        assert_eq!(left_out(&pod), Code::VolumeConflict, "{name}");
    }

    let mut pod = stock("repo-server");
    let own = json!({"name": "own", "emptyDir": {}});
    mount(&mut pod, own, "/var/run/workload-identity-tls");
    assert_eq!(left_out(&pod), Code::MountConflict);
    let mut pod = stock("repo-server");
    pod["spec"]["containers"][0]["volumeMounts"][0]["subPathExpr"] = json!("$(REGION)");
    assert_eq!(left_out(&pod), Code::MountConflict);
}

#[test]
fn it_can_be_left_out_on_purpose() {
    for annotation in [annotations::PROXY, annotations::CREDENTIALS] {
        let mut pod = stock("repo-server");
        annotate(&mut pod, &[(annotation, "false")]);
        let (with, without) = (config(), PodConfig::default());
        let with = verdict(&pod, Entry::Namespace, &with);
        assert_eq!(
            with,
            verdict(&pod, Entry::Namespace, &without),
            "{annotation}"
        );
    }
    let mut pod = stock("repo-server");
    annotate(
        &mut pod,
        &[(annotations::EXCLUDE_CONTAINERS, "argocd-repo-server")],
    );
    let Verdict { outcome, .. } = verdict(&pod, Entry::Namespace, &config());
    assert!(matches!(outcome, Outcome::Skip(_)), "{outcome:?}");
}

#[test]
fn naming_the_sidecar_gives_it_nothing_of_argo_cds() {
    let mut pod = stock("repo-server");
    annotate(&mut pod, &[(annotations::CONTAINERS, PROXY_CONTAINER)]);
    let patched = settle("proxy-named", &pod);
    let mounts = sidecar(&patched).unwrap()["volumeMounts"]
        .as_array()
        .unwrap();
    assert!(
        mounts
            .iter()
            .all(|it| it["mountPath"] != "/var/run/workload-identity")
    );
}

#[test]
fn its_volume_is_not_taken_for_the_credential_volume() {
    let mut pod = stock("repo-server");
    let other = json!({"name": "workload-identity", "emptyDir": {}});
    pod["spec"]["volumes"].as_array_mut().unwrap().push(other);
    let patched = settle("proxy-credentials-in-conflict", &pod);
    assert!(sidecar(&patched).is_some());
}
