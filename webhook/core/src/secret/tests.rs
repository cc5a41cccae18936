//! Secrets of the public guides, every bad value, and any bytes at all.

use proptest::prelude::*;
use shared::{binding::Provider, errors::Code, registry::Scheme};

use super::*;

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

/// A Secret with `config` and the codes of what is wrong with it; the details
/// name `path`.
fn config_problem(config: &'static str) -> String {
    let errors = parse(
        SecretKind::Cluster,
        "Secret argocd/spoke",
        &with(&CLUSTER, "config", config),
    )
    .unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].code, Code::InvalidClusterConfig);
    errors[0].detail.clone()
}

#[test]
fn a_member_that_go_would_take_for_a_known_one_is_refused_at_every_level() {
    for (config, path) in [
        (
            r#"{"TLSClientConfig":{"insecure":true}}"#,
            "TLSClientConfig",
        ),
        (
            r#"{"tlsClientConfig":{"Insecure":true}}"#,
            "tlsClientConfig.Insecure",
        ),
        (
            r#"{"tlsClientConfig":{"CADATA":""}}"#,
            "tlsClientConfig.CADATA",
        ),
        (
            r#"{"tlsClientConfig":{"servername":""}}"#,
            "tlsClientConfig.servername",
        ),
        (r#"{"Username":"a"}"#, "Username"),
        (r#"{"PASSWORD":"a"}"#, "PASSWORD"),
        (r#"{"bearertoken":"a"}"#, "bearertoken"),
        (r#"{"AWSAuthConfig":{}}"#, "AWSAuthConfig"),
        (
            r#"{"awsAuthConfig":{"rolearn":"a"}}"#,
            "awsAuthConfig.rolearn",
        ),
        (r#"{"ExecProviderConfig":{}}"#, "ExecProviderConfig"),
        (
            r#"{"execProviderConfig":{"Command":"/bin/sh"}}"#,
            "execProviderConfig.Command",
        ),
        (
            r#"{"execProviderConfig":{"provideclusterinfo":true}}"#,
            "execProviderConfig.provideclusterinfo",
        ),
        (
            r#"{"execProviderConfig":{"Config":{}}}"#,
            "execProviderConfig.Config",
        ),
        (r#"{"disablecompression":true}"#, "disablecompression"),
        (r#"{"proxyURL":"http://a"}"#, "proxyURL"),
        // Escapes are the same names, and Go folds two letters beyond ASCII.
        (r#"{"\u0042earerToken":"a"}"#, "BearerToken"),
        ("{\"bearerTo\u{212a}en\":\"a\"}", "bearerTo\u{212a}en"),
        (r#"{"pa\u017f\u017fword":"a"}"#, "pa\u{17f}\u{17f}word"),
        (
            "{\"tlsClientConfig\":{\"in\u{17f}ecure\":true}}",
            "tlsClientConfig.in\u{17f}ecure",
        ),
    ] {
        let detail = config_problem(config);
        assert!(detail.contains(&format!("`{path}`")), "{config}: {detail}");
        assert!(!detail.contains("/bin/sh"), "{detail}");
    }
}

#[test]
fn a_member_that_stands_twice_is_refused_at_every_level() {
    for (config, path) in [
        (r#"{"bearerToken":"","bearerToken":"a"}"#, "bearerToken"),
        (
            r#"{"tlsClientConfig":{"insecure":true},"tlsClientConfig":{}}"#,
            "tlsClientConfig",
        ),
        (
            r#"{"tlsClientConfig":{"insecure":true,"insecure":false}}"#,
            "tlsClientConfig.insecure",
        ),
        (
            r#"{"awsAuthConfig":null,"awsAuthConfig":{}}"#,
            "awsAuthConfig",
        ),
        (
            r#"{"execProviderConfig":{"command":"a","command":"b"}}"#,
            "execProviderConfig.command",
        ),
        (
            r#"{"execProviderConfig":{"env":{"A":"1","A":"2"}}}"#,
            "execProviderConfig.env.A",
        ),
        (r#"{"proxyUrl":"","proxyUrl":"http://a"}"#, "proxyUrl"),
    ] {
        let detail = config_problem(config);
        assert!(detail.contains(&format!("`{path}`")), "{config}: {detail}");
    }
}

#[test]
fn members_that_nobody_knows_are_left_alone() {
    let config = r#"{"x":1,"X":2,"x":3,"tls-client-config":{},"tlsClientConfig":{"caData":"","y":null},
        "execProviderConfig":{"command":"/binaries/exec-auth","env":{"Path":"1","PATH":"2"},"installHint":"a"}}"#;
    cluster(&with(&CLUSTER, "config", config));
    // What Argo CD does not obey is nobody's business without our keys.
    let plain = values(&[
        ("server", "https://a"),
        ("config", r#"{"BearerToken":"a","bearerToken":"b"}"#),
    ]);
    assert!(parse(SecretKind::Cluster, "", &plain).unwrap().is_none());
}

#[test]
fn null_is_what_is_not_set() {
    let config = r#"{"username":null,"tlsClientConfig":{"insecure":null},
        "execProviderConfig":{"command":null,"args":null,"env":null},"awsAuthConfig":null}"#;
    let secret = cluster(&with(&CLUSTER, "config", config));
    assert!(!secret.insecure && secret.other_auth.is_empty());
}

#[test]
fn a_slash_at_the_end_is_still_the_local_cluster() {
    for server in [
        "https://kubernetes.default.svc/",
        "https://kubernetes.default.svc//",
    ] {
        let local = with(&CLUSTER, "server", server);
        assert!(parse(SecretKind::Cluster, "", &local).unwrap().is_none());
    }
}

#[test]
fn booleans_are_those_of_go() {
    let asks = |value| {
        let values = with(&QUAY, "useWorkloadIdentity", value);
        parse(SecretKind::Repository, "Secret argocd/repo", &values).map(|found| found.is_some())
    };
    for value in ["1", "t", "T", "TRUE", "true", "True"] {
        assert_eq!(asks(value), Ok(true), "{value}");
    }
    for value in ["0", "f", "F", "FALSE", "false", "False"] {
        assert_eq!(asks(value), Ok(false), "{value}");
    }
    for value in ["tRUE", "yes", "y", "on", "01", "true "] {
        assert!(asks(value).is_err(), "{value}");
    }
}

#[test]
fn bytes_of_a_secret_without_workload_identity_are_its_own_business() {
    for kind in [
        SecretKind::Repository,
        SecretKind::RepoCreds,
        SecretKind::Cluster,
    ] {
        let plain = SecretValues::from_bytes([
            ("url", &b"\xff"[..]),
            ("noProxy", b"\xff"),
            ("config", b"\xff"),
            ("useAzureWorkloadIdentity", b"\xff"),
            ("project", b" a\n"),
        ]);
        assert!(parse(kind, "", &plain).unwrap().is_none());
        let declined = SecretValues::from_bytes([
            ("useWorkloadIdentity", &b"false"[..]),
            ("workloadIdentityProvider", b"\xff"),
            ("url", b"\xff"),
        ]);
        assert!(parse(kind, "", &declined).unwrap().is_none());
        // Whether it asks cannot be read.
        for name in ["useWorkloadIdentity", "workloadIdentityProvider"] {
            let unreadable = SecretValues::from_bytes([(name, &b"\xff"[..])]);
            assert_eq!(codes(kind, &unreadable), [Code::InvalidSecret], "{name}");
        }
    }
}

#[test]
fn argo_cds_own_azure_identities_are_static_credentials() {
    for name in [
        "azureServicePrincipalClientSecret",
        "azureServicePrincipalClientId",
        "azureServicePrincipalClientID",
        "azureServicePrincipalTenantId",
        "azureServicePrincipalTenantID",
    ] {
        let secret = repository(&with(&QUAY, name, "x"));
        assert_eq!(secret.static_credentials, [name]);
    }
    let found = |value| {
        let values = with(&QUAY, "useAzureWorkloadIdentity", value);
        parse(SecretKind::Repository, "Secret argocd/repo", &values).map(|found| match found {
            Some(WorkloadIdentity::Repository(secret)) => secret.static_credentials,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(found("true").unwrap(), ["useAzureWorkloadIdentity"]);
    assert_eq!(found("T").unwrap(), ["useAzureWorkloadIdentity"]);
    assert!(found("false").unwrap().is_empty());
    assert!(found("").unwrap().is_empty());
    // Argo CD cannot read the Secret then.
    assert_eq!(found("maybe").unwrap_err()[0].code, Code::InvalidSecret);
}

#[test]
fn a_value_with_an_outer_blank_or_line_end_is_refused_by_its_key() {
    for (key, value, code) in [
        (
            "url",
            "oci://quay.example.org/myorg/charts\n",
            Code::InvalidUrl,
        ),
        ("project", "default\n", Code::InvalidProject),
        ("type", "helm\n", Code::InvalidSecret),
        ("enableOCI", "true\n", Code::InvalidSecret),
        ("useWorkloadIdentity", "true\n", Code::InvalidSecret),
        ("useWorkloadIdentity", "false\n", Code::InvalidSecret),
        ("workloadIdentityProvider", "spiffe\n", Code::InvalidSecret),
        (
            "workloadIdentityAudience",
            "quay.example.org\n",
            Code::InvalidSecret,
        ),
        (
            "workloadIdentityAudience",
            " quay.example.org",
            Code::InvalidSecret,
        ),
        ("workloadIdentityAudience", "\n", Code::InvalidSecret),
        (
            "workloadIdentityAudience",
            "quay\texample",
            Code::InvalidSecret,
        ),
        (
            "workloadIdentityRegistryAuthURL",
            "https://quay.example.org/x\n",
            Code::InvalidSecret,
        ),
        (
            "workloadIdentityRegistryService",
            "quay.example.org\r\n",
            Code::InvalidSecret,
        ),
        (
            "workloadIdentityRegistryUsername",
            "myorg+argocd\n",
            Code::InvalidSecret,
        ),
        (
            "workloadIdentityTokenURL",
            "\thttps://sts.example.org",
            Code::InvalidSecret,
        ),
        (
            "workloadIdentityCredential",
            "SpiffeJWT ",
            Code::InvalidSecret,
        ),
        ("workloadIdentityDelivery", "proxy\n", Code::InvalidSecret),
        (
            "workloadIdentityUpstreamProxy",
            "http://proxy:3128\n",
            Code::InvalidSecret,
        ),
    ] {
        let values = with(&QUAY, key, value);
        assert_eq!(
            codes(SecretKind::Repository, &values),
            [code],
            "{key}={value:?}"
        );
        let errors = parse(SecretKind::Repository, "Secret a/b", &values).unwrap_err();
        assert!(
            errors[0].detail.contains(&format!("key {key}: ")),
            "{}",
            errors[0].detail
        );
    }
    for (key, value, code) in [
        (
            "server",
            "https://spoke.example.org:6443\n",
            Code::InvalidSecret,
        ),
        ("name", "spoke\n", Code::InvalidSecret),
        ("workloadIdentityAudience", "spoke\n", Code::InvalidSecret),
    ] {
        assert_eq!(
            codes(SecretKind::Cluster, &with(&CLUSTER, key, value)),
            [code],
            "{key}"
        );
    }
    // White space of JSON, and of a list whose entries Go trims.
    cluster(&with(&CLUSTER, "config", "{}\n"));
    repository(&with(&QUAY, "noProxy", "a, b\n"));
}

#[test]
fn values_that_flow_into_a_binding_have_a_longest_length() {
    use shared::bounds;
    let long =
        |prefix: &str, length: usize| format!("{prefix}{}", "a".repeat(length - prefix.len()));
    let one_more = |name: &str, prefix: &str, longest: usize, base: &[(&str, &str)], kind| {
        let codes = |length| {
            let value = long(prefix, length);
            let mut pairs: Vec<_> = base
                .iter()
                .copied()
                .filter(|(key, _)| *key != name)
                .collect();
            pairs.push((name, &value));
            let result = parse(kind, "Secret argocd/repo", &values(&pairs));
            let errors = result.err().unwrap_or_default();
            for error in &errors {
                assert!(error.detail.len() < 400, "{}", error.detail.len());
                assert!(
                    error.detail.contains(&format!("key {name}")),
                    "{}",
                    error.detail
                );
            }
            errors.iter().map(|error| error.code).collect::<Vec<_>>()
        };
        assert_eq!(codes(longest), [], "{name}");
        codes(longest + 1)
    };
    let repository = |name: &str, prefix: &str, longest| {
        one_more(name, prefix, longest, &QUAY, SecretKind::Repository)
    };
    let oci = "oci://quay.example.org/";
    assert_eq!(
        repository("url", oci, "oci://".len() + bounds::ADDRESS),
        [Code::InvalidUrl]
    );
    assert_eq!(
        repository("workloadIdentityAudience", "", bounds::AUDIENCE),
        [Code::InvalidSecret]
    );
    for name in [
        "workloadIdentityRegistryService",
        "workloadIdentityRegistryUsername",
    ] {
        assert_eq!(
            repository(name, "", bounds::NAME),
            [Code::InvalidSecret],
            "{name}"
        );
    }
    for name in [
        "workloadIdentityRegistryAuthURL",
        "workloadIdentityTokenURL",
    ] {
        let url = "https://quay.example.org/";
        assert_eq!(
            repository(name, url, bounds::URL),
            [Code::AuthUrlInvalid],
            "{name}"
        );
    }
    let server = one_more(
        "server",
        "https://spoke.example.org/",
        bounds::ADDRESS,
        &CLUSTER,
        SecretKind::Cluster,
    );
    assert_eq!(server, [Code::InvalidUrl]);
    // What a URL's encoding adds counts.
    let umlauts = format!(
        "https://quay.example.org/{}",
        "\u{e4}".repeat(bounds::URL / 3)
    );
    let mut pairs = QUAY.to_vec();
    pairs.push(("workloadIdentityTokenURL", &umlauts));
    assert_eq!(
        codes(SecretKind::Repository, &values(&pairs)),
        [Code::AuthUrlInvalid]
    );
}

#[test]
fn an_upstream_proxy_has_a_longest_length_too() {
    let host = "a.".repeat(shared::bounds::URL / 2) + "a";
    let url = format!("http://{host}");
    let mut pairs = QUAY.to_vec();
    pairs.push(("workloadIdentityUpstreamProxy", &url));
    assert_eq!(
        codes(SecretKind::Repository, &values(&pairs)),
        [Code::UpstreamProxyInvalid]
    );
}

#[test]
fn plain_http_is_seen() {
    assert!(!repository(&values(&QUAY)).is_plain_http());
    assert!(repository(&with(&QUAY, "insecureOCIForceHttp", "true")).is_plain_http());
    assert!(!repository(&with(&QUAY, "insecureOCIForceHttp", "false")).is_plain_http());
    let git = [
        ("url", "https://git.example.org/a"),
        ("workloadIdentityProvider", "spiffe"),
        ("insecureOCIForceHttp", "true"),
    ];
    assert!(!repository(&values(&git)).is_plain_http());
}

proptest! {
    /// Go's reader and ours name the same member by the same spelling: what is
    /// accepted has known members in the one spelling only.
    #[test]
    fn no_spelling_of_a_known_member_passes(
        name in prop::sample::select(vec!["bearerToken", "username", "password", "proxyUrl", "tlsClientConfig"]),
        flips in prop::collection::vec(any::<bool>(), 16), long_s in any::<bool>(), kelvin in any::<bool>(),
    ) {
        let spelled: String = name.chars().zip(flips).map(|(c, flip)| match c.to_ascii_lowercase() {
            's' if flip && long_s => '\u{17f}',
            'k' if flip && kelvin => '\u{212a}',
            _ if flip => if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() },
            _ => c,
        }).collect();
        let config = serde_json::json!({ spelled.clone(): null }).to_string();
        prop_assert_eq!(ClusterConfig::parse(&config).is_ok(), spelled == name);
    }

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
