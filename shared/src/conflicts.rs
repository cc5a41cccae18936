//! Bindings that cannot both be served: all bindings of one namespace flow
//! in, the reason why some of them stand back flows out. Pure.
//!
//! Controller and agents come to the same answer, because both ask here: the
//! older binding wins, by creation time and then by name. What is not
//! delivered anyway wins nothing.
//!
//! [`conflicts`] looks at all of them at once. Who keeps an answer up to date
//! while bindings come and go builds on [`stakes`] and [`Place::conflict`], and
//! has to come to the same answer.

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
    let mut by_age: Vec<_> = claims.into_iter().collect();
    by_age.sort_by_key(|claim| (claim.created, claim.name));

    let mut taken: BTreeMap<Place, (Holding, &str)> = BTreeMap::new();
    let mut losers = BTreeMap::new();
    for claim in by_age {
        let stakes = stakes(claim.name, claim.spec);
        let conflict = stakes.iter().find_map(|(place, holding)| {
            let (other, winner) = taken.get(place)?;
            (other != holding).then(|| place.conflict(winner))
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

/// What only one binding, or several of one kind, can hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Argo CD takes the first cluster Secret of a server.
    Server(String),
    /// A host in the pod-wide Docker configuration.
    DockerHost(String),
    /// Whoever is shown a token can replay it wherever its subject and audience
    /// are accepted: that must not be two places.
    Audience {
        /// The token's subject.
        subject: String,
        /// Its audience.
        audience: String,
    },
}

/// What a binding does with a [`Place`]. Equal holdings share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holding {
    /// The binding of this name, and no other.
    Alone(String),
    /// Whoever has this identity and exchange.
    As(Identity, Box<Exchange>),
    /// Whoever shows the token there; `None` if that cannot be told.
    At(Option<String>),
}

impl Place {
    /// Why who would hold this otherwise stands back for the binding `winner`.
    pub fn conflict(&self, winner: &str) -> Named {
        let (code, what) = match self {
            Self::Server(server) => (Code::ServerConflict, format!("the server {server}")),
            Self::DockerHost(host) => (Code::IdentityConflict, format!("the host {host}")),
            Self::Audience { audience, .. } => (
                Code::AudienceConflict,
                format!("audience {audience} at another host"),
            ),
        };
        Named::new(code, format!("CredentialBinding {winner} has {what}"))
    }
}

/// What the binding `name` needs to hold, in the order in which a conflict is
/// reported. What is not delivered anyway needs nothing.
pub fn stakes(name: &str, spec: &CredentialBindingSpec) -> Vec<(Place, Holding)> {
    let mut stakes = Vec::new();
    if undeliverable("", spec).is_some() {
        return stakes;
    }
    if spec.target.kind == TargetKind::Cluster {
        // Argo CD takes server URLs as text, but for a slash at the end.
        let server = spec.target.address.trim_end_matches('/').to_owned();
        stakes.push((Place::Server(server), Holding::Alone(name.to_owned())));
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
