//! One check per rule: Secret in, patched Secret, warnings or denial out.

use serde_json::{Value, json};
use shared::allow_list::AllowList;

use super::{super::Outcome, *};
use crate::{
    annotations::{REMOVE_STATIC_CREDENTIALS, ROTATE_PROXY_KEY},
    proxy_key::{KeyBytes, tests::bytes},
};

fn derivation() -> Derivation {
    Derivation {
        trust_domain: "example.org".into(),
        allowed_hosts: AllowList::parse("spoke.example.org:6443").unwrap(),
        registry_consumers: vec!["argocd-repo-server".into()],
        cluster_consumers: vec!["argocd-application-controller".into()],
    }
}

fn rules() -> SecretRules {
    SecretRules {
        derivation: derivation(),
        credential_proxy: true,
    }
}

fn secret(label: &str, pairs: &[(&str, &str)]) -> Value {
    let data = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), Value::String(STANDARD.encode(v))));
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": null,
        "metadata": {"name": "example", "namespace": "argocd", "labels": {secret::SECRET_TYPE: label}},
        "data": data.collect::<serde_json::Map<_, _>>(),
    })
}

fn ask(operation: &str, object: &Value, old: Option<&Value>) -> Verdict {
    ask_with(&rules(), operation, object, old)
}

fn ask_with(rules: &SecretRules, operation: &str, object: &Value, old: Option<&Value>) -> Verdict {
    let request = json!({
        "uid": "1", "kind": {"group": "", "version": "v1", "kind": "Secret"},
        "namespace": "argocd", "operation": operation, "object": object, "oldObject": old,
    });
    let text = request.to_string();
    let mut draw = || Some(fresh());
    decide(&serde_json::from_str(&text).unwrap(), rules, &mut draw).unwrap()
}

/// Bytes that no other call gives.
fn fresh() -> KeyBytes {
    thread_local!(static DRAWN: std::cell::Cell<u8> = const { std::cell::Cell::new(0) });
    let byte = DRAWN.get();
    DRAWN.set(byte.wrapping_add(1));
    bytes(byte)
}

/// The Secret as it is stored, and the codes of the warnings. A second pass
/// must change nothing.
#[track_caller]
fn stored(object: &Value, old: Option<&Value>) -> (Value, Vec<Code>) {
    let operation = if old.is_some() { "UPDATE" } else { "CREATE" };
    let verdict = ask(operation, object, old);
    let Outcome::Patch(patch) = &verdict.outcome else {
        panic!("{verdict:?}")
    };
    let mut result = object.clone();
    json_patch::patch(&mut result, patch.operations()).unwrap();
    let again = ask("UPDATE", &result, Some(&result));
    assert!(
        matches!(&again.outcome, Outcome::Patch(patch) if patch.is_empty()),
        "{again:?}"
    );
    (
        result,
        verdict
            .warnings
            .iter()
            .map(|warning| warning.code)
            .collect(),
    )
}

#[track_caller]
fn denied(object: &Value, old: Option<&Value>) -> Code {
    match ask("CREATE", object, old).outcome {
        Outcome::Deny(error) => error.code,
        other => panic!("{other:?}"),
    }
}

fn text(secret: &Value, key: &str) -> String {
    let decoded = STANDARD
        .decode(secret["data"][key].as_str().unwrap())
        .unwrap();
    String::from_utf8(decoded).unwrap()
}

const QUAY: [(&str, &str); 5] = [
    ("type", "helm"),
    ("url", "oci://quay.example.org/myorg/charts"),
    ("workloadIdentityProvider", "spiffe"),
    (
        "workloadIdentityRegistryAuthURL",
        "https://quay.example.org/oauth2/federation/robot/token",
    ),
    ("workloadIdentityRegistryUsername", "myorg+argocd"),
];
const SPOKE: [(&str, &str); 5] = [
    ("name", "spoke"),
    ("server", "https://spoke.example.org:6443"),
    ("config", r#"{"tlsClientConfig": {"caData": "Y2E="}}"#),
    ("useWorkloadIdentity", "true"),
    ("workloadIdentityAudience", "spoke"),
];

fn with<'a>(base: &[(&'a str, &'a str)], key: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut pairs = base.to_vec();
    pairs.retain(|(name, _)| *name != key);
    pairs.push((key, value));
    pairs
}

