//! What the public clouds call their registries and token services. Pure: a
//! host flows in, what it is flows out.
//!
//! Names that a customer can choose part of never count, however familiar
//! their ending is: a bucket is below `amazonaws.com`, too.

pub mod aws;
pub mod azure;
pub mod gcp;

use crate::binding::ExchangeKind;
use crate::registry::RegistryHost;
use aws::EcrHost;

/// Whether an exchange of this kind may send an identity token to `host`
/// without the administrator's leave, because it is its cloud's own service.
pub fn is_token_service(kind: ExchangeKind, host: &str, port: u16) -> bool {
    let is_named = match kind {
        ExchangeKind::Ecr | ExchangeKind::EcrPublic => aws::is_sts(host),
        ExchangeKind::Gar => gcp::is_token_service(host),
        ExchangeKind::Acr => azure::is_authority(host),
        ExchangeKind::Quay
        | ExchangeKind::Passthrough
        | ExchangeKind::Distribution
        | ExchangeKind::TokenExchange
        | ExchangeKind::None => false,
    };
    is_named && port == 443
}

/// Whether an exchange of this kind may call `host`, its cloud's own service.
/// An identity token goes to those of [`is_token_service`] only.
pub fn is_service(kind: ExchangeKind, host: &str, port: u16) -> bool {
    let is_ecr = matches!(kind, ExchangeKind::Ecr | ExchangeKind::EcrPublic);
    is_token_service(kind, host, port) || (is_ecr && port == 443 && aws::is_ecr_api(host))
}

/// Whether what an exchange of this kind gives may be shown to the registry
/// `host`: where it is good for more than one registry, to its cloud's only.
pub fn is_registry(kind: ExchangeKind, host: &str) -> bool {
    match kind {
        ExchangeKind::Ecr => {
            RegistryHost::parse(host).is_ok_and(|it| EcrHost::parse(&it).is_some())
        }
        ExchangeKind::EcrPublic => host == aws::ECR_PUBLIC,
        ExchangeKind::Gar => gcp::is_registry(host),
        ExchangeKind::Acr => azure::authority(host).is_some(),
        _ => true,
    }
}
