//! Derives the CredentialBinding of a Secret: a parsed Secret and the
//! installation's settings flow in, a binding's spec or named errors flow out.
//! Pure.
//!
//! Admission, controller and identity API all go through here, so that a
//! Secret that admission never saw is checked all the same, and a binding that
//! was edited by hand has no say in what is issued.

pub mod account;
mod exchange;
pub mod meaning;

use shared::{
    allow_list::AllowList,
    binding::{
        CredentialBindingSpec, CredentialKind, Delivery, Exchange, ExchangeKind, Identity,
        Provider, ProxyDelivery, Target, TargetKind,
    },
    clouds,
    errors::{Code, Named},
    proxy_view::Route,
};
use url::Url;

use crate::secret::{
    ClusterSecret, DeliveryChoice, RepositorySecret, WorkloadIdentity, key, no_proxy,
};

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

/// How errors name a Secret.
pub fn object_name(namespace: &str, name: &str) -> String {
    format!("Secret {namespace}/{name}")
}

impl Derivation {
    /// The binding of the Secret `namespace/name`, without the keys of the
    /// credential proxy: those are no setting, and depend on what was before.
    ///
    /// # Errors
    /// Every reason for which no identity may be given.
    pub fn binding(
        &self,
        namespace: &str,
        name: &str,
        secret: &WorkloadIdentity,
    ) -> Result<CredentialBindingSpec, Vec<Named>> {
        match secret {
            WorkloadIdentity::Repository(secret) => {
                self.repository(namespace, &object_name(namespace, name), secret)
            }
            WorkloadIdentity::Cluster(secret) => {
                self.cluster(namespace, &object_name(namespace, name), secret)
            }
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
        let credential = credential(secret.credential, secret.provider);
        let exchange = exchange::exchange(secret, &mut problems);
        let audience = exchange::audience(secret, exchange.kind, &mut problems);
        for (entry, url) in [
            (key::REGISTRY_AUTH_URL, &secret.registry_auth_url),
            (key::TOKEN_URL, &secret.token_url),
        ] {
            if let Some(url) = url {
                self.check_exchange_host(secret, exchange.kind, entry, url, &mut problems);
            }
        }
        self.check_cloud_registry(secret, exchange.kind, &mut problems);
        let delivery = delivery(secret);
        if delivery == Delivery::DockerConfig && !can_be_shared(secret) {
            problems.add(Code::DeliveryRefused, key::DELIVERY, "docker-config");
        }
        if delivery == Delivery::DockerConfig && secret.is_plain_http() {
            let reason = "true, and the credential would be in docker-config";
            problems.add(Code::PlainHttpRefused, key::INSECURE_OCI_FORCE_HTTP, reason);
        }
        let proxy = (delivery == Delivery::Proxy).then(|| ProxyDelivery {
            key_sha256: Vec::new(),
            previous_key_until: None,
            kind: secret.proxy_kind(),
            insecure: secret.insecure,
            upstream_proxy: secret
                .upstream_proxy
                .as_ref()
                .map(|url| url.as_str().trim_end_matches('/').to_owned()),
        });
        let service_account = match &secret.project {
            Some(project) => format!("argocd-project-{project}"),
            None => "argocd-global".to_owned(),
        };
        let spec = CredentialBindingSpec {
            target: Target {
                kind: TargetKind::Registry,
                address: secret.url.address(),
            },
            project: secret.project.clone(),
            provider: secret.provider,
            identity: self.identity(namespace, service_account, audience, credential),
            exchange,
            delivery,
            consumers: self.registry_consumers.clone(),
            proxy,
        };
        // The agents ask the same of the binding.
        if let Some(proxy) = &spec.proxy
            && let Err(error) = Route::of(&spec, proxy)
        {
            problems.add(error.code, key::URL, &error.detail);
        }
        problems.finish(spec)
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
        let credential = credential(secret.credential, secret.provider);
        // A subject that no registry identity has: some registries ignore the
        // audience, and a cluster could replay a token that it was shown. The
        // name is not argocd-project-<project>-cluster, because that is also
        // the registry identity of a project named <project>-cluster.
        let service_account = match &secret.project {
            Some(project) => format!("argocd-cluster-{project}"),
            // A token of the controller's own service account would be the
            // controller.
            None if credential == CredentialKind::ServiceAccountToken => {
                "argocd-global-cluster".to_owned()
            }
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
                credential,
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
            subject: match credential {
                CredentialKind::SpiffeJWT | CredentialKind::SpiffeCertificate => {
                    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
                }
                CredentialKind::ServiceAccountToken => {
                    format!("system:serviceaccount:{namespace}:{service_account}")
                }
            },
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
        kind: ExchangeKind,
        name: &str,
        url: &Url,
        problems: &mut Problems<'_>,
    ) {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(443);
        let registry = &secret.url.host;
        let is_own = registry.has_name(host) && port == registry.port().unwrap_or(443);
        let is_allowed = is_own
            || clouds::is_token_service(kind, host, port)
            || self.allowed_hosts.permission(host, port).is_some();
        if !is_allowed {
            problems.add(Code::HostNotAllowed, name, &format!("`{host}:{port}`"));
        }
    }

    /// What a cloud gives is good at every registry that the identity may use
    /// there: it goes to that cloud's, or where the administrator lets it.
    fn check_cloud_registry(
        &self,
        secret: &RepositorySecret,
        kind: ExchangeKind,
        problems: &mut Problems<'_>,
    ) {
        let host = &secret.url.host;
        let port = host.port().unwrap_or(443);
        let is_clouds = clouds::is_registry(kind, host.name());
        if !is_clouds && self.allowed_hosts.permission(host.name(), port).is_none() {
            problems.add(Code::HostNotAllowed, key::URL, &format!("`{host}`"));
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

/// How the credential of a repository travels.
pub fn delivery(secret: &RepositorySecret) -> Delivery {
    match secret.delivery {
        // Helm would show what is in the file over plain HTTP, too.
        DeliveryChoice::Auto if can_be_shared(secret) && !secret.is_plain_http() => {
            Delivery::DockerConfig
        }
        DeliveryChoice::Auto | DeliveryChoice::Proxy => Delivery::Proxy,
        DeliveryChoice::DockerConfig => Delivery::DockerConfig,
    }
}

/// What a client can read from a file that every project's pulls use.
fn can_be_shared(secret: &RepositorySecret) -> bool {
    let has_auth_url = secret.registry_auth_url.is_some();
    let has_realm = exchange::kind(secret).is_some_and(|kind| kind.has_realm(has_auth_url));
    secret.project.is_none()
        && secret.is_helm_oci()
        && !exchange::is_certificate(secret)
        && !has_realm
}

/// What keeps the credential proxy from being of use to a Secret whose
/// credential it delivers, although nothing is wrong with the Secret.
pub fn proxy_warnings(object: &str, secret: &RepositorySecret) -> Vec<Named> {
    let mut warnings = Vec::new();
    let host = &secret.url.host;
    let no_proxy = secret.no_proxy.as_deref().unwrap_or_default();
    if no_proxy::bypasses(no_proxy, host) {
        let detail = format!("{object}, key {}: {host}", key::NO_PROXY);
        warnings.push(Named::new(Code::ProxyBypassed, detail));
    }
    if secret.is_plain_http() {
        let detail = format!("{object}, key {}", key::INSECURE_OCI_FORCE_HTTP);
        warnings.push(Named::new(Code::PlainHttpRefused, detail));
    }
    let certificates: Vec<_> = client_certificate(secret).collect();
    if !certificates.is_empty() {
        let detail = format!("{object}, keys {}", certificates.join(", "));
        warnings.push(Named::new(Code::ClientCertificateUnused, detail));
    }
    warnings
}

fn client_certificate(secret: &RepositorySecret) -> impl Iterator<Item = &'static str> {
    let present = secret.static_credentials.iter().copied();
    present.filter(|name| key::CLIENT_CERTIFICATE.contains(name))
}

/// The kind of proof that is chosen, else the provider's own.
fn credential(chosen: Option<CredentialKind>, provider: Provider) -> CredentialKind {
    chosen.unwrap_or(match provider {
        Provider::Spiffe => CredentialKind::SpiffeJWT,
        Provider::Aws | Provider::Oidc | Provider::Gcp | Provider::Azure => {
            CredentialKind::ServiceAccountToken
        }
    })
}

#[cfg(test)]
mod tests;
