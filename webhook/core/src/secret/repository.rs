//! Repository and repo-creds Secrets.

use shared::{
    binding::{CredentialKind, Provider, ProxyKind, reserved_parameter},
    bounds,
    errors::{Code, Named},
    proxy_view::upstream_proxy,
    registry::{RepositoryReference, Scheme},
};

use crate::secret::{
    SecretKind, opted_in,
    values::{Reader, SecretValues, key},
};

/// The `type` of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepositoryType {
    /// Helm charts, over HTTP or OCI.
    Helm,
    /// Native OCI artifacts.
    Oci,
    /// Git.
    Git,
}

impl RepositoryType {
    /// The type of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "helm" => Some(Self::Helm),
            "oci" => Some(Self::Oci),
            "git" => Some(Self::Git),
            _ => None,
        }
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Helm => "helm",
            Self::Oci => "oci",
            Self::Git => "git",
        }
    }

    /// What the credential proxy finds at a URL of this scheme.
    pub fn proxy_kind(self, scheme: Scheme) -> ProxyKind {
        match self {
            Self::Helm if scheme == Scheme::Https => ProxyKind::HelmHttp,
            Self::Helm | Self::Oci => ProxyKind::Oci,
            Self::Git => ProxyKind::Git,
        }
    }

    /// A URL as the webhook leaves it: stock Argo CD uses Helm charts of OCI
    /// registries without the scheme only.
    pub fn written_url(self, url: &RepositoryReference) -> String {
        if self == Self::Helm && url.scheme == Scheme::Oci {
            url.address()
        } else {
            url.to_string()
        }
    }
}

/// Value of `workloadIdentityDelivery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeliveryChoice {
    /// By project and type.
    #[default]
    Auto,
    /// In the pod-wide Docker configuration.
    DockerConfig,
    /// Through the credential proxy.
    Proxy,
}

/// A repository or repo-creds Secret with workload identity.
#[derive(Debug)]
pub struct RepositorySecret {
    /// Repository or repo-creds.
    pub kind: SecretKind,
    /// The artifact kind.
    pub repository_type: RepositoryType,
    /// `enableOCI`.
    pub enable_oci: bool,
    /// The URL.
    pub url: RepositoryReference,
    /// The project that the Secret is scoped to.
    pub project: Option<String>,
    /// The provider.
    pub provider: Provider,
    /// The audience, where one is set.
    pub audience: Option<String>,
    /// The registry's token endpoint.
    pub registry_auth_url: Option<url::Url>,
    /// The `service` parameter of that endpoint.
    pub registry_service: Option<String>,
    /// The account at the registry.
    pub registry_username: Option<String>,
    /// The token service.
    pub token_url: Option<url::Url>,
    /// The kind of proof, where one is asked for.
    pub credential: Option<CredentialKind>,
    /// The delivery that is asked for.
    pub delivery: DeliveryChoice,
    /// Content is fetched without verifying the target's certificate.
    pub insecure: bool,
    /// `insecureOCIForceHttp`.
    pub plain_http: bool,
    /// The user's own proxy, beyond the credential proxy.
    pub upstream_proxy: Option<url::Url>,
    /// Hosts that Argo CD reaches without a proxy, as Go reads `NO_PROXY`.
    pub no_proxy: Option<String>,
    /// Static credentials that stand beside workload identity.
    pub static_credentials: Vec<&'static str>,
}

impl RepositorySecret {
    /// Whether this is a Helm repository in the guides' form, `oci://`, which
    /// stock Argo CD can only use without the scheme and with `enableOCI`.
    pub fn is_helm_with_oci_scheme(&self) -> bool {
        self.repository_type == RepositoryType::Helm && self.url.scheme == Scheme::Oci
    }

    /// Whether charts are pulled by Helm from an OCI registry.
    pub fn is_helm_oci(&self) -> bool {
        self.repository_type == RepositoryType::Helm && self.url.scheme != Scheme::Https
    }

    /// Whether Argo CD speaks plain HTTP to the registry; it does to none but
    /// OCI registries.
    pub fn is_plain_http(&self) -> bool {
        self.plain_http && self.proxy_kind() == ProxyKind::Oci
    }

    /// What the credential proxy finds at the URL.
    pub fn proxy_kind(&self) -> ProxyKind {
        self.repository_type.proxy_kind(self.url.scheme)
    }

    /// The URL as the webhook leaves it.
    pub fn written_url(&self) -> String {
        self.repository_type.written_url(&self.url)
    }
}