#[test]
fn the_guides_helm_repository_gets_the_form_that_argo_cd_can_use() {
    let (secret, warnings) = stored(&secret("repository", &QUAY), None);
    assert_eq!(text(&secret, "url"), "quay.example.org/myorg/charts");
    assert_eq!(text(&secret, "enableOCI"), "true");
    assert_eq!(warnings, [Code::UrlRewritten, Code::DriftFromGit]);
}

fn of_project(project: &str) -> Value {
    secret("repository", &with(&QUAY, "project", project))
}

#[test]
fn a_project_is_led_to_the_credential_proxy() {
    let (stored_secret, warnings) = stored(&of_project("a"), None);
    assert_eq!(warnings, [Code::UrlRewritten, Code::DriftFromGit]);
    let proxy = text(&stored_secret, "proxy");
    let key = proxy
        .strip_prefix("http://example:")
        .and_then(|rest| rest.strip_suffix("@127.0.0.1:15080"))
        .unwrap();
    assert_eq!(key.len(), 65);
}

#[test]
fn another_project_url_or_name_is_another_key() {
    let (one, _) = stored(&of_project("a"), None);
    let proxy = |secret: &Value| text(secret, "proxy");
    let mut other = one.clone();
    other["data"]["project"] = json!(STANDARD.encode("b"));
    let (other, _) = stored(&other, Some(&one));
    assert_ne!(proxy(&other), proxy(&one));
    let mut moved = one.clone();
    moved["data"]["url"] = json!(STANDARD.encode("quay.example.org/myorg/others"));
    let (moved, _) = stored(&moved, Some(&one));
    assert_ne!(proxy(&moved), proxy(&one));
    let mut copy = one.clone();
    copy["metadata"]["name"] = json!("copy");
    let (copy, _) = stored(&copy, None);
    assert!(proxy(&copy).starts_with("http://copy:"), "{copy}");
}

#[test]
fn our_proxy_goes_when_its_delivery_does() {
    let (ours, _) = stored(&of_project("a"), None);
    let without = |name: &str| {
        let mut object = ours.clone();
        object["data"].as_object_mut().unwrap().remove(name);
        object
    };
    let off = without("workloadIdentityProvider");
    for left in [&without("project"), &off] {
        let (after, _) = stored_or_skipped(left, Some(&ours));
        assert!(after["data"].get("proxy").is_none(), "{after}");
    }
    // One of the user's own, and another Secret's, is not ours to take away.
    let others = format!("http://other:{}@127.0.0.1:15080", "k".repeat(43));
    for proxy in ["http://proxy.corp:3128", &others] {
        let mut own = off.clone();
        own["data"]["proxy"] = json!(STANDARD.encode(proxy));
        let (after, _) = stored_or_skipped(&own, None);
        assert_eq!(text(&after, "proxy"), proxy);
    }
}

/// Like [`stored`], for a Secret that may have no workload identity.
#[track_caller]
fn stored_or_skipped(object: &Value, old: Option<&Value>) -> (Value, Verdict) {
    let verdict = ask("UPDATE", object, old);
    let mut result = object.clone();
    match &verdict.outcome {
        Outcome::Patch(patch) => json_patch::patch(&mut result, patch.operations()).unwrap(),
        Outcome::Skip(_) => {}
        denied => panic!("{denied:?}"),
    }
    let again = ask("UPDATE", &result, Some(&result));
    match &again.outcome {
        Outcome::Patch(patch) => assert!(patch.is_empty(), "{patch:?}"),
        Outcome::Skip(_) => {}
        denied => panic!("{denied:?}"),
    }
    (result, verdict)
}

#[test]
fn a_prefix_gets_a_proxy_too_but_no_project() {
    let prefix = with(&QUAY, "workloadIdentityDelivery", "proxy");
    let (stored_secret, _) = stored(&secret("repo-creds", &prefix), None);
    assert!(text(&stored_secret, "proxy").starts_with("http://example:"));
    let of_project = secret("repo-creds", &with(&prefix, "project", "a"));
    assert_eq!(denied(&of_project, None), Code::ProjectIgnored);
}

