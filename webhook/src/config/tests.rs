//! Flags as they are typed flow in.

use clap::{CommandFactory, Parser};

use super::*;
use crate::args::{Args, Command};

fn parse(extra: &[&str]) -> Result<Config, SettingError> {
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
    let Command::Serve(args) = Args::try_parse_from(all).unwrap().command else {
        panic!("not serve");
    };
    Config::try_from(*args)
}

#[test]
fn the_command_line_is_consistent() {
    Args::command().debug_assert();
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
fn the_credential_proxy_runs_as_the_installation_says() {
    assert_eq!(parse(&[]).unwrap().sidecar, SidecarSettings::default());
    let config = parse(&[
        "--proxy-requests=cpu=0.5, memory=64Mi,ephemeral-storage=1Mi",
        "--proxy-limits=",
        "--proxy-pull-policy=Always",
        "--proxy-pull-secrets= mirror,other.example , mirror,",
    ]);
    let sidecar = config.unwrap().sidecar;
    let pairs = [
        ("cpu", "0.5"),
        ("ephemeral-storage", "1Mi"),
        ("memory", "64Mi"),
    ];
    assert_eq!(
        sidecar.requests,
        pairs.map(|(a, b)| (a.into(), b.into())).into()
    );
    assert!(sidecar.limits.is_empty());
    assert_eq!(sidecar.pull_policy.as_str(), "Always");
    assert_eq!(sidecar.pull_secrets, ["mirror", "other.example"]);
    for flag in [
        "--proxy-requests=cpu",
        "--proxy-requests=cpu=",
        "--proxy-requests=cpu=-1",
        "--proxy-requests=cpu=1e3",
        "--proxy-requests=cpu=1.",
        "--proxy-requests=cpu=99999999999999999999999999999999999999999",
        "--proxy-requests=memory=1mi",
        "--proxy-requests=gpu=1",
        "--proxy-requests=cpu=1,cpu=2",
        // The API server would refuse every repo-server for it.
        "--proxy-requests=cpu=1001m",
        "--proxy-requests=memory=0.6Gi",
        "--proxy-pull-policy=always",
        "--proxy-pull-secrets=A_b",
    ] {
        let error = parse(&[flag]).unwrap_err().to_string();
        assert!(
            error.starts_with(flag.split('=').next().unwrap()),
            "{error}"
        );
    }
    for flag in [
        "--proxy-requests=cpu=1000m,memory=0.5Gi",
        "--proxy-requests=memory=512Mi",
    ] {
        assert!(parse(&[flag]).is_ok(), "{flag}");
    }
}

#[test]
fn without_an_issuer_nothing_is_signed() {
    assert_eq!(parse(&["--issuer-url="]).unwrap().issuer_url, None);
    let cli = Args::try_parse_from(["argocd-identity", "serve", "--trust-domain=example.org"]);
    let Command::Serve(args) = cli.unwrap().command else {
        panic!("not serve");
    };
    assert_eq!(Config::try_from(*args).unwrap().issuer_url, None);
}

#[test]
fn every_flag_has_its_environment_variable() {
    let command = Args::command();
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
