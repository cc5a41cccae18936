//! Bindings that cannot both be served: all bindings of one namespace flow
//! in, the reason why some of them stand back flows out. Pure.
//!
//! Controller and agents come to the same answer, because both ask here: the
//! older binding wins, by creation time and then by name. What is not
//! delivered anyway wins nothing.

use std::collections::{BTreeMap, btree_map::Entry};

use jiff::Timestamp;
use url::Url;

use crate::{
    binding::{
        CredentialBindingSpec, CredentialKind, Delivery, Exchange, ExchangeKind, Identity,
        TargetKind, undeliverable,
    },
    clouds::is_token_service,
    errors::{Code, Named},
    registry::RegistryHost,
};

/// A binding, as far as it can be in another's way.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Its name.
    pub name: &'a str,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// Its spec.
    pub spec: &'a CredentialBindingSpec,
}

/// The bindings that stand back, by name, each with the reason.
pub fn conflicts<'a>(claims: impl IntoIterator<Item = Claim<'a>>) -> BTreeMap<&'a str, Named> {
    let mut by_age: Vec<_> = claims
        .into_iter()
        .filter(|claim| undeliverable("", claim.spec).is_none())
        .collect();
    by_age.sort_by_key(|claim| (claim.created, claim.name));

    let mut taken: BTreeMap<Place, (Holding, &str)> = BTreeMap::new();
    let mut losers = BTreeMap::new();
    for claim in by_age {
        let stakes = stakes(claim);
        let conflict = stakes.iter().find_map(|(place, holding)| {
            let (other, winner) = taken.get(place)?;
            (other != holding).then(|| place.conflict(claim.spec, winner))
        });
        if let Some(conflict) = conflict {
            losers.insert(claim.name, conflict);
            continue;
        }
        for (place, holding) in stakes {
            if let Entry::Vacant(entry) = taken.entry(place) {
                entry.insert((holding, claim.name));
            }
        }
    }
    losers
}

/// Whether a change of one of the two can change the answer for the other.
pub fn are_rivals(a: &CredentialBindingSpec, b: &CredentialBindingSpec) -> bool {
    let of = |name, spec| {
        stakes(Claim {
            name,
            created: None,
            spec,
        })
    };
    let (a, b) = (of("a", a), of("b", b));
    a.iter().any(|(place, holding)| {
        b.iter()
            .any(|(other, held)| place == other && holding != held)
    })
}

/// What only one binding, or several of one kind, can hold.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Argo CD takes the first cluster Secret of a server.
    Server(String),
    /// A host in the pod-wide Docker configuration.
    DockerHost(String),
    /// Whoever is shown a token can replay it wherever its subject and audience
    /// are accepted: that must not be two places.
    Audience { subject: String, audience: String },
}

/// What a binding does with a [`Place`]. Equal holdings share it.
#[derive(Debug, PartialEq, Eq)]
enum Holding {
    Alone(String),
    As(Identity, Box<Exchange>),
    At(Option<String>),
}

impl Place {
    fn conflict(&self, spec: &CredentialBindingSpec, winner: &str) -> Named {
        let address = &spec.target.address;
        let (code, what) = match self {
            Self::Server(_) => (Code::ServerConflict, format!("the server {address}")),
            Self::DockerHost(host) => (Code::IdentityConflict, format!("the host {host}")),
            Self::Audience { audience, .. } => (
                Code::AudienceConflict,
                format!("audience {audience} at another host"),
            ),
        };
        Named::new(code, format!("CredentialBinding {winner} has {what}"))
    }
}

fn stakes(claim: Claim<'_>) -> Vec<(Place, Holding)> {
    let spec = claim.spec;
    let mut stakes = Vec::new();
    if spec.target.kind == TargetKind::Cluster {
        // Argo CD takes server URLs as text, but for a slash at the end.
        let server = spec.target.address.trim_end_matches('/').to_owned();
        stakes.push((Place::Server(server), Holding::Alone(claim.name.to_owned())));
    }
    if let (Delivery::DockerConfig, Some(host)) = (spec.delivery, registry_host(spec)) {
        let key = host.docker_config_key().to_owned();
        let holding = Holding::As(spec.identity.clone(), Box::new(spec.exchange.clone()));
        stakes.push((Place::DockerHost(key), holding));
    }
    let is_token = spec.identity.credential != CredentialKind::SpiffeCertificate;
    if is_token {
        let place = Place::Audience {
            subject: spec.identity.subject.clone(),
            audience: spec.identity.audience.clone(),
        };
        stakes.push((place, Holding::At(shown_to(spec))));
    }
    stakes
}

fn registry_host(spec: &CredentialBindingSpec) -> Option<RegistryHost> {
    RegistryHost::parse(spec.target.address.split('/').next()?).ok()
}

/// Whoever is shown the token: `host:port`, or the cloud, whose token service
/// is one, whatever its endpoint is called.
fn shown_to(spec: &CredentialBindingSpec) -> Option<String> {
    let exchange = &spec.exchange;
    let (url, cloud) = match exchange.kind {
        ExchangeKind::TokenExchange => (exchange.token_url.as_deref(), None),
        ExchangeKind::Quay | ExchangeKind::Distribution => (exchange.auth_url.as_deref(), None),
        ExchangeKind::None => (Some(spec.target.address.as_str()), None),
        ExchangeKind::Ecr | ExchangeKind::EcrPublic => {
            (exchange.token_url.as_deref(), Some("AWS STS"))
        }
        ExchangeKind::Gar => (exchange.token_url.as_deref(), Some("Google STS")),
        ExchangeKind::Acr => (exchange.token_url.as_deref(), Some("Microsoft Entra")),
        ExchangeKind::Passthrough => (None, None),
    };
    if let Some(url) = url {
        let url = Url::parse(url).ok()?;
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        if !is_token_service(exchange.kind, host, port) {
            return Some(format!("{host}:{port}"));
        }
    }
    match cloud {
        Some(cloud) => Some(cloud.to_owned()),
        None => Some(registry_host(spec)?.authority()),
    }
}

#[cfg(test)]
mod tests;
