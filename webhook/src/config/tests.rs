//! Flags as they are typed flow in.

use super::*;

fn parse(extra: &[&str]) -> Result<Config, ConfigError> {
    let required = ["argocd-identity", "serve"];
    let mut flags = vec![
        "--trust-domain=example.org",
        "--issuer-url=https://identity.example.org",
    ];
    flags.retain(|flag| {
        let name = flag.split('=').next().unwrap();
        !extra.iter().any(|given| given.starts_with(name))
    });
    let all = required.iter().chain(&flags).chain(extra);
    let Command::Serve(args) = Cli::try_parse_from(all).unwrap().command else {
        panic!("not serve");
    };
    Config::try_from(*args)
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn the_issuers_algorithm_is_one_of_two() {
    assert_eq!(parse(&[]).unwrap().issuer_algorithm, Algorithm::Rs256);
    let config = parse(&["--issuer-algorithm=ES256"]).unwrap();
    assert_eq!(config.issuer_algorithm, Algorithm::Es256);
    for text in ["", "es256", "RS512", "none"] {
        let flag = format!("--issuer-algorithm={text}");
        let error = parse(&[&flag]).unwrap_err().to_string();
        assert!(error.contains("--issuer-algorithm"), "{error}");
    }
}

#[test]
fn without_an_issuer_nothing_is_signed() {
    assert_eq!(parse(&["--issuer-url="]).unwrap().issuer_url, None);
    let cli = Cli::try_parse_from(["argocd-identity", "serve", "--trust-domain=example.org"]);
    let Command::Serve(args) = cli.unwrap().command else {
        panic!("not serve");
    };
    assert_eq!(Config::try_from(*args).unwrap().issuer_url, None);
}

#[test]
fn every_flag_has_its_environment_variable() {
    use clap::CommandFactory;
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap();
    for argument in serve
        .get_arguments()
        .filter(|a| a.get_long() != Some("help"))
    {
        let long = argument.get_long().unwrap();
        let name = format!("ARGOCD_IDENTITY_{}", long.to_uppercase().replace('-', "_"));
        assert_eq!(argument.get_env().unwrap().to_str(), Some(&*name));
    }
}

#[test]
fn defaults_are_those_of_the_manifests() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.namespace.as_str(), "argocd-identity");
    assert_eq!(config.argocd_namespaces[0].as_str(), "argocd");
    assert_eq!(config.token_lifetime, Duration::from_secs(3600));
    assert_eq!(config.cluster_consumers.len(), 2);
    assert_eq!(config.allowed_hosts, AllowList::default());
    assert!(!config.spiffe_csi_driver);
    assert_eq!(
        config.issuer_url.unwrap().join("/keys"),
        "https://identity.example.org/keys"
    );
}

#[test]
fn lists_are_read_without_duplicates() {
    let config = parse(&["--argocd-namespaces=argocd, team-a,argocd"]).unwrap();
    let names: Vec<_> = config
        .argocd_namespaces
        .iter()
        .map(Namespace::as_str)
        .collect();
    assert_eq!(names, ["argocd", "team-a"]);
}

#[test]
fn errors_name_the_flag_and_the_fix() {
    for (flag, fix) in [
        ("--namespace=", "Use the name of a namespace"),
        ("--namespace=Argo", "Use the name of a namespace"),
        ("--argocd-namespaces=a,,b", "Use the name of a namespace"),
        ("--argocd-namespaces=-a", "Use the name of a namespace"),
        ("--trust-domain=spiffe://example.org", "without spiffe://"),
        ("--trust-domain=", "such as example.org"),
        ("--issuer-url=http://a.example", "Use a URL such as https"),
        ("--issuer-url=https://a.example/", "Use a URL such as https"),
        (
            "--issuer-url=https://u@a.example",
            "Use a URL such as https",
        ),
        (
            "--issuer-url=https://a.example?x",
            "Use a URL such as https",
        ),
        ("--issuer-url=a", "Use a URL such as https"),
        ("--token-lifetime=5", "Use 30 to 86400 seconds"),
        ("--token-lifetime=1h", "Use 30 to 86400 seconds"),
        ("--allowed-hosts=https://a", "Use host[:port]"),
        (
            "--registry-consumers=default",
            "Use the name of a service account",
        ),
        ("--cluster-consumers=", "Use the name of a service account"),
        (
            "--agent-service-account=a_b",
            "Use the name of a service account",
        ),
        ("--admission-address=8443", "Use an address and a port"),
        ("--metrics-address=:8080", "Use an address and a port"),
    ] {
        let error = parse(&[flag]).unwrap_err().to_string();
        let name = flag.split('=').next().unwrap();
        assert!(error.starts_with(name), "{error}");
        assert!(error.contains(fix), "{error}");
    }
}
