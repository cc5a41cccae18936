//! Entries flow in, manifests for spire-controller-manager flow out
//! (`spire.spiffe.io/v1alpha1`). Pure.
//!
//! Sources: docs/clusterstaticentry-crd.md and docs/clusterspiffeid-crd.md of
//! github.com/spiffe/spire-controller-manager.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::{
    args::Settings,
    identities::Identities,
    plan::{self, Below, Entry},
};

const API_VERSION: &str = "spire.spiffe.io/v1alpha1";

/// A ClusterStaticEntry for each entry.
pub(super) fn static_entries(settings: &Settings, identities: &Identities) -> String {
    let mut text = beginning(settings, identities);
    for entry in plan::entries(settings, identities) {
        let spec = spec_of(settings, &entry);
        let kind = "ClusterStaticEntry";
        document(&mut text, settings, kind, &entry.name, &entry.comment, spec);
    }
    text
}

/// A ClusterSPIFFEID for each identity, all of them for the credential agents'
/// pods.
pub(super) fn spiffe_ids(settings: &Settings, identities: &Identities) -> String {
    let mut text = beginning(settings, identities);
    for identity in identities.iter() {
        let mut spec = of_agents(settings, &identity.spiffe_id);
        spec["jwtTtl"] = json!(settings.jwt_ttl.to_string());
        spec["ttl"] = json!(settings.x509_ttl.to_string());
        let (name, comment) = (plan::name(identity), plan::comment(identity));
        document(
            &mut text,
            settings,
            "ClusterSPIFFEID",
            &name,
            &comment,
            spec,
        );
    }
    text
}

/// Notes; and the credential agents, where no entry below an alias registers
/// them.
fn beginning(settings: &Settings, identities: &Identities) -> String {
    let mut text = String::new();
    for line in plan::notes(settings, identities) {
        comment_line(&mut text, &line);
    }
    if settings.nodes.is_none() {
        let spec = of_agents(settings, &settings.agent);
        let kind = "ClusterSPIFFEID";
        document(&mut text, settings, kind, plan::AGENT, plan::OF_AGENT, spec);
    }
    text
}

fn spec_of(settings: &Settings, entry: &Entry) -> Value {
    let parent = match &entry.below {
        Below::Server => format!("spiffe://{}/spire/server", settings.derivation.trust_domain),
        Below::Entry(id) => id.clone(),
    };
    let selectors: Vec<_> = entry.selectors.iter().map(ToString::to_string).collect();
    let mut spec = json!({
        "spiffeID": entry.spiffe_id,
        "parentID": parent,
        "selectors": selectors,
    });
    if let Some((jwt, x509)) = entry.lives {
        spec["jwtSVIDTTL"] = json!(jwt.to_string());
        spec["x509SVIDTTL"] = json!(x509.to_string());
    }
    spec
}

/// Registers the credential agents' pods, and no other pod that has their
/// labels: its service account would have to be theirs, too.
fn of_agents(settings: &Settings, spiffe_id: &str) -> Value {
    let account = &settings.agent_service_account;
    json!({
        // Literal: without `{{` it is the same for every pod.
        "spiffeIDTemplate": spiffe_id,
        "namespaceSelector": {
            "matchLabels": {
                "kubernetes.io/metadata.name": settings.installation_namespace.to_string(),
            },
        },
        "podSelector": {
            "matchLabels": {
                "app.kubernetes.io/component": "agent",
                "app.kubernetes.io/name": "argocd-identity",
            },
        },
        "workloadSelectorTemplates": [format!("k8s:sa:{account}")],
    })
}

pub(super) fn comment_line(text: &mut String, line: &str) {
    text.push('#');
    if !line.is_empty() {
        text.push(' ');
        text.push_str(line);
    }
    text.push('\n');
}

fn document(
    text: &mut String,
    settings: &Settings,
    kind: &str,
    name: &str,
    comment: &str,
    mut spec: Value,
) {
    if let Some(class) = &settings.class_name {
        spec["className"] = json!(class.to_string());
    }
    text.push_str("---\n");
    comment_line(text, comment);
    let metadata = json!({
        "name": name,
        // By this the entries of identities that are gone can be pruned.
        "labels": {"app.kubernetes.io/part-of": "argocd-identity"},
    });
    // Writing to a String does not fail.
    let _ = writeln!(text, "apiVersion: {API_VERSION}\nkind: {kind}");
    member(text, 0, "metadata", &metadata);
    member(text, 0, "spec", &spec);
}

/// Block style, keys in order. JSON's strings are YAML's double-quoted ones.
fn member(text: &mut String, depth: usize, key: &str, value: &Value) {
    let _ = write!(text, "{:1$}{key}:", "", depth * 2);
    match value {
        Value::Object(members) => {
            text.push('\n');
            for (key, value) in in_order(members) {
                member(text, depth + 1, key, value);
            }
        }
        Value::Array(items) => {
            text.push('\n');
            for item in items {
                let _ = writeln!(text, "{:1$}- {item}", "", depth * 2);
            }
        }
        scalar => {
            let _ = writeln!(text, " {scalar}");
        }
    }
}

fn in_order(members: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by_key(|(key, _)| *key);
    members
}
