//! The same settings in every notation, and text that is none.

use proptest::prelude::*;

use super::*;

const HCL: &str = r#"
# A server.
server {
    bind_port = 8081# a number
    trust_domain = "example.org" /* the
    domain = "of another" **/
    jwt_issuer = "https://oidc.example.org/a#b"
    ca_subject { country = ["US", "\"quoted\"",] }
    experimental {
        feature_flags = []
    }
    note = <<-END
      } ] " {
      END
    jwt_key_type = "ec-p256"
    jwt_key_type = "rsa-2048"
}

plugins {
    NodeAttestor "k8s_psat" {
        plugin_data {
            clusters = {
                "prod" = {
                    allowed_node_label_keys = ["a", "b"],
                },
            }
        }
    }
}
"#;

const JSON: &str = r#"{
  "server": {
    "bind_port": 8081,
    "trust_domain": "example.org",
    "jwt_issuer": "https://oidc.example.org/a#b",
    "ca_subject": [{"country": ["US", "\"quoted\""]}],
    "jwt_key_type": "rsa-2048"
  },
  "plugins": {
    "NodeAttestor": [{"k8s_psat": {"plugin_data": {
      "clusters": [{"prod": {"allowed_node_label_keys": ["a", "b"]}}]
    }}}]
  }
}"#;

fn check(text: &str) {
    let config = ServerConfig::parse(text).unwrap();
    for (path, values) in [
        (&["server", "bind_port"][..], &["8081"][..]),
        (&["server", "trust_domain"], &["example.org"]),
        (&["server", "jwt_issuer"], &["https://oidc.example.org/a#b"]),
        (&["server", "ca_subject", "country"], &["US", "\"quoted\""]),
        (
            &[
                "plugins",
                "NodeAttestor",
                "k8s_psat",
                "plugin_data",
                "clusters",
                "prod",
                "allowed_node_label_keys",
            ],
            &["a", "b"],
        ),
        (&["server", "none"], &[]),
    ] {
        assert_eq!(config.values(path), values, "{path:?}");
    }
    assert_eq!(config.value(&["server", "jwt_key_type"]), Some("rsa-2048"));
    assert!(config.is_without("agent") && !config.is_without("server"));
}

#[test]
fn every_notation_means_the_same() {
    check(HCL);
    check(JSON);
    let indented: String = HCL.lines().map(|line| format!("    {line}\n")).collect();
    check(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: spire-server}}\ndata:\n  server.conf: |\n{indented}"
    ));
    let map = serde_json::json!({"kind": "ConfigMap", "data": {"server.conf": JSON}});
    check(&map.to_string());
}

#[test]
fn what_is_broken_is_refused_with_its_line() {
    for (text, error) in [
        ("server {\n", "line 2: a brace has no end"),
        ("server { }\n}", "line 2: a bracket too many"),
        ("\na = \"b\nc\"", "line 2: a string has no end"),
        ("a =", "line 1: a value is missing"),
        ("a = [1", "line 1: a value is missing"),
        ("a = { b = }", "line 1: a value is missing"),
        ("/* a", "line 1: a comment has no end"),
        ("a / b", "line 1: a slash outside of quotes"),
        ("a = <<E\nb", "line 1: a heredoc has no end"),
    ] {
        let found = ServerConfig::parse(text).unwrap_err().to_string();
        assert_eq!(found, error, "{text}");
    }
    let deep = format!("a = {}", "[".repeat(100_000));
    let error = ServerConfig::parse(&deep).unwrap_err().to_string();
    assert!(error.contains("too deep"), "{error}");
}

proptest! {
    #[test]
    fn no_text_breaks_it(text in "[a{}\\[\\]=:,\"\\\\/*#<\n -]{0,40}|\\PC*") {
        let _ = ServerConfig::parse(&text);
    }

    /// What is written as HCL is read as it was, whatever the values are.
    #[test]
    fn values_are_read_as_they_are(values in prop::collection::vec("[^\\x00-\\x1f]{0,12}", 0..5)) {
        let quoted = |text: &String| format!("\"{}\"", text.replace('\\', r"\\").replace('"', r#"\""#));
        let list: Vec<_> = values.iter().map(quoted).collect();
        let hcl = format!("server {{ # {list:?}\n  all = [{}]\n}}", list.join(", "));
        let config = ServerConfig::parse(&hcl).unwrap();
        prop_assert_eq!(config.values(&["server", "all"]), values);
    }
}
