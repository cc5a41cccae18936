//! What one volume has to hold → its files. Held credentials flow in; the files
//! of the volume's view are brought to that state.
//!
//! A volume outlives the agent's process. What an earlier process wrote is
//! taken over: it stays until it expires or its successor arrives, so that a
//! restart of the agent while an upstream is down costs nobody a credential.
//!
//! Each view knows its own slots only, so nothing that is meant for the one is
//! ever written into the other, whatever content it is given.

mod argocd;
mod proxy;

use std::collections::BTreeMap;

use jiff::Timestamp;
use shared::allow_list::AllowList;
use shared::errors::{Code, Named};

use crate::demand::Slot;
use crate::exchange::Credential;
use crate::refresh::Lease;
use crate::store::{Error, Store};

/// What belongs in a volume: each slot with the credential that is held for
/// it, or none yet.
pub type Content<'a> = BTreeMap<&'a Slot, Option<&'a Lease<Credential>>>;

/// One volume.
#[derive(Debug)]
pub struct Volume(Files);

#[derive(Debug)]
enum Files {
    ArgoCd(argocd::ArgoCd),
    Proxy(proxy::Proxy),
}

impl Volume {
    /// Takes over a mounted volume of Argo CD's view with what is in it.
    ///
    /// # Errors
    /// When it cannot be read, or is no tmpfs.
    pub fn adopt(store: Store) -> Result<Self, Error> {
        argocd::ArgoCd::adopt(store).map(|it| Self(Files::ArgoCd(it)))
    }

    /// The same of the credential proxy's view. `allowed_hosts` is the
    /// administrator's list, which the proxy is told.
    ///
    /// # Errors
    /// Like [`Volume::adopt`].
    pub fn adopt_proxy(store: Store, allowed_hosts: AllowList) -> Result<Self, Error> {
        proxy::Proxy::adopt(store, allowed_hosts).map(|it| Self(Files::Proxy(it)))
    }

    /// Brings the files to `content`, or, while what belongs here is not known
    /// yet (`None`), only removes what has expired. Returns whether a file changed.
    ///
    /// # Errors
    /// When a file could not be written; the others were brought up to date.
    pub fn reconcile(
        &mut self,
        content: Option<&Content<'_>>,
        now: Timestamp,
    ) -> Result<bool, Named> {
        match &mut self.0 {
            Files::ArgoCd(files) => files.reconcile(content, now),
            Files::Proxy(files) => files.reconcile(content, now),
        }
    }

    /// When the next credential of an earlier process expires.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        match &self.0 {
            Files::ArgoCd(files) => files.next_expiry(),
            Files::Proxy(files) => files.next_expiry(),
        }
    }
}

/// Whether one of two steps changed something; the first error.
fn both(first: Result<bool, Named>, second: Result<bool, Named>) -> Result<bool, Named> {
    match (first, second) {
        (Ok(first), Ok(second)) => Ok(first || second),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

fn store_failed(error: &Error) -> Named {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    Named::new(
        Code::StoreFailed,
        format!("{error}{}", cause.unwrap_or_default()),
    )
}

#[cfg(test)]
#[path = "volume_tests.rs"]
mod tests;
