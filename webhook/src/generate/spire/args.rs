//! The command line of `generate spire` flows in as text, validated
//! [`Settings`] flow out.

use std::{fmt, path::PathBuf};

use clap::{Args, ValueEnum};
use control_plane_core::{
    derive::Derivation,
    settings::{Namespace, ServiceAccountName, Setting, SettingError, TrustDomain, one},
};
use shared::selectors::{self, Selector, SelectorTemplate};

use crate::generate::duration;

/// Settings as they are typed.
#[derive(Debug, Clone, Args)]
pub struct SpireArgs {
    /// Namespace of Argo CD to read Secrets from; may be repeated. The first is
    /// also that of Secrets in files that name none.
    #[arg(long, default_value = "argocd")]
    pub namespace: Vec<String>,

    /// Read Secrets from this file (YAML or JSON; - is stdin) and not from the
    /// cluster; may be repeated.
    #[arg(long, short)]
    pub filename: Vec<PathBuf>,

    /// SPIFFE trust domain of the identities, as the control plane has it.
    #[arg(long, env = "ARGOCD_IDENTITY_TRUST_DOMAIN")]
    pub trust_domain: String,

    /// Hosts that identity tokens may go to, as the control plane has them.
    #[arg(long, env = "ARGOCD_IDENTITY_ALLOWED_HOSTS", default_value = "")]
    pub allowed_hosts: String,

    /// What to print.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// What the entries are below of; cluster-spiffe-ids need nothing here.
    #[arg(long, value_enum, default_value_t)]
    pub parent: Parent,

    /// The cluster's name in the SPIRE server's k8s_psat, for the node alias.
    #[arg(long)]
    pub cluster_name: Option<String>,

    /// Only nodes with this label, key=value, get the entries; may be repeated.
    #[arg(long)]
    pub node_label: Vec<String>,

    /// Selectors of the entries: the agents' own --spire-selectors.
    #[arg(long, default_value = selectors::DEFAULT)]
    pub spire_selectors: String,

    /// Life of the JWT-SVIDs.
    #[arg(long, default_value = "1h")]
    pub jwt_ttl: String,

    /// Life of the X.509-SVIDs.
    #[arg(long, default_value = "1h")]
    pub x509_ttl: String,

    /// Namespace of the credential agents.
    #[arg(long, default_value = "argocd-identity")]
    pub installation_namespace: String,

    /// Service account of the credential agents.
    #[arg(long, default_value = "argocd-identity-agent")]
    pub agent_service_account: String,

    /// SPIFFE ID of the credential agents, if it is not
    /// spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
    #[arg(long)]
    pub agent_spiffe_id: Option<String>,

    /// className of the manifests, where spire-controller-manager has one.
    #[arg(long)]
    pub class_name: Option<String>,

    /// Check this configuration of the SPIRE server too: HCL or JSON, or the
    /// ConfigMap that has it.
    #[arg(long)]
    pub spire_server_config: Option<PathBuf>,

    /// Print no entries, only what is wrong; exit with 1 if anything is.
    #[arg(long)]
    pub lint_only: bool,
}

/// Forms of the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For spire-controller-manager, where agents ask the Delegated Identity API.
    #[default]
    ClusterStaticEntries,
    /// The same entries as commands, for SPIRE without a controller manager.
    EntryCreate,
    /// For spire-controller-manager, where agents ask the Workload API.
    ClusterSpiffeIds,
}

/// What the entries of the identities are below of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Parent {
    /// A name for the nodes of the cluster: all of them get the entries.
    #[default]
    NodeAlias,
    /// The credential agent: nodes that run one get the entries.
    Agent,
}

/// Settings as the rest of the command uses them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Namespaces to read; never empty.
    pub namespaces: Vec<Namespace>,
    /// Files to read; empty for the cluster.
    pub files: Vec<PathBuf>,
    /// What makes a binding of a Secret.
    pub derivation: Derivation,
    /// What to print.
    pub format: Format,
    /// What the entries are below of.
    pub parent: Parent,
    /// The nodes, where the entries need a name for them.
    pub nodes: Option<Nodes>,
    /// Selectors of the entries.
    pub selectors: SelectorTemplate,
    /// Life of the JWT-SVIDs.
    pub jwt_ttl: Ttl,
    /// Life of the X.509-SVIDs.
    pub x509_ttl: Ttl,
    /// Namespace of the credential agents.
    pub installation_namespace: Namespace,
    /// Service account of the credential agents.
    pub agent_service_account: ServiceAccountName,
    /// SPIFFE ID of the credential agents.
    pub agent: String,
    /// className of the manifests.
    pub class_name: Option<Word>,
    /// The configuration of the SPIRE server.
    pub server_config: Option<PathBuf>,
    /// Print no entries.
    pub lint_only: bool,
}

/// Which nodes get entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nodes {
    /// The cluster's name in k8s_psat.
    pub cluster: Word,
    /// Labels that they have.
    pub labels: Vec<NodeLabel>,
}

impl TryFrom<SpireArgs> for Settings {
    type Error = SettingError;

