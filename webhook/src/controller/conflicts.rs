//! Bindings that cannot both be served: all bindings of a namespace flow in,
//! the reason why one of them has to stand back flows out. Pure.
//!
//! The older binding wins, by creation time and then by name, so that agents
//! that see the same bindings come to the same answer. What is not delivered
//! anyway wins nothing.

use shared::{
    binding::{CredentialBindingSpec, Delivery, ExchangeKind, TargetKind},
    errors::{Code, Named},
    registry::RegistryHost,
};
use url::Url;

use super::binding::Binding;
use crate::source::unavailable;

/// The conflict because of which `binding` has to stand back, if there is one.
pub fn of<'a>(binding: &Binding, all: impl IntoIterator<Item = &'a Binding>) -> Option<Named> {
    let spec = binding.spec.as_ref()?;
    all.into_iter()
        .filter(|other| other.name != binding.name && !other.deleting && is_older(other, binding))
        .filter_map(|other| {
            let winner = other.spec.as_ref()?;
            let (code, what) = between(spec, winner)?;
            unavailable("", winner)
                .is_none()
                .then_some((code, what, &other.name))
        })
        // One answer, whatever the order: the first code, the first name.
        .min_by(|a, b| (a.0, a.2).cmp(&(b.0, b.2)))
        .map(|(code, what, other)| {
            Named::new(code, format!("CredentialBinding {other} has {what} too"))
        })
}

/// Whether a change of one of the two can change the answer for the other.
pub fn are_rivals(a: &CredentialBindingSpec, b: &CredentialBindingSpec) -> bool {
    between(a, b).is_some()
}

fn is_older(a: &Binding, b: &Binding) -> bool {
    (a.created, &a.name) < (b.created, &b.name)
}

fn between(a: &CredentialBindingSpec, b: &CredentialBindingSpec) -> Option<(Code, String)> {
    let (address, host) = (&a.target.address, exchange_host(a));
    if a.target.kind == TargetKind::Cluster
        && b.target.kind == TargetKind::Cluster
        && same_server(address, &b.target.address)
    {
        return Some((Code::ServerConflict, format!("the server {address}")));
    }
    if is_pod_wide(a)
        && is_pod_wide(b)
        && docker_key(a) == docker_key(b)
        && (&a.identity, &a.exchange) != (&b.identity, &b.exchange)
    {
        return Some((Code::IdentityConflict, format!("the host of {address}")));
    }
    // A token can be replayed by whoever is shown it, wherever its subject and
    // audience are accepted: that must not be two places.
    let audience = &a.identity.audience;
    if !is_clouds(a.exchange.kind)
        && !is_clouds(b.exchange.kind)
        && *audience == b.identity.audience
        && a.identity.spiffe_id == b.identity.spiffe_id
        && host != exchange_host(b)
    {
        let host = host.unwrap_or_default();
        return Some((
            Code::AudienceConflict,
            format!("audience {audience}, which here goes to {host}, and there elsewhere,"),
        ));
    }
    None
}

/// Argo CD takes server URLs as text, but for a slash at the end.
fn same_server(a: &str, b: &str) -> bool {
    a.trim_end_matches('/') == b.trim_end_matches('/')
}

fn is_pod_wide(spec: &CredentialBindingSpec) -> bool {
    spec.project.is_none() && spec.delivery == Delivery::DockerConfig
}

fn docker_key(spec: &CredentialBindingSpec) -> Option<String> {
    let host = registry_host(spec)?;
    Some(host.docker_config_key().to_owned())
}

fn registry_host(spec: &CredentialBindingSpec) -> Option<RegistryHost> {
    RegistryHost::parse(spec.target.address.split('/').next()?).ok()
}

/// One token service stands for all tenants of a cloud: it tells them apart
/// itself, and its audience is the cloud's.
fn is_clouds(kind: ExchangeKind) -> bool {
    match kind {
        ExchangeKind::Ecr | ExchangeKind::EcrPublic | ExchangeKind::Gar | ExchangeKind::Acr => true,
        ExchangeKind::Quay
        | ExchangeKind::Passthrough
        | ExchangeKind::Distribution
        | ExchangeKind::TokenExchange
        | ExchangeKind::None => false,
    }
}

/// `host:port` of whoever is shown the token.
fn exchange_host(spec: &CredentialBindingSpec) -> Option<String> {
    let of_url = |url: &str| {
        let url = Url::parse(url).ok()?;
        Some(format!(
            "{}:{}",
            url.host_str()?,
            url.port_or_known_default()?
        ))
    };
    let url = match spec.exchange.kind {
        ExchangeKind::TokenExchange => spec.exchange.token_url.as_deref(),
        ExchangeKind::Quay | ExchangeKind::Distribution => spec.exchange.auth_url.as_deref(),
        ExchangeKind::None => Some(spec.target.address.as_str()),
        _ => None,
    };
    match url {
        Some(url) => of_url(url),
        None => {
            let host = registry_host(spec)?;
            Some(format!("{}:{}", host.name(), host.port().unwrap_or(443)))
        }
    }
}

#[cfg(test)]
mod tests;
