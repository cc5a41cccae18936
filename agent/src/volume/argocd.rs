//! The view of Argo CD's own containers. Held credentials flow in; the Docker
//! configuration and the ExecCredentials are brought to that state.

use std::collections::BTreeMap;

use crate::docker_config::{self, BasicCredential};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use shared::errors::{Code, Named};
use shared::exec_credential::ExecCredential;
use shared::layout;
use shared::registry::RegistryHost;

use super::{Content, both, store_failed};
use crate::demand::Slot;
use crate::exchange::Credential;
use crate::jwt::Claims;
use crate::refresh::Lease;
use crate::store::{Directory, Error, FileName, Store, Written};

/// A volume with this view.
#[derive(Debug)]
pub(super) struct ArgoCd {
    store: Store,
    docker_config: FileName,
    /// Of an earlier process: entries of the Docker configuration, by key.
    registries: BTreeMap<String, (BasicCredential, Timestamp)>,
    /// Of an earlier process: ExecCredential files.
    clusters: BTreeMap<FileName, Timestamp>,
}

impl ArgoCd {
    pub(super) fn adopt(store: Store) -> Result<Self, Error> {
        let docker_config = FileName::of(layout::DOCKER_CONFIG)?;
        store.prepare()?;
        store.sweep(Directory::Docker)?;
        store.sweep(Directory::Clusters)?;
        // What cannot be read, or has no known expiry, is not taken over and so
        // removed: nothing may stay past its expiry.
        let registries = store
            .read(Directory::Docker, &docker_config)?
            .and_then(|bytes| docker_config::parse(&bytes).ok())
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(key, credential)| {
                let expires_at = jwt_expiry(credential.secret.expose_secret())?;
                Some((key, (credential, expires_at)))
            })
            .collect();
        let mut clusters = BTreeMap::new();
        for name in store.list(Directory::Clusters)? {
            let Some(bytes) = store.read(Directory::Clusters, &name)? else {
                continue;
            };
            if let Ok(document) = ExecCredential::parse(&bytes) {
                let status = document.status;
                let expires_at =
                    jwt_expiry(status.token.expose_secret()).unwrap_or(status.expiration_timestamp);
                clusters.insert(name, expires_at);
            }
        }
        Ok(Self {
            store,
            docker_config,
            registries,
            clusters,
        })
    }

    pub(super) fn reconcile(
        &mut self,
        content: Option<&Content<'_>>,
        now: Timestamp,
    ) -> Result<bool, Named> {
        self.registries
            .retain(|_, (_, expires_at)| *expires_at > now);
        self.clusters.retain(|_, expires_at| *expires_at > now);
        let registries = self.registries(content);
        let mut result = self
            .write_docker_config(&registries)
            .map_err(|error| store_failed(&error));
        for outcome in self.clusters(content) {
            result = both(result, outcome);
        }
        result
    }

    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        let registries = self.registries.values().map(|(_, expires_at)| *expires_at);
        registries.chain(self.clusters.values().copied()).min()
    }

    fn registries(
        &mut self,
        content: Option<&Content<'_>>,
    ) -> BTreeMap<RegistryHost, BasicCredential> {
        let Some(content) = content else {
            return self
                .registries
                .iter()
                .filter_map(|(key, (credential, _))| Some((host(key)?, credential.clone())))
                .collect();
        };
        let mut wanted = BTreeMap::new();
        let mut kept = BTreeMap::new();
        for (slot, lease) in content {
            let Slot::Docker(host) = slot else { continue };
            let key = host.docker_config_key();
            match lease.map(|lease| &lease.credential) {
                Some(Credential::Basic(credential)) => {
                    wanted.insert(host.clone(), credential.clone());
                }
                Some(Credential::Bearer(_) | Credential::Certificate { .. }) => {}
                None => {
                    if let Some(inherited) = self.registries.remove(key) {
                        wanted.insert(host.clone(), inherited.0.clone());
                        kept.insert(key.to_owned(), inherited);
                    }
                }
            }
        }
        self.registries = kept;
        wanted
    }

    fn write_docker_config(
        &self,
        credentials: &BTreeMap<RegistryHost, BasicCredential>,
    ) -> Result<bool, Error> {
        // User names with a colon were refused when the demand was computed.
        let Ok(bytes) = docker_config::render(credentials) else {
            return Ok(false);
        };
        self.store
            .put(Directory::Docker, &self.docker_config, &bytes)
            .map(|written| written == Written::Replace)
    }

    fn clusters(&mut self, content: Option<&Content<'_>>) -> Vec<Result<bool, Named>> {
        let mut results = Vec::new();
        let mut keep = BTreeMap::new();
        match content {
            None => keep.clone_from(&self.clusters),
            Some(content) => {
                for (slot, lease) in content {
                    let Slot::Cluster(name) = slot else { continue };
                    match lease {
                        Some(lease) => {
                            results.push(self.write_cluster(name, lease));
                            // No expiry of its own any more: the lease has one.
                            keep.insert(name.clone(), Timestamp::MAX);
                        }
                        None => {
                            if let Some(expires_at) = self.clusters.get(name) {
                                keep.insert(name.clone(), *expires_at);
                            }
                        }
                    }
                }
            }
        }
        results.push(self.remove_clusters_but(&keep));
        keep.retain(|_, expires_at| *expires_at != Timestamp::MAX);
        self.clusters = keep;
        results
    }

    fn write_cluster(&self, name: &FileName, lease: &Lease<Credential>) -> Result<bool, Named> {
        let Credential::Bearer(token) = &lease.credential else {
            return Ok(false);
        };
        let bytes = ExecCredential::new(token.clone(), lease.published_expires_at)
            .render()
            .map_err(|error| Named::new(Code::StoreFailed, error.to_string()))?;
        self.store
            .put(Directory::Clusters, name, &bytes)
            .map(|written| written == Written::Replace)
            .map_err(|error| store_failed(&error))
    }

    fn remove_clusters_but(&self, keep: &BTreeMap<FileName, Timestamp>) -> Result<bool, Named> {
        let mut changed = false;
        let names = self.store.list(Directory::Clusters);
        for name in names.map_err(|error| store_failed(&error))? {
            if !keep.contains_key(&name) {
                changed |= self
                    .store
                    .remove(Directory::Clusters, &name)
                    .map_err(|error| store_failed(&error))?;
            }
        }
        Ok(changed)
    }
}

fn jwt_expiry(token: &str) -> Option<Timestamp> {
    Claims::read(token)?.expires_at()
}

/// The host with this key in a Docker configuration.
fn host(key: &str) -> Option<RegistryHost> {
    let hub = RegistryHost::parse("docker.io").ok()?;
    match key == hub.docker_config_key() {
        true => Some(hub),
        false => RegistryHost::parse(key).ok(),
    }
}
