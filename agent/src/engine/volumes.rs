//! The volumes of this node. What is wanted and what is held flow in, files and
//! the errors of writing them flow out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use shared::allow_list::AllowList;
use shared::errors::{Code, Named};

use crate::demand::{Demand, Holder, Key, View};
use crate::exchange::Credential;
use crate::refresh::{Lease, Machine};
use crate::store::Store;
use crate::volume::{Content, Volume};

pub(super) struct Volumes {
    allowed_hosts: AllowList,
    open: BTreeMap<PathBuf, Volume>,
    /// What is wrong with a volume, by its path.
    pub(super) errors: BTreeMap<PathBuf, Named>,
}

impl Volumes {
    pub(super) fn new(allowed_hosts: AllowList) -> Self {
        Self {
            allowed_hosts,
            open: BTreeMap::new(),
            errors: BTreeMap::new(),
        }
    }

    pub(super) fn open(&mut self, path: PathBuf, view: View) {
        if self.open.contains_key(&path) {
            return;
        }
        let store = Store::at(&path);
        let volume = match view {
            View::ArgoCd => Volume::adopt(store),
            View::Proxy => Volume::adopt_proxy(store, self.allowed_hosts.clone()),
        };
        match volume {
            Ok(volume) => drop(self.open.insert(path, volume)),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(cause, "{error}");
                let error = Named::new(Code::StoreFailed, error.to_string());
                self.errors.insert(path, error);
            }
        }
    }

    pub(super) fn close(&mut self, path: &Path) {
        self.open.remove(path);
        self.errors.remove(path);
    }

    /// When the next credential of an earlier process expires.
    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.open.values().filter_map(Volume::next_expiry).min()
    }

    /// Brings every volume to what it should hold.
    pub(super) fn write(
        &mut self,
        demand: &Demand,
        machine: &Machine<Key, Holder, Credential>,
        now: Timestamp,
    ) {
        for (path, volume) in &mut self.open {
            let content: Option<Content<'_>> = demand.volumes.get(path).map(|slots| {
                let newest = |holders| newest(machine, holders);
                slots
                    .iter()
                    .map(|(slot, holders)| (slot, newest(holders)))
                    .collect()
            });
            let error = match volume.reconcile(content.as_ref(), now) {
                Ok(changed) => {
                    if changed {
                        tracing::debug!(volume = %path.display(), "files changed");
                    }
                    self.errors.remove(path);
                    continue;
                }
                Err(error) => error,
            };
            if self.errors.get(path) != Some(&error) {
                tracing::error!(volume = %path.display(), "{error}");
                self.errors.insert(path.clone(), error);
            }
        }
    }
}

/// The newest credential of these, should one holder have missed a renewal; the
/// first among equals.
fn newest<'a>(
    machine: &'a Machine<Key, Holder, Credential>,
    holders: &[(Key, Holder)],
) -> Option<&'a Lease<Credential>> {
    holders
        .iter()
        .rev()
        .filter_map(|(key, holder)| machine.held(key, holder))
        .max_by_key(|lease| lease.expires_at)
}
