//! A configuration that is right, and each way in which it can be wrong.

use std::collections::BTreeSet;

use super::super::tests::settings;
use super::*;
use crate::generate::secrets;

const GOOD: &str = r#"
server {
    trust_domain = "example.org"
    jwt_issuer = "https://oidc.example.org"
    jwt_key_type = "rsa-2048"
    default_jwt_svid_ttl = "5m"
}
plugins {
    NodeAttestor "k8s_psat" {
        plugin_data {
            clusters = {
                "prod" = { allowed_node_label_keys = ["a", "argocd"] }
            }
        }
    }
}
"#;

fn of(secrets_file: &str, flags: &[&str]) -> (Settings, Identities) {
    let settings = settings(flags);
    let mut identities = Identities::default();
    let take = |secret: &_| identities.add(&settings.derivation, secret);
    secrets::parse("x", secrets_file, &settings.namespaces[0], take);
    (settings, identities)
}

const QUAY: &str = include_str!("../../../../../tests/tests/process/guides/quay.yaml");

fn rules(flags: &[&str], config: &str) -> Vec<&'static str> {
    let (settings, identities) = of(QUAY, flags);
    let found = findings(&settings, &identities, Some(config));
    found.iter().map(|finding| finding.rule.name()).collect()
}

#[test]
fn each_rule_finds_what_it_is_for() {
    assert_eq!(rules(&["--node-label=argocd=true"], GOOD), [""; 0]);
    let without = |key: &str| {
        let lines = GOOD.lines().filter(|line| !line.trim().starts_with(key));
        lines.collect::<Vec<_>>().join("\n")
    };
    for (flags, config, rule) in [
        (&[][..], without("jwt_issuer"), "jwt-issuer"),
        (
            &[],
            GOOD.replace("https://oidc.example.org", ""),
            "jwt-issuer",
        ),
        (&[], without("jwt_key_type"), "jwt-key-type"),
        (&[], GOOD.replace("rsa-2048", "ec-p256"), "jwt-key-type"),
        (&[], GOOD.replace("5m", "1m"), "jwt-ttl"),
        (&[], GOOD.replace("5m", "25h"), "jwt-ttl"),
        (&[], GOOD.replace("5m", "soon"), "jwt-ttl"),
        (&["--jwt-ttl=4m"], GOOD.to_owned(), "jwt-ttl"),
        (
            &["--trust-domain=example.com"],
            GOOD.to_owned(),
            "trust-domain",
        ),
        (&["--node-label=other=true"], GOOD.to_owned(), "node-label"),
        (
            &["--node-label=argocd=true", "--cluster-name=test"],
            GOOD.to_owned(),
            "node-label",
        ),
        (
            &[
                "--format=cluster-spiffe-ids",
                "--installation-namespace=openshift-identity",
            ],
            GOOD.to_owned(),
            "openshift-namespace",
        ),
        (&[], "server {".to_owned(), "server-config"),
        (&[], "agent { a = 1 }".to_owned(), "server-config"),
    ] {
        assert_eq!(rules(flags, &config), [rule], "{config}");
    }
}

#[test]
fn keys_are_the_ca_keys_where_nothing_else_is_said() {
    let config = GOOD.replace("jwt_key_type", "ca_key_type");
    assert_eq!(rules(&[], &config), [""; 0]);
    let both = GOOD.replace("jwt_key_type", "ca_key_type = \"rsa-4096\"\njwt_key_type");
    let both = both.replace("rsa-2048", "ec-p384");
    assert_eq!(rules(&[], &both), ["jwt-key-type"]);
}

#[test]
fn an_elliptic_curve_is_right_for_all_but_quay() {
    let cluster = r#"
kind: Secret
metadata: {name: spoke, labels: {argocd.argoproj.io/secret-type: cluster}}
stringData:
  server: https://spoke.example.org
  config: "{}"
  useWorkloadIdentity: "true"
  workloadIdentityAudience: spoke
"#;
    let (settings, identities) = of(cluster, &["--allowed-hosts=spoke.example.org"]);
    assert_eq!(identities.iter().len(), 1);
    let config = GOOD.replace("rsa-2048", "ec-p256");
    assert_eq!(findings(&settings, &identities, Some(&config)), []);
}

#[test]
fn pods_in_openshift_namespaces_matter_only_where_pods_are_registered() {
    let namespace = "--installation-namespace=openshift-identity";
    assert_eq!(rules(&[namespace], GOOD), [""; 0]);
    assert_eq!(
        rules(&[namespace, "--parent=agent"], GOOD),
        ["openshift-namespace"]
    );
}

#[test]
fn a_finding_says_what_where_and_what_to_do() {
    let (settings, identities) = of(QUAY, &["--jwt-ttl=1m"]);
    let found = findings(&settings, &identities, None);
    assert_eq!(
        found[0].to_string(),
        "jwt-ttl: JWT-SVIDs live less than five minutes or more than a day (--jwt-ttl 1m). \
         Set --jwt-ttl, and default_jwt_svid_ttl of the SPIRE server, to a duration such as 1h."
    );
}

#[test]
fn names_are_unique_and_documented() {
    let names: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    assert_eq!(names.len(), Rule::ALL.len());
    let page = include_str!("../../../../../docs/spire.md");
    for rule in Rule::ALL {
        let row = format!("| `{}` | {} |", rule.name(), rule.cause());
        assert!(page.contains(&row), "docs/spire.md lacks: {row}");
    }
}
