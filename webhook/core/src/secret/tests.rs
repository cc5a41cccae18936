//! Secrets of the public guides, every bad value, and any bytes at all.

use proptest::prelude::*;

use super::*;
use shared::{binding::Provider, errors::Code, registry::Scheme};

fn values(pairs: &[(&str, &str)]) -> SecretValues {
    SecretValues::from_bytes(pairs.iter().map(|(name, value)| (*name, value.as_bytes())))
}

const QUAY: [(&str, &str); 8] = [
    ("type", "helm"),
    ("url", "oci://quay.example.org/myorg/charts"),
    ("project", "default"),
    ("useWorkloadIdentity", "true"),
    ("workloadIdentityProvider", "spiffe"),
    ("workloadIdentityAudience", "quay.example.org"),
    (
        "workloadIdentityRegistryAuthURL",
        "https://quay.example.org/oauth2/federation/robot/token",
    ),
    ("workloadIdentityRegistryUsername", "myorg+argocd"),
];

fn with(
    base: &[(&'static str, &'static str)],
    key: &'static str,
    value: &'static str,
) -> SecretValues {
    let mut pairs: Vec<_> = base
        .iter()
        .copied()
        .filter(|(name, _)| *name != key)
        .collect();
    pairs.push((key, value));
    values(&pairs)
}

fn repository(values: &SecretValues) -> RepositorySecret {
    match parse(SecretKind::Repository, "Secret argocd/repo", values) {
        Ok(Some(WorkloadIdentity::Repository(secret))) => secret,
        other => panic!("{other:?}"),
    }
}

fn codes(kind: SecretKind, values: &SecretValues) -> Vec<Code> {
    parse(kind, "Secret argocd/repo", values)
        .unwrap_err()
        .iter()
        .map(|error| {
            assert!(
                error.detail.starts_with("Secret argocd/repo, key "),
                "{error}"
            );
            error.code
        })
        .collect()
}

#[test]
fn the_quay_guide() {
    let secret = repository(&values(&QUAY));
    assert_eq!(secret.project.as_deref(), Some("default"));
    assert_eq!(secret.provider, Provider::Spiffe);
    assert_eq!(secret.url.scheme, Scheme::Oci);
    assert!(secret.is_helm_with_oci_scheme() && secret.is_helm_oci());
    assert_eq!(secret.registry_username.as_deref(), Some("myorg+argocd"));
}

#[test]
fn the_aws_guide_needs_no_audience_and_no_opt_in_besides_the_provider() {
    let secret = repository(&values(&[
        ("type", "helm"),
        (
            "url",
            "oci://123456789012.dkr.ecr.us-west-2.amazonaws.com/charts",
        ),
        ("project", "production"),
        ("workloadIdentityProvider", "aws"),
    ]));
    assert_eq!(secret.provider, Provider::Aws);
}

#[test]
fn secrets_without_workload_identity_are_not_ours() {
    for pairs in [
        &[
            ("type", "git"),
            ("url", "git@github.com:a/b"),
            ("password", "x"),
        ][..],
        &[
            ("useWorkloadIdentity", "false"),
            ("workloadIdentityProvider", "nonsense"),
        ],
        &[("useWorkloadIdentity", "")],
        &[],
    ] {
        assert!(
            parse(SecretKind::Repository, "", &values(pairs))
                .unwrap()
                .is_none()
        );
    }
}

#[test]
fn each_bad_value_has_its_named_error() {
    for (key, value, code) in [
        ("type", "svn", Code::InvalidSecret),
        ("url", "http://quay.example.org/x", Code::InvalidUrl),
        ("url", "", Code::InvalidUrl),
        ("url", "quay.example.org/myorg", Code::InvalidUrl),
        ("project", "../etc", Code::InvalidProject),
        ("useWorkloadIdentity", "yes", Code::InvalidSecret),
        ("insecure", "maybe", Code::InvalidSecret),
        ("workloadIdentityProvider", "vault", Code::UnknownProvider),
        (
            "workloadIdentityRegistryAuthURL",
            "http://quay.example.org/x",
            Code::AuthUrlInvalid,
        ),
        (
            "workloadIdentityRegistryAuthURL",
            "https://u:p@quay.example.org/x",
            Code::AuthUrlInvalid,
        ),
        ("workloadIdentityTokenURL", "sts", Code::AuthUrlInvalid),
        (
            "workloadIdentityCredential",
            "SpiffeJwt",
            Code::InvalidSecret,
        ),
        ("workloadIdentityDelivery", "file", Code::InvalidSecret),
    ] {
        assert_eq!(
            codes(SecretKind::Repository, &with(&QUAY, key, value)),
            [code],
            "{key}={value}"
        );
    }
    let both = values(&[("workloadIdentityProvider", "vault"), ("url", "")]);
    assert_eq!(
        codes(SecretKind::Repository, &both),
        [Code::InvalidUrl, Code::UnknownProvider]
    );
}

