//! Derives the CredentialBinding of a Secret: a parsed Secret and the
//! installation's settings flow in, a binding's spec or named errors flow out.
//! Pure.
//!
//! Admission, controller and identity API all go through here, so that a
//! Secret that admission never saw is checked all the same, and a binding that
//! was edited by hand has no say in what is issued.

use k8s_openapi::api::core::v1::Secret;
use shared::{
    allow_list::AllowList,
    binding::{
        CredentialBindingSpec, CredentialKind, Delivery, Exchange, ExchangeKind, Identity,
        Provider, Target, TargetKind,
    },
    errors::{Code, Named},
    secrets::{
        self, ClusterSecret, DeliveryChoice, RepositorySecret, SecretKind, SecretValues,
        WorkloadIdentity, key,
    },
};
use url::Url;

/// Path of Quay's robot federation endpoint, by which it is told from other
/// token endpoints.
const QUAY_FEDERATION_PATH: &str = "/oauth2/federation/robot/token";

/// What the installation adds to a Secret to make a binding of it.
#[derive(Debug, Clone, Default)]
pub struct Derivation {
    /// The SPIFFE trust domain.
    pub trust_domain: String,
    /// Hosts that identity tokens may go to besides a registry's own.
    pub allowed_hosts: AllowList,
    /// Service accounts whose pods use repository credentials.
    pub registry_consumers: Vec<String>,
    /// Service accounts whose pods use cluster credentials.
    pub cluster_consumers: Vec<String>,
}

/// Reads a Secret from the API. `None` when it has no workload identity.
///
/// # Errors
/// Every problem that the Secret has.
pub fn read(secret: &Secret) -> Result<Option<WorkloadIdentity>, Vec<Named>> {
    let metadata = &secret.metadata;
    let label = metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(secrets::SECRET_TYPE));
    let Some(kind) = label.and_then(|label| SecretKind::from_label(label)) else {
        return Ok(None);
    };
    let data = secret.data.iter().flatten();
    let values = SecretValues::from_bytes(data.map(|(name, value)| (name.as_str(), &*value.0)));
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    secrets::parse(kind, &object_name(namespace, name), &values)
}

/// How errors name a Secret.
pub fn object_name(namespace: &str, name: &str) -> String {
    format!("Secret {namespace}/{name}")
}

impl Derivation {
    /// The binding of a Secret in `namespace`; `object` names it in errors.
    ///
    /// # Errors
    /// Every reason for which no identity may be given.
    pub fn binding(
        &self,
        namespace: &str,
        object: &str,
        secret: &WorkloadIdentity,
    ) -> Result<CredentialBindingSpec, Vec<Named>> {
        match secret {
            WorkloadIdentity::Repository(secret) => self.repository(namespace, object, secret),
            WorkloadIdentity::Cluster(secret) => self.cluster(namespace, object, secret),
        }
    }

    fn repository(
        &self,
        namespace: &str,
        object: &str,
        secret: &RepositorySecret,
    ) -> Result<CredentialBindingSpec, Vec<Named>> {
        let mut problems = Problems {
            object,
            found: Vec::new(),
        };
        let exchange = exchange(secret, &mut problems);
        let audience = audience(secret, exchange.kind, &mut problems);
        for (name, url) in [
            (key::REGISTRY_AUTH_URL, &secret.registry_auth_url),
            (key::TOKEN_URL, &secret.token_url),
        ] {
            if let Some(url) = url {
                self.check_exchange_host(secret, name, url, &mut problems);
            }
        }
        let delivery = delivery(secret, &mut problems);
        let service_account = match &secret.project {
            Some(project) => format!("argocd-project-{project}"),
            None => "argocd-global".to_owned(),
        };
        problems.finish(CredentialBindingSpec {
            target: Target {
                kind: TargetKind::Registry,
                address: secret.url.address(),
            },
            project: secret.project.clone(),
            provider: secret.provider,
            identity: self.identity(
                namespace,
                service_account,
                audience,
                secret
                    .credential
                    .unwrap_or_else(|| default_credential(secret.provider)),
            ),
            exchange,
            delivery,
            consumers: self.registry_consumers.clone(),
            proxy: None,
        })
    }

