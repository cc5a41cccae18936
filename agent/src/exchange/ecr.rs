//! AWS STS and Amazon ECR.

use shared::binding::{CloudAccount, Exchange as Parameters, ExchangeKind};
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

use super::http::Outlet;
use super::{Credential, Exchange, trade};
use crate::identity::IdentityToken;
use crate::refresh::{Failure, Fresh};

/// AWS STS and Amazon ECR.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ecr {
    /// The registry.
    pub host: RegistryHost,
    /// The host is the public registry's.
    pub is_public: bool,
    /// The role to assume.
    pub role_arn: String,
    /// The token service, if not the region's own.
    pub token_url: Option<String>,
}

impl Ecr {
    pub(super) fn of(parameters: &Parameters, host: &RegistryHost) -> Result<Self, Named> {
        let Some(CloudAccount::Aws { role_arn }) = parameters.account.clone() else {
            let detail = "exchange.account is not set";
            return Err(Named::new(Code::ServiceAccountAnnotationMissing, detail));
        };
        Ok(Self {
            host: host.clone(),
            is_public: parameters.kind == ExchangeKind::EcrPublic,
            role_arn,
            token_url: parameters.token_url.clone(),
        })
    }

    pub(super) fn kind(&self) -> ExchangeKind {
        if self.is_public {
            ExchangeKind::EcrPublic
        } else {
            ExchangeKind::Ecr
        }
    }
}

impl Exchange for Ecr {
    fn upstream(&self) -> String {
        trade::upstream(self.token_url.as_deref(), &self.host)
    }

    async fn exchange(
        &self,
        _outlet: &Outlet,
        _identity: &IdentityToken,
    ) -> Result<Fresh<Credential>, Failure> {
        Err(Named::new(
            Code::ExchangeNotAvailable,
            format!("registry {}", self.host),
        )
        .into())
    }
}