    fn try_from(args: SpireArgs) -> Result<Self, SettingError> {
        let trust_domain: TrustDomain = one("trust-domain", &args.trust_domain)?;
        let installation_namespace: Namespace =
            one("installation-namespace", &args.installation_namespace)?;
        let agent_service_account: ServiceAccountName =
            one("agent-service-account", &args.agent_service_account)?;
        let agent = match &args.agent_spiffe_id {
            Some(text) => one::<SpiffeId>("agent-spiffe-id", text)?.within(&trust_domain)?,
            None => format!(
                "spiffe://{trust_domain}/ns/{installation_namespace}/sa/{agent_service_account}"
            ),
        };
        let has_nodes = match args.format {
            Format::ClusterStaticEntries => args.parent == Parent::NodeAlias,
            Format::EntryCreate => true,
            Format::ClusterSpiffeIds => false,
        };
        let nodes = has_nodes.then(|| {
            Ok(Nodes {
                cluster: one(
                    "cluster-name",
                    args.cluster_name.as_deref().unwrap_or_default(),
                )?,
                labels: each("node-label", &args.node_label)?,
            })
        });
        Ok(Self {
            namespaces: each("namespace", &args.namespace)?,
            files: args.filename,
            derivation: Derivation {
                trust_domain: trust_domain.to_string(),
                allowed_hosts: one("allowed-hosts", &args.allowed_hosts)?,
                ..Derivation::default()
            },
            format: args.format,
            parent: args.parent,
            nodes: nodes.transpose()?,
            selectors: one("spire-selectors", &args.spire_selectors)?,
            jwt_ttl: one("jwt-ttl", &args.jwt_ttl)?,
            x509_ttl: one("x509-ttl", &args.x509_ttl)?,
            installation_namespace,
            agent_service_account,
            agent,
            class_name: match &args.class_name {
                Some(name) => Some(one("class-name", name)?),
                None => None,
            },
            server_config: args.spire_server_config,
            lint_only: args.lint_only,
        })
    }
}

fn each<T: Setting>(flag: &'static str, texts: &[String]) -> Result<Vec<T>, SettingError> {
    texts.iter().map(|text| one(flag, text)).collect()
}

/// A name that can stand in a SPIFFE ID, a selector and a shell line as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(String);

impl Setting for Word {
    const FIX: &'static str = "Use the name that SPIRE's configuration has";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is needed here, and not set".to_owned());
        }
        match is_path_segment(text) {
            true => Ok(Self(text.to_owned())),
            false => Err("only a-z, A-Z, 0-9, `.`, `-` and `_` are allowed".to_owned()),
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Syntax: <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md#22-path>.
fn is_path_segment(text: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    !matches!(text, "" | "." | "..") && text.bytes().all(allowed)
}

/// A label of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLabel {
    /// Its key.
    pub key: String,
    value: String,
}

impl NodeLabel {
    /// As the SPIRE server's k8s_psat gives it to a node.
    pub fn selector(&self) -> Selector {
        Selector {
            kind: "k8s_psat".to_owned(),
            value: format!("agent_node_label:{}:{}", self.key, self.value),
        }
    }
}

impl Setting for NodeLabel {
    const FIX: &'static str = "Use key=value, such as argocd=true";

    fn parse(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("it has no `=`")?;
        let name = key.split_once('/').map_or(key, |(_, name)| name);
        match is_path_segment(name)
            && key.split('/').all(is_path_segment)
            && (value.is_empty() || is_path_segment(value))
        {
            true => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            false => Err("it is no label".to_owned()),
        }
    }
}

/// A life in whole seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(u64);

impl Ttl {
    /// In seconds.
    pub fn seconds(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&duration::format(self.0))
    }
}

impl Setting for Ttl {
    const FIX: &'static str = "Use a duration such as 1h or 30m";

    fn parse(text: &str) -> Result<Self, String> {
        match duration::parse(text) {
            // SPIRE keeps them in 32 bits.
            Some(life) if life.subsec_nanos() == 0 && life.as_secs() <= i32::MAX as u64 => {
                match life.as_secs() {
                    0 => Err("it is no time at all".to_owned()),
                    seconds => Ok(Self(seconds)),
                }
            }
            Some(_) => Err("it is no whole number of seconds, or too many".to_owned()),
            None => Err("it is no duration".to_owned()),
        }
    }
}

struct SpiffeId {
    trust_domain: String,
    path: String,
}

impl SpiffeId {
    fn within(self, trust_domain: &TrustDomain) -> Result<String, SettingError> {
        let Self {
            trust_domain: found,
            path,
        } = self;
        let id = format!("spiffe://{found}/{path}");
        match found == trust_domain.as_str() {
            true => Ok(id),
            false => Err(SettingError::new::<Self>(
                "agent-spiffe-id",
                &id,
                "it is of another trust domain",
            )),
        }
    }
}

impl Setting for SpiffeId {
    const FIX: &'static str = "Use spiffe://<trust domain>/<path>";

    fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("spiffe://");
        let parts = rest.and_then(|rest| rest.split_once('/'));
        match parts {
            Some((domain, path)) if path.split('/').all(is_path_segment) => Ok(Self {
                trust_domain: domain.to_owned(),
                path: path.to_owned(),
            }),
            _ => Err("it is no SPIFFE ID with a path".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
