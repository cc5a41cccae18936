//! Command line and environment flow in as text, a validated [`Config`] flows
//! out. Nothing behind this module parses a setting again.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use shared::allow_list::AllowList;
use url::Url;

use crate::{cli::Generate, derive::Derivation, issuer::keys::Algorithm, proxy_key::ProxyKeyring};

/// The control plane of argocd-workload-identity.
#[derive(Debug, Parser)]
#[command(name = "argocd-identity", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run admission, controller, identity API and issuer.
    Serve(Box<ServeArgs>),
    /// Print or write what other systems need to work with this installation.
    #[command(subcommand)]
    Generate(Generate),
}

/// Settings as they are typed. Every flag can be set in the environment, with
/// the prefix `ARGOCD_IDENTITY_`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Namespace of this installation.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_NAMESPACE",
        default_value = "argocd-identity"
    )]
    pub namespace: String,

    /// Namespaces of Argo CD, separated by commas.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_ARGOCD_NAMESPACES",
        default_value = "argocd"
    )]
    pub argocd_namespaces: String,

    /// SPIFFE trust domain of the identities, such as example.org.
    #[arg(long, env = "ARGOCD_IDENTITY_TRUST_DOMAIN")]
    pub trust_domain: String,

    /// Issuer of the tokens, an https URL that registries and clusters reach.
    /// Without it nothing is signed here: for installations whose SPIFFE
    /// identities come from SPIRE or a Workload API.
    #[arg(long, env = "ARGOCD_IDENTITY_ISSUER_URL", default_value = "")]
    pub issuer_url: String,

    /// Algorithm of the signing key that is made on first start: RS256 or
    /// ES256. A key that is there decides for itself.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_ISSUER_ALGORITHM",
        default_value = "RS256"
    )]
    pub issuer_algorithm: String,

    /// Life of a token in seconds.
    #[arg(long, env = "ARGOCD_IDENTITY_TOKEN_LIFETIME", default_value = "3600")]
    pub token_lifetime: String,

    /// Hosts that identity tokens may go to beside the registry's own:
    /// host[:port][;private][;insecure], separated by commas.
    #[arg(long, env = "ARGOCD_IDENTITY_ALLOWED_HOSTS", default_value = "")]
    pub allowed_hosts: String,

    /// The nodes have the SPIFFE CSI driver (csi.spiffe.io).
    #[arg(long, env = "ARGOCD_IDENTITY_SPIFFE_CSI_DRIVER")]
    pub spiffe_csi_driver: bool,

    /// Image of the credential proxy; without it no pod gets one.
    #[arg(long, env = "ARGOCD_IDENTITY_PROXY_IMAGE", default_value = "")]
    pub proxy_image: String,

    /// Service accounts whose pods may have registry credentials.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_REGISTRY_CONSUMERS",
        default_value = "argocd-repo-server"
    )]
    pub registry_consumers: String,

    /// Service accounts whose pods may have cluster credentials.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_CLUSTER_CONSUMERS",
        default_value = "argocd-application-controller,argocd-server"
    )]
    pub cluster_consumers: String,

    /// Service account of the agents, in the installation's namespace.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_AGENT_SERVICE_ACCOUNT",
        default_value = "argocd-identity-agent"
    )]
    pub agent_service_account: String,

    /// Folder with tls.crt and tls.key, watched for changes.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_TLS_DIR",
        default_value = "/etc/argocd-identity/tls"
    )]
    pub tls_dir: PathBuf,

    /// Certificates, in a PEM file, of who signs those of the API servers'
    /// clients of webhooks; with it, admission talks to nobody else.
    #[arg(long, env = "ARGOCD_IDENTITY_ADMISSION_CLIENT_CA")]
    pub admission_client_ca: Option<PathBuf>,

    /// Address of the admission webhook (TLS).
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_ADMISSION_ADDRESS",
        default_value = "0.0.0.0:8443"
    )]
    pub admission_address: String,

    /// Address of the identity API (TLS).
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_IDENTITY_ADDRESS",
        default_value = "0.0.0.0:8444"
    )]
    pub identity_address: String,

    /// Address of the issuer's documents (TLS).
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_ISSUER_ADDRESS",
        default_value = "0.0.0.0:8445"
    )]
    pub issuer_address: String,

    /// Address of /healthz, /readyz and /metrics (no TLS).
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_METRICS_ADDRESS",
        default_value = "0.0.0.0:8080"
    )]
    pub metrics_address: String,
}

