//! The flags of `serve` and their environment flow in as text, a validated [`Config`] flows
//! out. Nothing behind this module parses a setting again.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use control_plane_core::{
    admission::pods::SidecarSettings,
    derive::Derivation,
    identity::algorithm::Algorithm,
    settings::{
        Image, IssuerUrl, Namespace, ServiceAccountName, Setting, SettingError, TokenLifetime,
        TrustDomain, list, one,
    },
};
use shared::allow_list::AllowList;

mod sidecar;

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

    /// What is reserved for the credential proxy: cpu, memory and
    /// ephemeral-storage, separated by commas. Empty leaves it to the namespace.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_PROXY_REQUESTS",
        default_value = "cpu=10m,memory=32Mi"
    )]
    pub proxy_requests: String,

    /// What the credential proxy has at most, in the same form.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_PROXY_LIMITS",
        default_value = "cpu=1,memory=512Mi"
    )]
    pub proxy_limits: String,

    /// When the credential proxy's image is pulled: Always, IfNotPresent or
    /// Never.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_PROXY_PULL_POLICY",
        default_value = "IfNotPresent"
    )]
    pub proxy_pull_policy: String,

    /// Secrets in Argo CD's namespaces that the credential proxy's image is
    /// pulled with, separated by commas.
    #[arg(long, env = "ARGOCD_IDENTITY_PROXY_PULL_SECRETS", default_value = "")]
    pub proxy_pull_secrets: String,

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
    /// How the credential proxy runs.
    pub sidecar: SidecarSettings,
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
    /// What admission, controller and identity API add to a Secret.
    pub fn derivation(&self) -> Derivation {
        let names =
            |accounts: &[ServiceAccountName]| accounts.iter().map(ToString::to_string).collect();
        Derivation {
            trust_domain: self.trust_domain.to_string(),
            allowed_hosts: self.allowed_hosts.clone(),
            registry_consumers: names(&self.registry_consumers),
            cluster_consumers: names(&self.cluster_consumers),
        }
    }
}

impl TryFrom<ServeArgs> for Config {
    type Error = SettingError;

    fn try_from(args: ServeArgs) -> Result<Self, SettingError> {
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
            sidecar: sidecar::settings(&args)?,
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

#[cfg(test)]
mod tests;
