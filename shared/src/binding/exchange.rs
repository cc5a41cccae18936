//! How an identity becomes a credential.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

/// How an identity becomes a credential.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exchange {
    /// The protocol.
    #[serde(rename = "type")]
    pub kind: ExchangeKind,
    /// The registry's token endpoint, an https URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_url: Option<String>,
    /// The token service (RFC 8693, STS), an https URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_url: Option<String>,
    /// The `service` parameter of a registry's token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The account at the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Who the identity is at its cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<CloudAccount>,
}

impl Exchange {
    /// An exchange without parameters.
    pub fn of(kind: ExchangeKind) -> Self {
        Self {
            kind,
            auth_url: None,
            token_url: None,
            service: None,
            username: None,
            account: None,
        }
    }

    /// Whether what comes of it is shown to the registry's token realm, once
    /// for each scope, and never to the registry itself.
    pub fn has_realm(&self) -> bool {
        self.kind.has_realm(self.auth_url.is_some())
    }
}

/// Parameters of a token request that the agent makes itself, or that would be
/// a secret in a binding.
pub const RESERVED_PARAMETERS: [&str; 9] = [
    "grant_type",
    "subject_token",
    "subject_token_type",
    "requested_token_type",
    "audience",
    "actor_token",
    "client_secret",
    "client_assertion",
    "password",
];

/// The first parameter in a token service's URL that may not be there; all
/// others go into the request's form.
pub fn reserved_parameter(token_url: &Url) -> Option<&'static str> {
    RESERVED_PARAMETERS.into_iter().find(|reserved| {
        let mut names = token_url.query_pairs().map(|(name, _)| name);
        names.any(|name| name.eq_ignore_ascii_case(reserved))
    })
}

/// Who the identity is at its cloud, from annotations of the service account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum CloudAccount {
    /// At AWS.
    Aws {
        /// The role to assume.
        role_arn: String,
    },
    /// At Google Cloud.
    Gcp {
        /// The email of the service account to impersonate.
        service_account: String,
        /// The workload identity provider, `projects/…/providers/…`; without
        /// it, the audience names it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        workload_identity_provider: Option<String>,
    },
    /// At Microsoft Entra.
    Azure {
        /// The application, or the managed identity.
        client_id: String,
        /// The tenant that it is in.
        tenant_id: String,
    },
}

/// Exchange protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExchangeKind {
    /// Quay robot federation.
    Quay,
    /// The token itself is the password.
    Passthrough,
    /// A distribution token realm.
    Distribution,
    /// OAuth 2.0 token exchange, RFC 8693.
    TokenExchange,
    /// AWS STS and ECR.
    Ecr,
    /// AWS STS and ECR Public.
    EcrPublic,
    /// Google Artifact Registry.
    Gar,
    /// Azure Container Registry.
    Acr,
    /// The token itself is the credential (clusters).
    None,
}

impl ExchangeKind {
    /// [`Exchange::has_realm`], of an exchange with or without `auth_url`.
    pub fn has_realm(self, has_auth_url: bool) -> bool {
        match self {
            Self::Distribution => true,
            Self::TokenExchange => has_auth_url,
            _ => false,
        }
    }
}

impl fmt::Display for ExchangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quay => "quay",
            Self::Passthrough => "passthrough",
            Self::Distribution => "distribution",
            Self::TokenExchange => "token-exchange",
            Self::Ecr => "ecr",
            Self::EcrPublic => "ecr-public",
            Self::Gar => "gar",
            Self::Acr => "acr",
            Self::None => "none",
        })
    }
}