/// Settings as the rest of the program uses them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Namespace of this installation.
    pub namespace: Namespace,
    /// Namespaces of Argo CD; never empty, without duplicates.
    pub argocd_namespaces: Vec<Namespace>,
    /// SPIFFE trust domain of the identities.
    pub trust_domain: TrustDomain,
    /// Issuer of the tokens, where the control plane signs any.
    pub issuer_url: Option<IssuerUrl>,
    /// Algorithm of the signing key that is made on first start.
    pub issuer_algorithm: Algorithm,
    /// Life of a token.
    pub token_lifetime: Duration,
    /// Hosts that identity tokens may go to beside the registry's own.
    pub allowed_hosts: AllowList,
    /// The nodes have the SPIFFE CSI driver.
    pub spiffe_csi_driver: bool,
    /// Image of the credential proxy, where pods get one.
    pub proxy_image: Option<Image>,
    /// Service accounts whose pods may have registry credentials; never empty.
    pub registry_consumers: Vec<ServiceAccountName>,
    /// Service accounts whose pods may have cluster credentials; never empty.
    pub cluster_consumers: Vec<ServiceAccountName>,
    /// Service account of the agents, in the installation's namespace.
    pub agent_service_account: ServiceAccountName,
    /// Folder with tls.crt and tls.key.
    pub tls_dir: PathBuf,
    /// Who signs the certificates of the API servers, if they have any.
    pub admission_client_ca: Option<PathBuf>,
    /// Address of the admission webhook (TLS).
    pub admission_address: SocketAddr,
    /// Address of the identity API (TLS).
    pub identity_address: SocketAddr,
    /// Address of the issuer's documents (TLS).
    pub issuer_address: SocketAddr,
    /// Address of /healthz, /readyz and /metrics (no TLS).
    pub metrics_address: SocketAddr,
}

impl Config {
    /// What admission, controller and identity API add to a Secret. The first
    /// two need the proxy keys.
    pub fn derivation(&self, proxy_keys: Option<ProxyKeyring>) -> Derivation {
        let names =
            |accounts: &[ServiceAccountName]| accounts.iter().map(ToString::to_string).collect();
        Derivation {
            trust_domain: self.trust_domain.to_string(),
            allowed_hosts: self.allowed_hosts.clone(),
            registry_consumers: names(&self.registry_consumers),
            cluster_consumers: names(&self.cluster_consumers),
            proxy_keys,
        }
    }
}

/// A setting cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag} `{}`: {reason}. {fix}", .value.escape_debug())]
pub struct ConfigError {
    flag: &'static str,
    value: String,
    reason: String,
    fix: &'static str,
}

impl ConfigError {
    pub(crate) fn new<T: Setting>(flag: &'static str, text: &str, reason: &str) -> Self {
        Self {
            flag,
            value: text.chars().take(256).collect(),
            reason: reason.to_owned(),
            fix: T::FIX,
        }
    }
}

impl TryFrom<ServeArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: ServeArgs) -> Result<Self, ConfigError> {
        Ok(Self {
            namespace: one("namespace", &args.namespace)?,
            argocd_namespaces: list("argocd-namespaces", &args.argocd_namespaces)?,
            trust_domain: one("trust-domain", &args.trust_domain)?,
            issuer_url: match args.issuer_url.as_str() {
                "" => None,
                text => Some(one("issuer-url", text)?),
            },
            issuer_algorithm: one("issuer-algorithm", &args.issuer_algorithm)?,
            token_lifetime: one::<TokenLifetime>("token-lifetime", &args.token_lifetime)?.0,
            allowed_hosts: one("allowed-hosts", &args.allowed_hosts)?,
            spiffe_csi_driver: args.spiffe_csi_driver,
            proxy_image: match args.proxy_image.as_str() {
                "" => None,
                text => Some(one("proxy-image", text)?),
            },
            registry_consumers: list("registry-consumers", &args.registry_consumers)?,
            cluster_consumers: list("cluster-consumers", &args.cluster_consumers)?,
            agent_service_account: one("agent-service-account", &args.agent_service_account)?,
            tls_dir: args.tls_dir,
            admission_client_ca: args.admission_client_ca,
            admission_address: one("admission-address", &args.admission_address)?,
            identity_address: one("identity-address", &args.identity_address)?,
            issuer_address: one("issuer-address", &args.issuer_address)?,
            metrics_address: one("metrics-address", &args.metrics_address)?,
        })
    }
}

/// A type of setting: how its text is read, and what to do about a bad one.
pub(crate) trait Setting: Sized {
    /// What to do about a text that cannot be used.
    const FIX: &'static str;

    /// # Errors
    /// Why the text cannot be used.
    fn parse(text: &str) -> Result<Self, String>;
}