#[test]
fn what_cannot_be_decoded_names_its_key() {
    let bad = SecretValues::from_base64([
        ("workloadIdentityProvider", "c3BpZmZl"),
        ("url", "%%%"),
        ("type", "/w=="),
    ]);
    let errors = parse(SecretKind::Repository, "Secret a/b", &bad).unwrap_err();
    assert!(
        errors
            .iter()
            .any(|e| e.detail == "Secret a/b, key url: not base64")
    );
    assert!(
        errors
            .iter()
            .any(|e| e.detail == "Secret a/b, key type: not UTF-8")
    );
}

const CONFIG: &str = r#"{"tlsClientConfig":{"insecure":true}}"#;
const CLUSTER: [(&str, &str); 5] = [
    ("name", "spoke"),
    ("server", "https://spoke.example.org:6443"),
    ("config", CONFIG),
    ("useWorkloadIdentity", "true"),
    ("workloadIdentityAudience", "openshift-spoke"),
];

fn cluster(values: &SecretValues) -> ClusterSecret {
    match parse(SecretKind::Cluster, "Secret argocd/spoke", values) {
        Ok(Some(WorkloadIdentity::Cluster(secret))) => secret,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cluster() {
    let secret = cluster(&values(&CLUSTER));
    assert_eq!(secret.audience, "openshift-spoke");
    assert!(secret.other_auth.is_empty() && secret.exec.is_none() && !secret.is_guide_form);
}

#[test]
fn the_openshift_guide_opts_in_by_its_plugin() {
    let secret = cluster(&values(&[
        ("name", "spoke-cluster"),
        ("server", "https://api.spoke.example.org:6443"),
        (
            "config",
            r#"{"tlsClientConfig":{"insecure":true},"execProviderConfig":{
                "command":"/binaries/k8s-spiffe-workload-jwt-exec-auth",
                "apiVersion":"client.authentication.k8s.io/v1beta1",
                "env":{"SPIFFE_ENDPOINT_SOCKET":"unix:///run/spire/sockets/spire-agent.sock",
                       "SPIFFE_JWT_AUDIENCE":"openshift-spoke","EXEC_CREDENTIAL_VERSION":"v1beta1"}}}"#,
        ),
    ]));
    assert!(secret.is_guide_form && secret.exec.unwrap().is_guides());
    assert_eq!(secret.audience, "openshift-spoke");
}

#[test]
fn in_cluster_and_other_plugins_are_left_alone() {
    let in_cluster = with(&CLUSTER, "server", IN_CLUSTER_SERVER);
    assert!(
        parse(SecretKind::Cluster, "", &in_cluster)
            .unwrap()
            .is_none()
    );
    let other = values(&[
        ("server", "https://a"),
        (
            "config",
            r#"{"execProviderConfig":{"command":"argocd-k8s-auth","env":{"SPIFFE_JWT_AUDIENCE":"x"}}}"#,
        ),
    ]);
    assert!(parse(SecretKind::Cluster, "", &other).unwrap().is_none());
}

#[test]
fn other_ways_to_authenticate_are_listed_and_never_shown() {
    let config =
        r#"{"username":"","bearerToken":"hunter2","tlsClientConfig":{"keyData":"aHVudGVyMg=="}}"#;
    let secret = cluster(&with(&CLUSTER, "config", config));
    assert_eq!(
        secret.other_auth,
        ["bearerToken", "tlsClientConfig.keyData"]
    );
    let parsed = ClusterConfig::parse(config).unwrap();
    let shown = format!("{parsed:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("aHVudGVyMg"),
        "{shown}"
    );
}

#[test]
fn bad_clusters_have_named_errors() {
    for (key, value, code) in [
        ("server", "http://a", Code::InvalidUrl),
        ("server", "", Code::InvalidUrl),
        ("config", "{", Code::InvalidClusterConfig),
        ("config", "[]", Code::InvalidClusterConfig),
        ("workloadIdentityAudience", "", Code::AudienceMissing),
    ] {
        assert_eq!(
            codes(SecretKind::Cluster, &with(&CLUSTER, key, value)),
            [code],
            "{key}={value}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(pairs in prop::collection::vec((prop::sample::select(
        key::WORKLOAD_IDENTITY.into_iter().chain(["type", "url", "project", "server", "config"]).collect::<Vec<_>>()
    ), any::<Vec<u8>>()), 0..8), kind in 0..3) {
        let kind = [SecretKind::Repository, SecretKind::RepoCreds, SecretKind::Cluster][kind as usize];
        let mut values = SecretValues::from_bytes(pairs.iter().map(|(k, v)| (*k, v.as_slice())));
        let _ = parse(kind, "o", &values);
        values = SecretValues::from_base64([("useWorkloadIdentity", "dHJ1ZQ==")]);
        prop_assert!(parse(kind, "o", &values).is_err());
    }

    #[test]
    fn no_cluster_config_panics(json in "\\PC*") {
        let _ = ClusterConfig::parse(&json);
    }
}
