//! How a Secret's identity becomes a credential: which protocol its provider
//! and URLs mean, and the audience that this protocol wants. The table is in
//! docs/providers. Pure.

use shared::{
    binding::{CredentialKind, Exchange, ExchangeKind, Provider},
    clouds::aws,
    errors::Code,
};
use url::Url;

use super::Problems;
use crate::secret::{RepositorySecret, key};

/// Path of Quay's robot federation endpoint, by which it is told from other
/// token endpoints.
const QUAY_FEDERATION_PATH: &str = "/oauth2/federation/robot/token";

/// Which protocol trades the identity, decided by what the Secret says alone.
/// An auth URL means Quay's robot federation exactly when it has that
/// endpoint's path; a token URL comes before any other auth URL.
pub(super) fn kind(secret: &RepositorySecret) -> Option<ExchangeKind> {
    let auth_path = secret.registry_auth_url.as_ref().map(Url::path);
    Some(match (secret.provider, auth_path) {
        (Provider::Spiffe | Provider::Oidc, Some(QUAY_FEDERATION_PATH))
            if secret.token_url.is_none() =>
        {
            ExchangeKind::Quay
        }
        (Provider::Spiffe | Provider::Oidc, _) if secret.token_url.is_some() => {
            ExchangeKind::TokenExchange
        }
        (Provider::Spiffe | Provider::Oidc, Some(_)) => ExchangeKind::Distribution,
        // The registry sees the certificate in the TLS handshake.
        (Provider::Spiffe, None) if is_certificate(secret) => ExchangeKind::None,
        (Provider::Spiffe, None) => ExchangeKind::Passthrough,
        (Provider::Oidc, None) => return None,
        (Provider::Aws, _) if secret.url.host.name() == aws::ECR_PUBLIC => ExchangeKind::EcrPublic,
        (Provider::Aws, _) => ExchangeKind::Ecr,
        (Provider::Gcp, _) => ExchangeKind::Gar,
        (Provider::Azure, _) => ExchangeKind::Acr,
    })
}

pub(super) fn is_certificate(secret: &RepositorySecret) -> bool {
    secret.credential == Some(CredentialKind::SpiffeCertificate)
}

/// The exchange with its parameters, all but the account at a cloud.
pub(super) fn exchange(secret: &RepositorySecret, problems: &mut Problems<'_>) -> Exchange {
    let kind = kind(secret).unwrap_or_else(|| {
        problems.add(Code::ExchangeUnspecified, key::TOKEN_URL, "not set");
        ExchangeKind::TokenExchange
    });
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
        // The service account says; nothing here looks at it.
        account: None,
    }
}

/// The audience that is set, else the exchange's own where it has one.
pub(super) fn audience(
    secret: &RepositorySecret,
    kind: ExchangeKind,
    problems: &mut Problems<'_>,
) -> String {
    let default = match kind {
        // Without an exchange a certificate is shown, which has no audience.
        ExchangeKind::Quay | ExchangeKind::Distribution | ExchangeKind::None => {
            secret.url.host.name()
        }
        ExchangeKind::Ecr | ExchangeKind::EcrPublic => "sts.amazonaws.com",
        ExchangeKind::Acr => "api://AzureADTokenExchange",
        ExchangeKind::Passthrough | ExchangeKind::TokenExchange | ExchangeKind::Gar => "",
    };
    let audience = secret.audience.as_deref().unwrap_or(default);
    // The service account's annotation may name the provider in its place.
    if audience.is_empty() && kind != ExchangeKind::Gar {
        problems.add(Code::AudienceMissing, key::AUDIENCE, "not set");
    }
    audience.to_owned()
}