pub(crate) fn one<T: Setting>(flag: &'static str, text: &str) -> Result<T, ConfigError> {
    T::parse(text).map_err(|reason| ConfigError::new::<T>(flag, text, &reason))
}

fn list<T: Setting + PartialEq>(flag: &'static str, text: &str) -> Result<Vec<T>, ConfigError> {
    let mut values = Vec::new();
    for entry in text.split(',') {
        let value = one(flag, entry.trim())?;
        if !values.contains(&value) {
            values.push(value);
        }
    }
    Ok(values)
}

/// A namespace: a DNS label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(String);

impl Setting for Namespace {
    const FIX: &'static str = "Use the name of a namespace, such as argocd";

    fn parse(text: &str) -> Result<Self, String> {
        match is_dns_label(text) {
            true => Ok(Self(text.to_owned())),
            false => Err("it is no DNS label of at most 63 characters".to_owned()),
        }
    }
}

/// The name of a service account: a DNS subdomain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceAccountName(String);

impl Setting for ServiceAccountName {
    const FIX: &'static str = "Use the name of a service account, such as argocd-server";

    fn parse(text: &str) -> Result<Self, String> {
        if text == "default" {
            // Every pod that names no service account runs as this one.
            return Err("any pod of the namespace can run as `default`".to_owned());
        }
        match is_dns_subdomain(text) {
            true => Ok(Self(text.to_owned())),
            false => Err("it is no DNS subdomain".to_owned()),
        }
    }
}

/// Whether an object such as a Secret can have this name.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// Whether a namespace can have this name.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let mut bytes = text.bytes();
    text.len() <= 63
        && ends(text.bytes().next())
        && ends(text.bytes().next_back())
        && bytes.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

/// A reference to a container image, as kubelet takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image(String);

impl Setting for Image {
    const FIX: &'static str = "Use the agents' image, such as registry.example.org/agent:v1";

    fn parse(text: &str) -> Result<Self, String> {
        match text.chars().all(|c| c.is_ascii_graphic()) {
            true if !text.is_empty() => Ok(Self(text.to_owned())),
            _ => Err("it has a blank or a character that no image has".to_owned()),
        }
    }
}

/// A SPIFFE trust domain, without `spiffe://`. Syntax:
/// <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md#21-trust-domain>.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrustDomain(String);

impl Setting for TrustDomain {
    const FIX: &'static str = "Use a name such as example.org, without spiffe://";

    fn parse(text: &str) -> Result<Self, String> {
        let allowed =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 {
            return Err("it needs 1 to 255 characters".to_owned());
        }
        match text.bytes().all(allowed) {
            true => Ok(Self(text.to_owned())),
            false => Err("only a-z, 0-9, `.`, `-` and `_` are allowed".to_owned()),
        }
    }
}

/// The `iss` of the tokens. Kept as it was typed, because verifiers compare it
/// character for character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerUrl(String);

impl IssuerUrl {
    /// The URL of a document below the issuer; `path` starts with `/`.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl Setting for IssuerUrl {
    const FIX: &'static str = "Use a URL such as https://identity.example.org";

    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        let reason = if url.scheme() != "https" || !text.starts_with("https://") {
            "verifiers take https only"
        } else if !url.username().is_empty() || url.password().is_some() {
            "it has user information"
        } else if url.query().is_some() || url.fragment().is_some() {
            "it has a query or a fragment"
        } else if text.ends_with('/') {
            "it ends with a slash, which the path of the discovery document would double"
        } else if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            "it has a blank or a control character"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(reason.to_owned())
    }
}

impl Setting for Algorithm {
    const FIX: &'static str = "Use RS256, which every registry accepts, or ES256";

    fn parse(text: &str) -> Result<Self, String> {
        Self::from_name(text).ok_or_else(|| "it is no algorithm of the issuer".to_owned())
    }
}

struct TokenLifetime(Duration);

impl Setting for TokenLifetime {
    const FIX: &'static str = "Use 30 to 86400 seconds";

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(seconds @ 30..=86_400) => Ok(Self(Duration::from_secs(seconds))),
            Ok(_) => Err("it is out of range".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Setting for AllowList {
    const FIX: &'static str = "Use host[:port][;private][;insecure], separated by commas";

    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|error| error.detail)
    }
}

impl Setting for SocketAddr {
    const FIX: &'static str = "Use an address and a port, such as 0.0.0.0:8443";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error: std::net::AddrParseError| error.to_string())
    }
}

macro_rules! text {
    ($($name:ident)*) => {$(
        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

text! { Namespace ServiceAccountName Image TrustDomain IssuerUrl }

#[cfg(test)]
mod tests;