pub(super) fn parse(
    kind: SecretKind,
    object: &str,
    values: &SecretValues,
) -> Result<Option<RepositorySecret>, Vec<Named>> {
    let mut reader = Reader::new(object, values);
    if !opted_in(&mut reader) {
        return reader.finish(Some(None));
    }
    reader.check_all();
    let repository_type = match reader.text(key::TYPE) {
        // Argo CD takes a Secret without a type as git.
        None => Some(RepositoryType::Git),
        Some(_) => reader.one_of(
            key::TYPE,
            Code::InvalidSecret,
            "helm, oci or git",
            RepositoryType::from_name,
        ),
    };
    let url = match reader.text(key::URL).map(RepositoryReference::parse) {
        Some(Ok(url)) => Some(url),
        Some(Err(error)) => {
            reader.push(key::URL, error);
            None
        }
        None => {
            reader.problem(Code::InvalidUrl, key::URL, "not set");
            None
        }
    };
    let enable_oci = reader.boolean(key::ENABLE_OCI).unwrap_or(false);
    let insecure = reader.boolean(key::INSECURE).unwrap_or(false);
    let plain_http = reader
        .boolean(key::INSECURE_OCI_FORCE_HTTP)
        .unwrap_or(false);
    let azure = reader.boolean(key::USE_AZURE_WORKLOAD_IDENTITY) == Some(true);
    if let (Some(repository_type), Some(url)) = (repository_type, &url) {
        check_scheme(&mut reader, repository_type, url, enable_oci);
    }
    let project = reader.project();
    if kind == SecretKind::RepoCreds && project.is_some() {
        reader.problem(Code::ProjectIgnored, key::PROJECT, "set in repo-creds");
    }
    let provider = provider(&mut reader);
    let registry_auth_url = reader.https_url(key::REGISTRY_AUTH_URL);
    // Azure's may hold `{tenantID}`, which the URL keeps in percent encoding.
    let token_url = reader.https_url(key::TOKEN_URL);
    if let Some(name) = token_url.as_ref().and_then(reserved_parameter) {
        let reason = format!("has the parameter {name}");
        reader.problem(Code::InvalidSecret, key::TOKEN_URL, &reason);
    }
    let credential = credential(&mut reader);
    let delivery = reader
        .one_of(
            key::DELIVERY,
            Code::InvalidSecret,
            "auto, docker-config or proxy",
            |text| match text {
                "auto" => Some(DeliveryChoice::Auto),
                "docker-config" => Some(DeliveryChoice::DockerConfig),
                "proxy" => Some(DeliveryChoice::Proxy),
                _ => None,
            },
        )
        .unwrap_or_default();
    let upstream_proxy =
        reader
            .text(key::UPSTREAM_PROXY)
            .and_then(|text| match upstream_proxy(text) {
                Ok(url) => Some(url),
                Err(error) => {
                    let (code, name) = (Code::UpstreamProxyInvalid, key::UPSTREAM_PROXY);
                    reader.problem(code, name, &error.detail);
                    None
                }
            });
    let audience = reader.bounded(key::AUDIENCE, bounds::AUDIENCE);
    let registry_service = reader.bounded(key::REGISTRY_SERVICE, bounds::NAME);
    let registry_username = reader.bounded(key::REGISTRY_USERNAME, bounds::NAME);
    let no_proxy = reader.text(key::NO_PROXY).map(str::to_owned);
    let mut static_credentials = values.static_credentials().to_vec();
    if azure {
        static_credentials.push(key::USE_AZURE_WORKLOAD_IDENTITY);
    }
    let secret =
        repository_type
            .zip(url)
            .zip(provider)
            .map(|((repository_type, url), provider)| RepositorySecret {
                kind,
                repository_type,
                enable_oci,
                url,
                project,
                provider,
                audience,
                registry_auth_url,
                registry_service,
                registry_username,
                token_url,
                credential,
                delivery,
                insecure,
                plain_http,
                upstream_proxy,
                no_proxy,
                static_credentials,
            });
    reader.finish(secret).map(Some)
}

fn check_scheme(
    reader: &mut Reader<'_>,
    repository_type: RepositoryType,
    url: &RepositoryReference,
    enable_oci: bool,
) {
    let problem = match (repository_type, url.scheme) {
        (RepositoryType::Helm, Scheme::Bare) if !enable_oci => {
            "host/path needs enableOCI: \"true\""
        }
        (RepositoryType::Oci, Scheme::Bare | Scheme::Https) => "type oci needs oci://host/path",
        (RepositoryType::Git, Scheme::Bare | Scheme::Oci) => "type git needs https://host/path",
        _ => return,
    };
    reader.problem(Code::InvalidUrl, key::URL, problem);
}

/// The provider; `spiffe` where the Secret only says `useWorkloadIdentity`.
pub(super) fn provider(reader: &mut Reader<'_>) -> Option<Provider> {
    if reader.text(key::PROVIDER).is_none() {
        return Some(Provider::Spiffe);
    }
    let allowed = "spiffe, aws, oidc, gcp or azure";
    reader.one_of(
        key::PROVIDER,
        Code::UnknownProvider,
        allowed,
        Provider::from_name,
    )
}

pub(super) fn credential(reader: &mut Reader<'_>) -> Option<CredentialKind> {
    let allowed = "ServiceAccountToken, SpiffeJWT or SpiffeCertificate";
    reader.one_of(
        key::CREDENTIAL,
        Code::InvalidSecret,
        allowed,
        CredentialKind::from_name,
    )
}