#[test]
fn what_keeps_the_proxy_from_being_of_use_is_said() {
    let base = with(&QUAY, "project", "a");
    for (name, value, code) in [
        ("noProxy", ".corp,.example.org", Code::ProxyBypassed),
        ("tlsClientCertData", "pem", Code::ClientCertificateUnused),
    ] {
        let (_, warnings) = stored(&secret("repository", &with(&base, name, value)), None);
        assert!(warnings.contains(&code), "{name}: {warnings:?}");
        let shared = secret("repository", &with(&QUAY, name, value));
        match ask("CREATE", &shared, None) {
            Verdict {
                outcome: Outcome::Deny(error),
                ..
            } => {
                assert_eq!(error.code, Code::StaticCredentialsPresent);
            }
            verdict => assert!(verdict.warnings.iter().all(|warning| warning.code != code)),
        }
    }
    let mut object = secret("repository", &with(&base, "tlsClientCertKey", "pem"));
    object["metadata"]["annotations"] = json!({ REMOVE_STATIC_CREDENTIALS: "true" });
    let (after, warnings) = stored(&object, None);
    assert!(after["data"].get("tlsClientCertKey").is_none());
    assert!(!warnings.contains(&Code::ClientCertificateUnused));

    let nowhere = SecretRules {
        credential_proxy: false,
        ..rules()
    };
    let verdict = ask_with(&nowhere, "CREATE", &of_project("a"), None);
    let codes: Vec<_> = verdict
        .warnings
        .iter()
        .map(|warning| warning.code)
        .collect();
    assert!(codes.contains(&Code::ProxyNotInstalled), "{codes:?}");
    assert_eq!(verdict.label().as_str(), "patch");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    for object in [
        secret(
            "repository",
            &[("type", "git"), ("url", "https://a/b"), ("password", "x")],
        ),
        secret(
            "cluster",
            &[("server", "https://a"), ("config", "not even json")],
        ),
        secret("repository-write", &QUAY),
        secret(
            "cluster",
            &with(&SPOKE, "server", "https://kubernetes.default.svc"),
        ),
    ] {
        let verdict = ask("CREATE", &object, None);
        assert_eq!(
            verdict,
            Verdict::skip(Skip::NotWorkloadIdentity, Vec::new()),
            "{object}"
        );
    }
}

#[test]
fn static_credentials_go_only_when_asked() {
    let mut object = secret("repository", &with(&QUAY, "password", "hunter2"));
    assert_eq!(denied(&object, None), Code::StaticCredentialsPresent);
    object["metadata"]["annotations"] = json!({ REMOVE_STATIC_CREDENTIALS: "true" });
    let (secret, _) = stored(&object, None);
    assert!(secret["data"].get("password").is_none());
}

#[test]
fn names_and_proxies() {
    let mut object = secret("repository", &QUAY);
    object["metadata"] =
        json!({"generateName": "x-", "labels": {secret::SECRET_TYPE: "repository"}});
    assert_eq!(denied(&object, None), Code::GenerateNameRefused);
    let mut pairs = with(&QUAY, "project", "a");
    pairs.push(("proxy", "http://proxy.corp:3128"));
    assert_eq!(
        denied(&secret("repository", &pairs), None),
        Code::ProxyConflict
    );
}

#[test]
fn an_old_bad_value_may_stay_but_not_come() {
    let bad = secret(
        "repository",
        &with(&QUAY, "workloadIdentityProvider", "vault"),
    );
    assert_eq!(denied(&bad, None), Code::UnknownProvider);
    let mut labelled = bad.clone();
    labelled["metadata"]["labels"]["team"] = json!("a");
    let verdict = ask("UPDATE", &labelled, Some(&bad));
    assert_eq!(verdict.warnings[0].code, Code::UnknownProvider);
    assert!(matches!(verdict.outcome, Outcome::Patch(patch) if patch.is_empty()));
    let worse = secret(
        "repository",
        &with(&QUAY, "workloadIdentityProvider", "other"),
    );
    assert!(matches!(
        ask("UPDATE", &worse, Some(&bad)).outcome,
        Outcome::Deny(_)
    ));
}

