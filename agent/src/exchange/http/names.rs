//! Name resolution that leaves out the addresses no token goes to.

use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use agent_net::addresses::refused;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Resolves as the system does.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// Resolves names, and leaves out refused addresses.
pub(super) struct Guard {
    /// The administrator lets the host have any address.
    pub(super) private: bool,
    /// The administrator's own proxy, which may have any address.
    pub(super) proxy: Option<String>,
    pub(super) names: Arc<dyn Resolve>,
}

/// A name has no other than refused addresses.
#[derive(Debug, thiserror::Error)]
#[error("{name} resolves only to {address}")]
pub(super) struct OnlyRefused {
    name: String,
    address: IpAddr,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let shown = name.as_str().to_owned();
        let private = self.private || self.proxy.as_deref() == Some(name.as_str());
        let resolving = self.names.resolve(name);
        Box::pin(async move {
            let found: Vec<SocketAddr> = resolving.await?.collect();
            let (refused, usable): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|address| !private && refused(address.ip()));
            match (usable.is_empty(), refused.first()) {
                (true, Some(address)) => Err(OnlyRefused {
                    name: shown,
                    address: address.ip(),
                }
                .into()),
                _ => Ok(Box::new(usable.into_iter()) as Addrs),
            }
        })
    }
}

/// The guard's refusal among an error's causes.
pub(super) fn only_refused(error: &reqwest::Error) -> Option<&OnlyRefused> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(found) = cause.downcast_ref::<OnlyRefused>() {
            return Some(found);
        }
        source = cause.source();
    }
    None
}
