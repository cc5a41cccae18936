//! The guides' Secrets, who they become, and every reason to refuse.

use super::*;
use crate::secret::{self, SecretKind, SecretValues};

fn derivation() -> Derivation {
    Derivation {
        trust_domain: "example.org".into(),
        allowed_hosts: AllowList::parse("spoke.example.org:6443,lab.example.org;insecure").unwrap(),
        registry_consumers: vec!["argocd-repo-server".into()],
        cluster_consumers: vec![
            "argocd-application-controller".into(),
            "argocd-server".into(),
        ],
    }
}

fn parse(label: &str, pairs: &[(&str, &str)]) -> Result<WorkloadIdentity, Vec<Named>> {
    let kind = SecretKind::from_label(label).expect("a label");
    let values = pairs.iter().map(|(key, text)| (*key, text.as_bytes()));
    let values = SecretValues::from_bytes(values);
    let parsed = secret::parse(kind, "Secret argocd/example", &values)?;
    Ok(parsed.expect("workload identity"))
}

fn derive(label: &str, pairs: &[(&str, &str)]) -> Result<CredentialBindingSpec, Vec<Named>> {
    let parsed = parse(label, pairs)?;
    derivation().binding("argocd", "example", &parsed)
}

fn codes(label: &str, pairs: &[(&str, &str)]) -> Vec<Code> {
    derive(label, pairs)
        .unwrap_err()
        .iter()
        .map(|error| error.code)
        .collect()
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
const SPOKE: [(&str, &str); 4] = [
    ("server", "https://spoke.example.org:6443"),
    ("config", "{}"),
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
fn quay_without_a_project_is_shared_through_the_docker_config() {
    let spec = derive("repository", &QUAY).unwrap();
    assert_eq!(
        spec.identity.subject,
        "spiffe://example.org/ns/argocd/sa/argocd-global"
    );
    assert_eq!(spec.identity.audience, "quay.example.org");
    assert_eq!(
        (spec.exchange.kind, spec.delivery),
        (ExchangeKind::Quay, Delivery::DockerConfig)
    );
    assert_eq!(spec.target.address, "quay.example.org/myorg/charts");
    assert_eq!(spec.consumers, ["argocd-repo-server"]);
}

#[test]
fn a_project_has_its_own_identity_and_never_the_shared_file() {
    let spec = derive("repository", &with(&QUAY, "project", "production")).unwrap();
    assert!(
        spec.identity
            .subject
            .ends_with("/sa/argocd-project-production")
    );
    assert_eq!(spec.delivery, Delivery::Proxy);
    let mut forced = with(&QUAY, "project", "production");
    forced.push(("workloadIdentityDelivery", "docker-config"));
    assert_eq!(codes("repository", &forced), [Code::DeliveryRefused]);
}

#[test]
fn a_cluster_never_shares_its_subject_with_a_registry() {
    let spec = derive("cluster", &SPOKE).unwrap();
    assert!(
        spec.identity
            .subject
            .ends_with("/sa/argocd-application-controller")
    );
    assert_eq!(
        (spec.exchange.kind, spec.delivery),
        (ExchangeKind::None, Delivery::Exec)
    );
    let cluster = derive("cluster", &with(&SPOKE, "project", "a")).unwrap();
    let registry = derive("repository", &with(&QUAY, "project", "a-cluster")).unwrap();
    assert_ne!(cluster.identity.subject, registry.identity.subject);
}

#[test]
fn tokens_go_to_known_hosts_only() {
    let key = "workloadIdentityRegistryAuthURL";
    for url in [
        "https://evil.example.org/oauth2/federation/robot/token",
        "https://quay.example.org:8443/oauth2/federation/robot/token",
        "https://quay.example.org.evil.org/oauth2/federation/robot/token",
    ] {
        assert_eq!(
            codes("repository", &with(&QUAY, key, url)),
            [Code::HostNotAllowed],
            "{url}"
        );
    }
    for server in ["https://spoke.example.org", "https://10.0.0.1:6443"] {
        assert_eq!(
            codes("cluster", &with(&SPOKE, "server", server)),
            [Code::HostNotAllowed]
        );
    }
}

#[test]
fn an_unverified_cluster_needs_the_administrators_word() {
    let insecure = r#"{"tlsClientConfig":{"insecure":true}}"#;
    assert_eq!(
        codes("cluster", &with(&SPOKE, "config", insecure)),
        [Code::InsecureTransport]
    );
    let lab = with(&SPOKE, "server", "https://lab.example.org:6443");
    assert!(derive("cluster", &with(&lab, "config", insecure)).is_ok());
}

#[test]
fn what_an_exchange_needs_is_asked_for_by_name() {
    assert_eq!(codes("repository", &QUAY[..4]), [Code::UsernameMissing]);
    let colon = with(&QUAY, "workloadIdentityRegistryUsername", "a:b");
    assert_eq!(codes("repository", &colon), [Code::InvalidSecret]);
    assert_eq!(codes("repository", &QUAY[..3]), [Code::AudienceMissing]);
    let oidc = with(&QUAY[..3], "workloadIdentityProvider", "oidc");
    assert_eq!(
        codes("repository", &oidc),
        [Code::ExchangeUnspecified, Code::AudienceMissing]
    );
}

#[test]
fn aws_knows_its_own_token_services() {
    let aws = [
        ("type", "helm"),
        (
            "url",
            "oci://123456789012.dkr.ecr.us-west-2.amazonaws.com/charts",
        ),
        ("workloadIdentityProvider", "aws"),
    ];
    let spec = derive("repository", &aws).unwrap();
    assert_eq!(spec.exchange.kind, ExchangeKind::Ecr);
    assert_eq!(spec.identity.audience, "sts.amazonaws.com");
    let key = "workloadIdentityTokenURL";
    for url in [
        "https://sts.us-gov-west-1.amazonaws.com",
        "https://sts.cn-north-1.amazonaws.com.cn",
    ] {
        assert!(derive("repository", &with(&aws, key, url)).is_ok(), "{url}");
    }
    for url in [
        "https://sts.evil.org",
        "https://sts.a.b.amazonaws.com",
        "https://sts..amazonaws.com",
    ] {
        assert_eq!(
            codes("repository", &with(&aws, key, url)),
            [Code::HostNotAllowed],
            "{url}"
        );
    }
}

#[test]
fn the_proxy_learns_what_it_needs_from_the_secret() {
    use shared::binding::ProxyKind;
    let with = |pairs: &[(&'static str, &'static str)]| {
        let mut all = QUAY.to_vec();
        all.retain(|(name, _)| !pairs.iter().any(|(other, _)| name == other));
        all.extend(pairs);
        all.push(("workloadIdentityAudience", "quay"));
        derive("repository", &all).unwrap().proxy
    };
    assert_eq!(with(&[]), None, "docker-config");
    let plain = with(&[("project", "prod")]).unwrap();
    assert_eq!((plain.kind, plain.insecure), (ProxyKind::Oci, false));
    assert_eq!((plain.key_sha256.len(), &plain.upstream_proxy), (0, &None));
    let full = with(&[
        ("workloadIdentityDelivery", "proxy"),
        ("insecure", "true"),
        ("workloadIdentityUpstreamProxy", "http://proxy.corp:3128"),
    ]);
    let full = full.unwrap();
    assert!(full.insecure);
    assert_eq!(
        full.upstream_proxy.as_deref(),
        Some("http://proxy.corp:3128")
    );
    for (kind, url, expected) in [
        ("oci", "oci://quay.example.org/myorg/charts", ProxyKind::Oci),
        (
            "helm",
            "https://quay.example.org/charts",
            ProxyKind::HelmHttp,
        ),
        ("git", "https://quay.example.org/org/repo", ProxyKind::Git),
    ] {
        let found = with(&[("type", kind), ("url", url)]).unwrap();
        assert_eq!(found.kind, expected, "{kind} {url}");
    }
    // As the guides write it, and as the webhook has rewritten it.
    let rewritten = with(&[
        ("project", "prod"),
        ("url", "quay.example.org/myorg/charts"),
        ("enableOCI", "true"),
    ]);
    assert_eq!(rewritten.unwrap(), plain);
}

#[test]
fn a_proxy_with_a_password_and_a_project_that_nobody_reads_are_refused() {
    let with = |pair| [&QUAY[..], &[pair]].concat();
    let proxy = (
        "workloadIdentityUpstreamProxy",
        "http://me:hunter2@proxy:3128",
    );
    assert_eq!(
        codes("repository", &with(proxy)),
        [Code::UpstreamProxyInvalid]
    );
    let error = derive("repository", &with(proxy)).unwrap_err().remove(0);
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let project = ("project", "prod");
    assert_eq!(codes("repo-creds", &with(project)), [Code::ProjectIgnored]);
}

/// What the Secret says decides, and nothing else.
#[test]
fn urls_and_provider_decide_the_exchange() {
    use ExchangeKind::{Distribution, Passthrough, Quay, TokenExchange};
    const FEDERATION: &str = "https://quay.example.org/oauth2/federation/robot/token";
    const REALM: &str = "https://quay.example.org/v2/token";
    const TOKENS: &str = "https://lab.example.org/token";
    for (provider, auth_url, token_url, expected, delivery) in [
        ("spiffe", None, None, Passthrough, Delivery::DockerConfig),
        (
            "spiffe",
            Some(FEDERATION),
            None,
            Quay,
            Delivery::DockerConfig,
        ),
        ("spiffe", Some(REALM), None, Distribution, Delivery::Proxy),
        (
            "spiffe",
            None,
            Some(TOKENS),
            TokenExchange,
            Delivery::DockerConfig,
        ),
        (
            "spiffe",
            Some(REALM),
            Some(TOKENS),
            TokenExchange,
            Delivery::Proxy,
        ),
        ("oidc", Some(FEDERATION), None, Quay, Delivery::DockerConfig),
        ("oidc", Some(REALM), None, Distribution, Delivery::Proxy),
        (
            "oidc",
            None,
            Some(TOKENS),
            TokenExchange,
            Delivery::DockerConfig,
        ),
        (
            "oidc",
            Some(REALM),
            Some(TOKENS),
            TokenExchange,
            Delivery::Proxy,
        ),
    ] {
        let mut pairs = with(&QUAY, "workloadIdentityProvider", provider);
        pairs.retain(|(name, _)| *name != "workloadIdentityRegistryAuthURL");
        pairs.push(("workloadIdentityAudience", "registry"));
        pairs.extend(auth_url.map(|url| ("workloadIdentityRegistryAuthURL", url)));
        pairs.extend(token_url.map(|url| ("workloadIdentityTokenURL", url)));
        let spec = derive("repository", &pairs).unwrap();
        let found = (spec.exchange.kind, spec.delivery);
        assert_eq!(
            found,
            (expected, delivery),
            "{provider} {auth_url:?} {token_url:?}"
        );
        assert_eq!(shared::binding::undeliverable("x", &spec), None);
        if delivery == Delivery::Proxy {
            pairs.push(("workloadIdentityDelivery", "docker-config"));
            assert_eq!(codes("repository", &pairs), [Code::DeliveryRefused]);
        }
    }
}

#[test]
fn a_clouds_credential_goes_to_its_clouds_registries() {
    let at = |provider, url| {
        let pairs = [
            ("type", "helm"),
            ("url", url),
            ("workloadIdentityProvider", provider),
        ];
        derive("repository", &pairs).map(|spec| spec.exchange.kind)
    };
    for (provider, url, expected) in [
        ("gcp", "oci://us-docker.pkg.dev/p/charts", ExchangeKind::Gar),
        ("gcp", "oci://lab.example.org/p/charts", ExchangeKind::Gar),
        ("azure", "oci://acme.azurecr.io/charts", ExchangeKind::Acr),
        (
            "aws",
            "oci://public.ecr.aws/a/charts",
            ExchangeKind::EcrPublic,
        ),
        // By another name of the user's own: its region is unknown.
        ("aws", "oci://lab.example.org/charts", ExchangeKind::Ecr),
    ] {
        assert_eq!(at(provider, url), Ok(expected), "{url}");
    }
    for (provider, url) in [
        ("gcp", "oci://docker.pkg.dev.example.org/p/charts"),
        ("gcp", "oci://acme.azurecr.io/charts"),
        ("azure", "oci://us-docker.pkg.dev/p/charts"),
        ("azure", "oci://azurecr.example.org/charts"),
    ] {
        let errors = at(provider, url).unwrap_err();
        assert_eq!(errors[0].code, Code::HostNotAllowed, "{url}");
        assert!(errors[0].detail.contains("key url"), "{errors:?}");
    }
}

#[test]
fn a_token_url_carries_no_secret() {
    let with_url = |url| {
        let mut pairs = with(&QUAY[..3], "workloadIdentityTokenURL", url);
        pairs.push(("workloadIdentityAudience", "registry"));
        pairs
    };
    let url = "https://lab.example.org/token?client_id=argocd";
    let spec = derive("repository", &with_url(url)).unwrap();
    assert_eq!(spec.exchange.token_url.as_deref(), Some(url));
    for url in [
        "https://lab.example.org/token?client_secret=hunter2",
        "https://lab.example.org/token?a=b&Password=hunter2",
    ] {
        let errors = derive("repository", &with_url(url)).unwrap_err();
        assert_eq!(errors[0].code, Code::InvalidSecret, "{errors:?}");
        assert!(!format!("{errors:?}").contains("hunter2"), "{errors:?}");
    }
}

/// Nothing is bound and signed for that each node would then refuse.
#[test]
fn a_path_that_the_credential_proxy_would_refuse_is_refused_here() {
    let at = |kind, url| {
        let mut pairs = with(&with(&QUAY, "type", kind), "url", url);
        pairs.push(("workloadIdentityDelivery", "proxy"));
        pairs
    };
    for (kind, url) in [
        ("git", "https://quay.example.org/acme/My%20Project/_git/app"),
        (
            "helm",
            "https://quay.example.org/api/v4/projects/platform%2Fcharts/packages/helm/stable",
        ),
        ("git", "https://quay.example.org/a//b"),
        ("git", "https://quay.example.org/a/../b"),
        ("git", "https://quay.example.org/./a"),
        ("git", "https://quay.example.org/a\\b"),
        ("oci", "oci://quay.example.org/a/%2e%2e/b"),
    ] {
        let errors = derive("repository", &at(kind, url)).unwrap_err();
        let codes: Vec<_> = errors.iter().map(|error| error.code).collect();
        assert_eq!(codes, [Code::PathRefused], "{url}");
        assert!(
            errors[0]
                .detail
                .starts_with("Secret argocd/example, key url: "),
            "{errors:?}"
        );
    }
    for url in [
        "https://quay.example.org",
        "https://quay.example.org/api/v4/projects/42/packages/helm/stable/",
        "https://quay.example.org/a.b/c..d/.e",
    ] {
        assert!(derive("repository", &at("git", url)).is_ok(), "{url}");
    }
}

proptest::proptest! {
    #[test]
    fn what_is_bound_is_what_the_proxy_can_read(path in "[a-z%2f./\\\\ ]{0,10}") {
        use shared::proxy_view::{self, KeyHash, ProxyBinding};
        let url = format!("https://quay.example.org/{path}");
        let mut pairs = with(&with(&QUAY, "type", "git"), "url", &url);
        pairs.push(("workloadIdentityDelivery", "proxy"));
        if let Ok(spec) = derive("repository", &pairs) {
            let address = spec.target.address;
            let (host, path) = address.split_once('/').unwrap_or((&address, ""));
            let document = ProxyBinding {
                name: "example".into(),
                project: None,
                keys: vec![KeyHash::of(b"a")],
                target: shared::registry::RegistryHost::parse(host).unwrap(),
                path: path.to_owned(),
                kind: shared::binding::ProxyKind::Git,
                insecure: false,
                allowed_hosts: AllowList::default(),
                upstream_proxy: None,
                realm: None,
                credential: None,
            };
            proptest::prop_assert!(proxy_view::render(&document).is_ok(), "{}", url);
        }
    }
}

#[test]
fn an_address_is_the_registrys_own_host_in_any_spelling() {
    let key = "workloadIdentityRegistryAuthURL";
    for (host, own) in [
        ("[::1]", "[::1]"),
        ("[2001:DB8:0::1]:8443", "[2001:db8::1]:8443"),
        ("[2001:db8::1]:443", "[2001:db8:0:0::1]"),
        ("10.0.0.1", "10.0.0.1"),
        ("Quay.Example.Org", "quay.example.org:443"),
    ] {
        let url = format!("oci://{host}/myorg/charts");
        let auth = format!("https://{own}/oauth2/federation/robot/token");
        let pairs = with(&QUAY, "url", &url);
        assert!(
            derive("repository", &with(&pairs, key, &auth)).is_ok(),
            "{host} {own}"
        );
    }
    for (host, other) in [
        ("[::1]", "[::2]"),
        ("[::1]", "[::1]:8443"),
        ("[::1]", "[::]"),
    ] {
        let url = format!("oci://{host}/myorg/charts");
        let auth = format!("https://{other}/oauth2/federation/robot/token");
        let pairs = with(&QUAY, "url", &url);
        assert_eq!(
            codes("repository", &with(&pairs, key, &auth)),
            [Code::HostNotAllowed]
        );
    }
}

#[test]
fn plain_http_never_meets_the_shared_file() {
    let mut pairs = with(&QUAY, "insecureOCIForceHttp", "true");
    assert_eq!(
        derive("repository", &pairs).unwrap().delivery,
        Delivery::Proxy
    );
    pairs.push(("workloadIdentityDelivery", "docker-config"));
    assert_eq!(codes("repository", &pairs), [Code::PlainHttpRefused]);
    let found = parse("repository", &with(&QUAY, "insecureOCIForceHttp", "true"));
    let Ok(WorkloadIdentity::Repository(found)) = found else {
        panic!("{found:?}");
    };
    let codes: Vec<_> = proxy_warnings("x", &found)
        .iter()
        .map(|it| it.code)
        .collect();
    assert_eq!(codes, [Code::PlainHttpRefused]);
}