#[test]
fn a_value_is_old_only_where_the_label_is() {
    let bad = secret(
        "repository",
        &with(&QUAY, "workloadIdentityProvider", "vault"),
    );
    let mut plain = bad.clone();
    plain["metadata"]["labels"] = json!({});
    assert!(matches!(
        ask("UPDATE", &bad, Some(&plain)).outcome,
        Outcome::Deny(error) if error.code == Code::UnknownProvider
    ));
}

#[test]
fn a_cluster_gains_the_plugin_and_keeps_the_rest_byte_for_byte() {
    let (stored_secret, warnings) = stored(&secret("cluster", &SPOKE), None);
    let config = text(&stored_secret, "config");
    assert!(
        config.starts_with(r#"{"tlsClientConfig": {"caData": "Y2E="},"execProviderConfig":{"#),
        "{config}"
    );
    assert!(config.contains(r#"["--cluster","example"]"#));
    assert_eq!(warnings, [Code::DriftFromGit]);
}

#[test]
fn an_update_by_argo_cd_keeps_our_keys_while_the_plugin_is_ours() {
    let (old, _) = stored(&secret("cluster", &SPOKE), None);
    let mut new = old.clone();
    let data = new["data"].as_object_mut().unwrap();
    data.retain(|name, _| !key::WORKLOAD_IDENTITY.contains(&name.as_str()));
    let (kept, warnings) = stored(&new, Some(&old));
    assert_eq!(kept["data"], old["data"]);
    assert_eq!(warnings, [Code::KeysRestored]);
    // Who removes the plugin as well means it.
    new["data"]["config"] = json!(STANDARD.encode("{}"));
    let verdict = ask("UPDATE", &new, Some(&old));
    assert_eq!(
        verdict,
        Verdict::skip(Skip::NotWorkloadIdentity, Vec::new())
    );
}

#[test]
fn other_ways_to_authenticate_to_a_cluster_are_refused_or_removed() {
    let config = r#"{"bearerToken":"hunter2","tlsClientConfig":{"certData":"x","caData":"y"}}"#;
    let mut object = secret("cluster", &with(&SPOKE, "config", config));
    assert_eq!(denied(&object, None), Code::ClusterAuthConflict);
    object["metadata"]["annotations"] = json!({ REMOVE_STATIC_CREDENTIALS: "true" });
    let config = text(&stored(&object, None).0, "config");
    assert!(
        !config.contains("hunter2") && !config.contains("certData") && config.contains("caData")
    );
    let plugin = r#"{"execProviderConfig":{"command":"argocd-k8s-auth"}}"#;
    let object = secret("cluster", &with(&SPOKE, "config", plugin));
    assert_eq!(denied(&object, None), Code::ClusterExecConflict);
}

#[test]
fn a_copied_cluster_secret_points_to_itself() {
    let (mut copy, _) = stored(&secret("cluster", &SPOKE), None);
    copy["metadata"]["name"] = json!("copy");
    let (copy, _) = stored(&copy, None);
    assert!(text(&copy, "config").contains(r#"["--cluster","copy"]"#));
}

#[test]
fn the_openshift_guides_cluster_stays_as_it_is() {
    let config = r#"{"tlsClientConfig":{"insecure":true},"execProviderConfig":{
        "command":"/binaries/k8s-spiffe-workload-jwt-exec-auth",
        "apiVersion":"client.authentication.k8s.io/v1beta1",
        "env":{"SPIFFE_ENDPOINT_SOCKET":"unix:///run/spire/sockets/spire-agent.sock",
               "SPIFFE_JWT_AUDIENCE":"openshift-spoke","EXEC_CREDENTIAL_VERSION":"v1beta1"}}}"#;
    let pairs = [
        ("name", "spoke"),
        ("server", "https://elsewhere.example.org"),
        ("config", config),
    ];
    let object = secret("cluster", &pairs);
    let (after, warnings) = stored(&object, None);
    assert_eq!(after, object);
    assert_eq!(warnings, [Code::MultipleExecEnv, Code::HostNotAllowed]);
}

#[test]
fn broken_shapes_are_allowed_unread() {
    for object in [
        json!({}),
        json!({"data": 1}),
        json!({"metadata": {"labels": []}}),
        json!(null),
    ] {
        assert!(
            matches!(ask("CREATE", &object, None).outcome, Outcome::Skip(_)),
            "{object}"
        );
    }
    let mut empty = secret("repository", &[]);
    empty.as_object_mut().unwrap().remove("data");
    assert!(matches!(
        ask("CREATE", &empty, None).outcome,
        Outcome::Skip(Skip::NotWorkloadIdentity)
    ));
}

#[test]
fn keys_come_back_beside_the_guides_plugin_too() {
    let config =
        r#"{"execProviderConfig":{"command":"/binaries/k8s-spiffe-workload-jwt-exec-auth"}}"#;
    let pairs = with(&SPOKE, "config", config);
    let pairs = with(&pairs, "workloadIdentityCredential", "ServiceAccountToken");
    let (old, _) = stored(&secret("cluster", &pairs), None);
    let mut new = old.clone();
    let data = new["data"].as_object_mut().unwrap();
    data.retain(|name, _| !key::WORKLOAD_IDENTITY.contains(&name.as_str()));
    let (kept, warnings) = stored(&new, Some(&old));
    assert_eq!(kept["data"], old["data"]);
    assert!(warnings.contains(&Code::KeysRestored), "{warnings:?}");
}

#[test]
fn dropped_keys_come_back_beside_an_old_problem_too() {
    // The administrator took the host off the allow-list in between.
    let (mut old, _) = stored(&secret("cluster", &SPOKE), None);
    old["data"]["server"] = json!(STANDARD.encode("https://elsewhere.example.org"));
    let mut new = old.clone();
    let data = new["data"].as_object_mut().unwrap();
    data.retain(|name, _| !key::WORKLOAD_IDENTITY.contains(&name.as_str()));
    let (kept, warnings) = stored(&new, Some(&old));
    assert_eq!(kept["data"], old["data"]);
    assert!(warnings.contains(&Code::KeysRestored), "{warnings:?}");
    assert!(warnings.contains(&Code::HostNotAllowed), "{warnings:?}");
}

#[test]
fn a_copied_cluster_secret_keeps_version_environment_and_hint() {
    let config = r#"{"execProviderConfig": {"apiVersion":"client.authentication.k8s.io/v1", "env": {"HTTPS_PROXY" : "http://proxy:3128"},
        "args":["--cluster","other"],"installHint":"ask the platform team","command":"/binaries/exec-auth"} , "tlsClientConfig":{"caData":"Y2E="}}"#;
    let (stored_secret, warnings) =
        stored(&secret("cluster", &with(&SPOKE, "config", config)), None);
    let expected = config.replace(r#"["--cluster","other"]"#, r#"["--cluster","example"]"#);
    assert_eq!(text(&stored_secret, "config"), expected);
    assert_eq!(warnings, [Code::DriftFromGit]);
}

#[test]
fn what_is_immutable_is_not_changed() {
    let (mut old, _) = stored(&of_project("a"), None);
    old["immutable"] = json!(true);
    old["data"].as_object_mut().unwrap().remove("proxy");
    let mut new = old.clone();
    new["metadata"]["labels"]["team"] = json!("a");
    let verdict = ask("UPDATE", &new, Some(&old));
    assert_eq!(verdict.label().as_str(), "keep", "{verdict:?}");
    let codes = |verdict: &Verdict| {
        verdict
            .warnings
            .iter()
            .map(|it| it.code)
            .collect::<Vec<_>>()
    };
    assert_eq!(codes(&verdict), [Code::SecretImmutable]);
    // One that lacks nothing, and one that becomes immutable.
    let (mut complete, _) = stored(&of_project("a"), None);
    let (frozen, _) = stored(
        &{
            complete["immutable"] = json!(true);
            complete.clone()
        },
        Some(&of_project("a")),
    );
    assert!(frozen["data"].get("proxy").is_some());
    let verdict = ask("UPDATE", &frozen, Some(&frozen));
    assert_eq!(codes(&verdict), []);
    // A rewrite that is not made is not told as one.
    let mut guide = secret("repository", &QUAY);
    guide["immutable"] = json!(true);
    let verdict = ask("UPDATE", &guide, Some(&guide));
    assert_eq!(codes(&verdict), [Code::SecretImmutable]);
    assert!(
        verdict.warnings[0].detail.contains("keys enableOCI, url"),
        "{verdict:?}"
    );
}

#[test]
fn an_immutable_secret_that_gets_the_label_is_not_changed() {
    let new = {
        let mut new = of_project("a");
        new["immutable"] = json!(true);
        new
    };
    let mut old = new.clone();
    old["metadata"]["labels"] = json!({});
    let verdict = ask("UPDATE", &new, Some(&old));
    assert_eq!(verdict.label().as_str(), "keep", "{verdict:?}");
    let codes: Vec<_> = verdict.warnings.iter().map(|it| it.code).collect();
    assert_eq!(codes, [Code::SecretImmutable]);
}

#[test]
fn an_old_problem_is_new_at_another_place() {
    let base = with(&QUAY, "workloadIdentityProvider", "vault");
    let base = with(&base, "project", "a");
    let bad = secret("repository", &base);
    for (name, value) in [
        ("project", "b"),
        ("url", "oci://quay.example.org/other/charts"),
        ("type", "oci"),
    ] {
        let moved = secret("repository", &with(&base, name, value));
        let verdict = ask("UPDATE", &moved, Some(&bad));
        assert!(
            matches!(&verdict.outcome, Outcome::Deny(error) if error.code == Code::UnknownProvider),
            "{name}: {verdict:?}"
        );
    }
    let base = with(&SPOKE, "workloadIdentityProvider", "vault");
    let moved = with(&base, "server", "https://elsewhere.example.org");
    let verdict = ask(
        "UPDATE",
        &secret("cluster", &moved),
        Some(&secret("cluster", &base)),
    );
    assert_eq!(verdict.label().as_str(), "deny", "{verdict:?}");
}

#[test]
fn argo_cds_own_azure_identity_is_a_static_credential() {
    let mut object = secret(
        "repository",
        &with(&QUAY, "useAzureWorkloadIdentity", "true"),
    );
    assert_eq!(denied(&object, None), Code::StaticCredentialsPresent);
    object["metadata"]["annotations"] = json!({ REMOVE_STATIC_CREDENTIALS: "true" });
    let (kept, _) = stored(&object, None);
    assert!(kept["data"].get("useAzureWorkloadIdentity").is_none());
    object["data"]["useAzureWorkloadIdentity"] = json!(STANDARD.encode("false"));
    let (kept, _) = stored(&object, None);
    assert!(kept["data"].get("useAzureWorkloadIdentity").is_some());
}

#[test]
fn a_config_in_other_letters_is_denied_with_the_member() {
    let config = r#"{"TLSClientConfig":{"Insecure":true},"BearerToken":"hunter2"}"#;
    let pairs = [
        ("server", "https://spoke.example.org:6443"),
        ("config", config),
        ("useWorkloadIdentity", "true"),
        ("workloadIdentityAudience", "spoke"),
    ];
    let object = secret("cluster", &pairs);
    assert_eq!(denied(&object, None), Code::InvalidClusterConfig);
    let said = format!("{:?}", ask("CREATE", &object, None));
    assert!(
        said.contains("TLSClientConfig") && !said.contains("hunter2"),
        "{said}"
    );
    let plain = secret("cluster", &pairs[..2]);
    let Outcome::Skip(_) = ask("CREATE", &plain, None).outcome else {
        panic!("a Secret without workload identity is left alone");
    };
}

#[test]
fn bytes_of_a_plain_secret_are_let_through() {
    for (label, name) in [
        ("repository", "url"),
        ("repo-creds", "proxy"),
        ("cluster", "config"),
    ] {
        let mut object = secret(label, &[("password", "x")]);
        object["data"][name] = json!("/w==");
        let outcome = ask("CREATE", &object, None).outcome;
        assert!(
            matches!(outcome, Outcome::Skip(_)),
            "{label} {name}: {outcome:?}"
        );
    }
}

#[test]
fn plain_http_to_a_bound_host_is_warned_of() {
    let object = secret("repository", &with(&QUAY, "insecureOCIForceHttp", "true"));
    let (kept, warnings) = stored(&object, None);
    assert!(warnings.contains(&Code::PlainHttpRefused), "{warnings:?}");
    assert!(
        kept["data"].get("proxy").is_some(),
        "not by the shared file"
    );
}
mod keys;
