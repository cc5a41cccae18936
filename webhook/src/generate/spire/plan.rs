//! The registration entries as SPIRE's server has them: settings and identities
//! flow in, entries flow out, those that others are below of first. Pure.
//!
//! ```text
//! spire/server ── nodes (alias) ─┬─ the credential agent ── identities (--parent agent)
//!                                └─ identities (--parent node-alias)
//! ```

use std::collections::BTreeSet;

use aws_lc_rs::digest;
use shared::selectors::Selector;

use super::{
    args::{Format, Nodes, Parent, Settings, Ttl},
    identities::{Identities, Identity},
};

/// What the API server takes as a name.
const LONGEST_NAME: usize = 253;

/// The manifest of the credential agents themselves, and its comment.
pub(super) const AGENT: &str = "argocd-identity-agent";
pub(super) const OF_AGENT: &str = "The credential agent itself.";

/// One registration entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// What it is for.
    pub(super) comment: String,
    /// What its manifest is called.
    pub(super) name: String,
    /// Whom it registers.
    pub(super) spiffe_id: String,
    /// What it is below of.
    pub(super) below: Below,
    /// Who gets it.
    pub(super) selectors: Vec<Selector>,
    /// Lives of a workload's JWT-SVIDs and X.509-SVIDs, where they matter.
    pub(super) lives: Option<(Ttl, Ttl)>,
}

/// What an entry is below of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Below {
    /// The server: an alias for nodes.
    Server,
    /// Another entry, by its SPIFFE ID.
    Entry(String),
}

/// All entries. Without an alias there is no entry of the credential agent: it
/// is then registered by its pods.
pub(super) fn entries(settings: &Settings, identities: &Identities) -> Vec<Entry> {
    let nodes = settings.nodes.as_ref().map(|nodes| alias(settings, nodes));
    let own = nodes.as_ref().map(|alias| agent(settings, alias));
    let parent = match (&nodes, settings.parent) {
        (Some(alias), Parent::NodeAlias) => &alias.spiffe_id,
        _ => &settings.agent,
    };
    let identities = identities.iter();
    let identities = identities.map(|identity| entry(settings, identity, parent));
    nodes.iter().cloned().chain(own).chain(identities).collect()
}

fn alias(settings: &Settings, nodes: &Nodes) -> Entry {
    let (trust_domain, cluster) = (&settings.derivation.trust_domain, &nodes.cluster);
    let of_cluster = Selector {
        kind: "k8s_psat".to_owned(),
        value: format!("cluster:{cluster}"),
    };
    let labels = nodes.labels.iter().map(|label| label.selector());
    Entry {
        comment: "The nodes that get the entries below.".to_owned(),
        name: "argocd-identity-nodes".to_owned(),
        // With the cluster's name: other clusters of the trust domain have
        // nodes of their own.
        spiffe_id: format!("spiffe://{trust_domain}/argocd-nodes/{cluster}"),
        below: Below::Server,
        selectors: [of_cluster].into_iter().chain(labels).collect(),
        lives: None,
    }
}

fn agent(settings: &Settings, alias: &Entry) -> Entry {
    let of = |value| Selector {
        kind: "k8s".to_owned(),
        value,
    };
    Entry {
        comment: OF_AGENT.to_owned(),
        name: AGENT.to_owned(),
        spiffe_id: settings.agent.clone(),
        below: Below::Entry(alias.spiffe_id.clone()),
        selectors: vec![
            of(format!("ns:{}", settings.installation_namespace)),
            of(format!("sa:{}", settings.agent_service_account)),
        ],
        lives: None,
    }
}

fn entry(settings: &Settings, identity: &Identity, parent: &str) -> Entry {
    Entry {
        comment: comment(identity),
        name: name(identity),
        spiffe_id: identity.spiffe_id.clone(),
        below: Below::Entry(parent.to_owned()),
        selectors: settings.selectors.render(&identity.registration),
        lives: Some((settings.jwt_ttl, settings.x509_ttl)),
    }
}

/// The Secrets that an identity is for.
pub(super) fn comment(identity: &Identity) -> String {
    let secrets: Vec<&str> = identity.secrets.iter().map(String::as_str).collect();
    let noun = if secrets.len() == 1 {
        "Secret"
    } else {
        "Secrets"
    };
    format!("{noun} {}", secrets.join(", "))
}

/// The name of an identity's manifest. A namespace has no dot, so that no two
/// identities share one.
pub(super) fn name(identity: &Identity) -> String {
    let registration = &identity.registration;
    let (namespace, account) = (&registration.namespace, &registration.service_account);
    match format!("argocd-identity.{namespace}.{account}") {
        name if name.len() <= LONGEST_NAME => name,
        name => {
            let hash = digest::digest(&digest::SHA256, name.as_bytes());
            format!("argocd-identity.{namespace}.{}", hex(hash.as_ref()))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the first lines of the output say.
pub(super) fn notes(settings: &Settings, identities: &Identities) -> Vec<String> {
    let count = identities.iter().len();
    let noun = if count == 1 { "identity" } else { "identities" };
    let domain = &settings.derivation.trust_domain;
    let mut notes = vec![
        format!("{count} {noun} of trust domain {domain}, by argocd-identity generate spire."),
        String::new(),
    ];
    let mut note = |lines: &[&str]| notes.extend(lines.iter().map(|&line| line.to_owned()));
    let agent = &settings.agent;
    if settings.format == Format::ClusterSpiffeIds {
        note(&[
            "The credential agents ask the Workload API as their own pods: SPIRE's agents need",
            "no authorized_delegates for that.",
        ]);
        return notes;
    }
    note(&[
        "Section agent of the SPIRE agents' configuration needs, besides admin_socket_path:",
        &format!("  authorized_delegates = [\"{agent}\"]"),
    ]);
    let labels = settings.nodes.iter().flat_map(|nodes| &nodes.labels);
    let keys: BTreeSet<_> = labels.map(|label| format!("\"{}\"", label.key)).collect();
    if let (Some(nodes), false) = (&settings.nodes, keys.is_empty()) {
        let keys: Vec<_> = keys.into_iter().collect();
        note(&[
            &format!(
                "k8s_psat of the SPIRE server needs, for cluster {}:",
                nodes.cluster
            ),
            &format!("  allowed_node_label_keys = [{}]", keys.join(", ")),
        ]);
    }
    if settings.format == Format::EntryCreate && settings.parent == Parent::Agent {
        note(&[
            "The credential agent's own entry is below the nodes, so each of them gets the entries,",
            "as with --parent node-alias.",
        ]);
    }
    notes
}