    fn cluster(
        &self,
        namespace: &str,
        object: &str,
        secret: &ClusterSecret,
    ) -> Result<CredentialBindingSpec, Vec<Named>> {
        let mut problems = Problems {
            object,
            found: Vec::new(),
        };
        self.check_server(secret, &mut problems);
        // A subject that no registry identity has: some registries ignore the
        // audience, and a cluster could replay a token that it was shown. The
        // name is not argocd-project-<project>-cluster, because that is also
        // the registry identity of a project named <project>-cluster.
        let service_account = match &secret.project {
            Some(project) => format!("argocd-cluster-{project}"),
            None => "argocd-application-controller".to_owned(),
        };
        problems.finish(CredentialBindingSpec {
            target: Target {
                kind: TargetKind::Cluster,
                address: secret.server.as_str().trim_end_matches('/').to_owned(),
            },
            project: secret.project.clone(),
            provider: secret.provider,
            identity: self.identity(
                namespace,
                service_account,
                secret.audience.clone(),
                secret
                    .credential
                    .unwrap_or_else(|| default_credential(secret.provider)),
            ),
            exchange: Exchange::of(ExchangeKind::None),
            delivery: Delivery::Exec,
            consumers: self.cluster_consumers.clone(),
            proxy: None,
        })
    }

    fn identity(
        &self,
        namespace: &str,
        service_account: String,
        audience: String,
        credential: CredentialKind,
    ) -> Identity {
        let trust_domain = &self.trust_domain;
        Identity {
            spiffe_id: format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"),
            audience,
            service_account,
            credential,
        }
    }

    /// An exchange lies on the registry's own host and port, on a host of the
    /// allow-list, or on one of the clouds' token services.
    fn check_exchange_host(
        &self,
        secret: &RepositorySecret,
        name: &str,
        url: &Url,
        problems: &mut Problems<'_>,
    ) {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(443);
        let registry = &secret.url.host;
        let is_own = host == registry.name() && port == registry.port().unwrap_or(443);
        let is_clouds = is_cloud_token_service(secret.provider, host) && port == 443;
        if !is_own && !is_clouds && self.allowed_hosts.permission(host, port).is_none() {
            problems.add(Code::HostNotAllowed, name, &format!("`{host}:{port}`"));
        }
    }

    /// Argo CD itself sends the token to whatever server the Secret names, so
    /// the server has to be one that the administrator knows.
    fn check_server(&self, secret: &ClusterSecret, problems: &mut Problems<'_>) {
        let host = secret.server.host_str().unwrap_or_default();
        let port = secret.server.port_or_known_default().unwrap_or(443);
        match self.allowed_hosts.permission(host, port) {
            None => problems.add(
                Code::HostNotAllowed,
                key::SERVER,
                &format!("`{host}:{port}`"),
            ),
            Some(permission) if secret.insecure && !permission.insecure => {
                let reason = "tlsClientConfig.insecure is true";
                problems.add(Code::InsecureTransport, key::CONFIG, reason);
            }
            Some(_) => {}
        }
    }
}

struct Problems<'a> {
    object: &'a str,
    found: Vec<Named>,
}

impl Problems<'_> {
    fn add(&mut self, code: Code, name: &str, reason: &str) {
        self.found.push(Named::new(
            code,
            format!("{}, key {name}: {reason}", self.object),
        ));
    }

    fn finish<T>(self, value: T) -> Result<T, Vec<Named>> {
        if self.found.is_empty() {
            Ok(value)
        } else {
            Err(self.found)
        }
    }
}

