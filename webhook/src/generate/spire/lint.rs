//! What would keep SPIRE from issuing the identities, or targets from taking
//! them: settings, identities and the SPIRE server's configuration flow in,
//! findings flow out. Pure.

use std::{fmt, time::Duration};

use super::{
    args::{Format, Settings},
    identities::Identities,
    server_config::ServerConfig,
};
use crate::generate::duration;

/// Shorter lives leave no time to refresh; longer ones are no short lives.
const LIVES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(300)..=Duration::from_secs(86_400);

macro_rules! rules {
    ($($variant:ident $name:literal: $cause:literal; $remedy:literal;)*) => {
        /// What a finding is about. The names are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Rule {
            $(#[doc = $cause] $variant,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name, in kebab case.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What is wrong, without a full stop.
            pub const fn cause(self) -> &'static str {
                match self { $(Self::$variant => $cause,)* }
            }

            /// What to do about it.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

rules! {
    JwtTtl "jwt-ttl":
        "JWT-SVIDs live less than five minutes or more than a day";
        "Set --jwt-ttl, and default_jwt_svid_ttl of the SPIRE server, to a duration such as 1h.";
    JwtIssuer "jwt-issuer":
        "the SPIRE server sets no issuer, and no registry or cluster takes a token without one";
        "Set jwt_issuer of the SPIRE server to the URL of its OIDC discovery provider.";
    JwtKeyType "jwt-key-type":
        "the SPIRE server signs JWT-SVIDs with an elliptic curve, and Quay takes RS256 and RS384 only";
        "Set jwt_key_type of the SPIRE server to rsa-2048 or rsa-4096.";
    TrustDomain "trust-domain":
        "the SPIRE server has another trust domain than the identities";
        "Set --trust-domain here and at the control plane to the SPIRE server's.";
    NodeLabel "node-label":
        "the SPIRE server does not read this label of nodes, so that no node gets the entries";
        "Add the key to allowed_node_label_keys of the cluster in the SPIRE server's k8s_psat.";
    OpenshiftNamespace "openshift-namespace":
        "SPIRE on OpenShift (ZTWIM) issues nothing to pods in namespaces that start with openshift-";
        "Install into another namespace, or take this one out of ignoreNamespaces of its controller manager.";
    ServerConfig "server-config":
        "the file is no configuration of a SPIRE server that can be read";
        "Use its server.conf, or the ConfigMap that has it.";
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// Where, and what is there.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rule, detail) = (self.rule, &self.detail);
        let (name, cause, remedy) = (rule.name(), rule.cause(), rule.remedy());
        write!(f, "{name}: {cause} ({detail}). {remedy}")
    }
}

/// Everything that is wrong; `config` is the text of the SPIRE server's
/// configuration.
pub fn findings(settings: &Settings, found: &Identities, config: Option<&str>) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    findings.settings(settings);
    match config.map(ServerConfig::parse) {
        None => {}
        Some(Err(error)) => findings.add(Rule::ServerConfig, error),
        Some(Ok(config)) if config.is_without("server") => {
            findings.add(Rule::ServerConfig, "there is no section server");
        }
        Some(Ok(config)) => findings.server(settings, found, &config),
    }
    findings.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, rule: Rule, detail: impl fmt::Display) {
        let detail = detail.to_string();
        self.0.push(Finding { rule, detail });
    }

    fn settings(&mut self, settings: &Settings) {
        let ttl = settings.jwt_ttl;
        if !LIVES.contains(&Duration::from_secs(ttl.seconds())) {
            self.add(Rule::JwtTtl, format_args!("--jwt-ttl {ttl}"));
        }
        // Only what is registered by pods depends on the pods' namespace.
        let by_pods = settings.format == Format::ClusterSpiffeIds || settings.nodes.is_none();
        let namespace = settings.installation_namespace.as_str();
        if by_pods && namespace.starts_with("openshift-") {
            self.add(
                Rule::OpenshiftNamespace,
                format_args!("--installation-namespace {namespace}"),
            );
        }
    }

    fn server(&mut self, settings: &Settings, found: &Identities, config: &ServerConfig) {
        let server = |key| {
            config
                .value(&["server", key])
                .filter(|value| !value.is_empty())
        };
        if server("jwt_issuer").is_none() {
            self.add(Rule::JwtIssuer, "jwt_issuer is not set");
        }
        if let Some(text) = server("default_jwt_svid_ttl")
            && duration::parse(text).is_none_or(|life| !LIVES.contains(&life))
        {
            let text = text.escape_debug();
            self.add(Rule::JwtTtl, format_args!("default_jwt_svid_ttl `{text}`"));
        }
        let at_quay = found.iter().find_map(|identity| identity.at_quay.first());
        let key_type = ["jwt_key_type", "ca_key_type"]
            .iter()
            .find_map(|&key| Some((key, server(key)?)));
        let (key, value) = key_type.unwrap_or(("jwt_key_type", "ec-p256, the default"));
        if let (Some(secret), false) = (at_quay, ["rsa-2048", "rsa-4096"].contains(&value)) {
            let value = value.escape_debug();
            self.add(
                Rule::JwtKeyType,
                format_args!("{key} `{value}`, and Secret {secret} is Quay's"),
            );
        }
        let expected = &settings.derivation.trust_domain;
        let is_another = |domain: &&str| domain.trim_start_matches("spiffe://") != expected;
        if let Some(domain) = server("trust_domain").filter(is_another) {
            let domain = domain.escape_debug();
            self.add(
                Rule::TrustDomain,
                format_args!("trust_domain `{domain}`, --trust-domain {expected}"),
            );
        }
        self.node_labels(settings, config);
    }

    fn node_labels(&mut self, settings: &Settings, config: &ServerConfig) {
        let Some(nodes) = &settings.nodes else {
            return;
        };
        let cluster = nodes.cluster.to_string();
        let attestor = ["plugins", "NodeAttestor", "k8s_psat", "plugin_data"];
        let mut path = attestor.to_vec();
        path.extend(["clusters", &cluster, "allowed_node_label_keys"]);
        for label in &nodes.labels {
            if !config.values(&path).contains(&label.key.as_str()) {
                let key = &label.key;
                self.add(
                    Rule::NodeLabel,
                    format_args!("--node-label {key}, cluster {cluster}"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