/// Which protocol trades the identity. `spiffe` with an auth URL means Quay's
/// robot federation exactly when the URL has that endpoint's path.
fn exchange(secret: &RepositorySecret, problems: &mut Problems<'_>) -> Exchange {
    let auth_path = secret.registry_auth_url.as_ref().map(Url::path);
    let kind = match (secret.provider, auth_path) {
        (Provider::Spiffe, Some(QUAY_FEDERATION_PATH)) => ExchangeKind::Quay,
        (Provider::Spiffe, _) if secret.token_url.is_some() => ExchangeKind::TokenExchange,
        (Provider::Spiffe, Some(_)) => ExchangeKind::Distribution,
        (Provider::Spiffe, None) => ExchangeKind::Passthrough,
        (Provider::Oidc, _) if secret.token_url.is_some() => ExchangeKind::TokenExchange,
        (Provider::Oidc, Some(QUAY_FEDERATION_PATH)) => ExchangeKind::Quay,
        (Provider::Oidc, Some(_)) => ExchangeKind::Distribution,
        (Provider::Oidc, None) => {
            problems.add(Code::ExchangeUnspecified, key::TOKEN_URL, "not set");
            ExchangeKind::TokenExchange
        }
        (Provider::Aws, _) if secret.url.host.name() == "public.ecr.aws" => ExchangeKind::EcrPublic,
        (Provider::Aws, _) => ExchangeKind::Ecr,
        (Provider::Gcp, _) => ExchangeKind::Gar,
        (Provider::Azure, _) => ExchangeKind::Acr,
    };
    if kind == ExchangeKind::Quay && secret.registry_username.is_none() {
        problems.add(Code::UsernameMissing, key::REGISTRY_USERNAME, "not set");
    }
    if secret
        .registry_username
        .as_ref()
        .is_some_and(|name| name.contains(':'))
    {
        let reason = "has a colon, which basic authentication cannot carry";
        problems.add(Code::InvalidSecret, key::REGISTRY_USERNAME, reason);
    }
    Exchange {
        kind,
        auth_url: secret.registry_auth_url.as_ref().map(Url::to_string),
        token_url: secret.token_url.as_ref().map(Url::to_string),
        service: secret.registry_service.clone(),
        username: secret.registry_username.clone(),
    }
}

/// The audience that is set, else the exchange's own where it has one.
fn audience(secret: &RepositorySecret, kind: ExchangeKind, problems: &mut Problems<'_>) -> String {
    let default = match kind {
        ExchangeKind::Quay => secret.url.host.name(),
        ExchangeKind::Ecr | ExchangeKind::EcrPublic => "sts.amazonaws.com",
        ExchangeKind::Acr => "api://AzureADTokenExchange",
        _ => "",
    };
    let audience = secret.audience.as_deref().unwrap_or(default);
    if audience.is_empty() {
        problems.add(Code::AudienceMissing, key::AUDIENCE, "not set");
    }
    audience.to_owned()
}

fn delivery(secret: &RepositorySecret, problems: &mut Problems<'_>) -> Delivery {
    let can_be_shared = secret.project.is_none() && secret.is_helm_oci();
    match secret.delivery {
        DeliveryChoice::Auto if can_be_shared => Delivery::DockerConfig,
        DeliveryChoice::Auto | DeliveryChoice::Proxy => Delivery::Proxy,
        DeliveryChoice::DockerConfig => {
            if !can_be_shared {
                problems.add(Code::DeliveryRefused, key::DELIVERY, "docker-config");
            }
            Delivery::DockerConfig
        }
    }
}

fn default_credential(provider: Provider) -> CredentialKind {
    match provider {
        Provider::Spiffe => CredentialKind::SpiffeJWT,
        Provider::Aws | Provider::Oidc | Provider::Gcp | Provider::Azure => {
            CredentialKind::ServiceAccountToken
        }
    }
}

fn is_cloud_token_service(provider: Provider, host: &str) -> bool {
    match provider {
        Provider::Aws => {
            let region = |suffix| {
                host.strip_prefix("sts.")
                    .and_then(|rest| rest.strip_suffix(suffix))
                    .is_some_and(|region| !region.is_empty() && !region.contains('.'))
            };
            host == "sts.amazonaws.com" || region(".amazonaws.com") || region(".amazonaws.com.cn")
        }
        Provider::Gcp => matches!(host, "sts.googleapis.com" | "iamcredentials.googleapis.com"),
        Provider::Azure => matches!(
            host,
            "login.microsoftonline.com" | "login.microsoftonline.us" | "login.chinacloudapi.cn"
        ),
        Provider::Spiffe | Provider::Oidc => false,
    }
}

#[cfg(test)]
mod tests;
