//! The credential proxy's view: one file for each binding, there as soon as the
//! binding is, with the credential as long as there is one. Held credentials
//! flow in; the files at the root of the volume are brought to that state.

use std::collections::BTreeMap;

use jiff::Timestamp;
use shared::allow_list::AllowList;
use shared::errors::Named;
use shared::layout::FileStem;
use shared::proxy_view::{self, ProxyBinding, ProxyCredential};

use super::{Content, both, store_failed};
use crate::demand::Slot;
use crate::exchange::Credential;
use crate::refresh::Lease;
use crate::store::{Directory, Error, FileName, Store, Written};

/// A volume with this view.
#[derive(Debug)]
pub(super) struct Proxy {
    store: Store,
    allowed_hosts: AllowList,
    /// Of an earlier process: what the files say.
    inherited: BTreeMap<FileName, ProxyBinding>,
}

impl Proxy {
    pub(super) fn adopt(store: Store, allowed_hosts: AllowList) -> Result<Self, Error> {
        store.sweep(Directory::Root)?;
        // What cannot be read is not taken over and so removed: nobody would
        // know when its credential expires.
        let mut inherited = BTreeMap::new();
        for name in store.list(Directory::Root)? {
            let Some(bytes) = store.read(Directory::Root, &name)? else {
                continue;
            };
            if let Ok(document) = proxy_view::parse(&bytes)
                && is_named_after(&name, &document)
            {
                inherited.insert(name, document);
            }
        }
        Ok(Self {
            store,
            allowed_hosts,
            inherited,
        })
    }

    pub(super) fn reconcile(
        &mut self,
        content: Option<&Content<'_>>,
        now: Timestamp,
    ) -> Result<bool, Named> {
        for document in self.inherited.values_mut() {
            if ends_at(document).is_some_and(|end| end <= now) {
                document.credential = None;
            }
        }
        let documents = match content {
            Some(content) => self.documents(content),
            None => self.inherited.clone(),
        };
        // First, because it makes room.
        let mut result = self.remove_all_but(&documents);
        for (file, document) in &documents {
            result = both(result, self.write(file, document, now));
        }
        result
    }

    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.inherited.values().filter_map(ends_at).min()
    }

    /// What the files have to say; of what is inherited only what is still
    /// needed stays.
    fn documents(&mut self, content: &Content<'_>) -> BTreeMap<FileName, ProxyBinding> {
        let mut documents = BTreeMap::new();
        let mut kept = BTreeMap::new();
        for (slot, lease) in content {
            let Slot::Proxy(route) = slot else { continue };
            let credential = match lease {
                Some(lease) => credential(lease),
                None => self.inherited.remove(route.file()).and_then(|inherited| {
                    let credential = inherited.credential.clone()?;
                    route.is_of(&inherited).then(|| {
                        kept.insert(route.file().clone(), inherited);
                        credential
                    })
                }),
            };
            documents.insert(
                route.file().clone(),
                route.document(self.allowed_hosts.clone(), credential),
            );
        }
        self.inherited = kept;
        documents
    }

    fn write(
        &self,
        file: &FileName,
        document: &ProxyBinding,
        now: Timestamp,
    ) -> Result<bool, Named> {
        proxy_view::render(document)
            .map_err(|error| {
                let detail = format!("binding {}: {}", document.name, error.detail);
                Named::new(error.code, detail)
            })
            .and_then(|bytes| {
                self.store
                    .put(Directory::Root, file, &bytes)
                    .map_err(|error| store_failed(&error))
            })
            .map(|written| written == Written::Replace)
            .inspect_err(|_| self.remove_expired(file, now))
    }

    /// A file that cannot be replaced stays, but not past its expiry. The error
    /// that led here is the one that is told.
    fn remove_expired(&self, file: &FileName, now: Timestamp) {
        let Ok(Some(bytes)) = self.store.read(Directory::Root, file) else {
            return;
        };
        let expired = match proxy_view::parse(&bytes) {
            Ok(document) => ends_at(&document).is_some_and(|end| end <= now),
            Err(_) => true,
        };
        if expired && let Err(error) = self.store.remove(Directory::Root, file) {
            tracing::error!("{}", store_failed(&error));
        }
    }

    fn remove_all_but(&self, keep: &BTreeMap<FileName, ProxyBinding>) -> Result<bool, Named> {
        let names = self.store.list(Directory::Root);
        let mut result = Ok(false);
        for name in names.map_err(|error| store_failed(&error))? {
            if !keep.contains_key(&name) {
                let removed = self.store.remove(Directory::Root, &name);
                result = both(result, removed.map_err(|error| store_failed(&error)));
            }
        }
        result
    }
}

/// What a held credential is to the proxy. Like every client it is told an end
/// that lies before the real one and after the next refresh: a request that
/// starts before it arrives before the credential's `exp`.
fn credential(lease: &Lease<Credential>) -> Option<ProxyCredential> {
    match &lease.credential {
        Credential::Basic(basic) => Some(ProxyCredential::basic_auth(
            basic.username.as_str(),
            basic.secret.clone(),
            lease.published_expires_at,
        )),
        Credential::Certificate { certificates, key } => Some(ProxyCredential::x509(
            certificates.as_str(),
            key.clone(),
            lease.published_expires_at,
        )),
        Credential::Bearer(token) => Some(ProxyCredential::bearer(
            token.clone(),
            lease.published_expires_at,
        )),
    }
}

/// When the credential in a file ends, if there is one.
fn ends_at(document: &ProxyBinding) -> Option<Timestamp> {
    document.credential.as_ref().map(|it| it.expires)
}

/// The proxy asks for it, too: two files cannot speak for one binding.
fn is_named_after(file: &FileName, document: &ProxyBinding) -> bool {
    let stem = FileStem::new(&document.name).ok();
    let named = file.as_str().strip_suffix(".json");
    named.is_some() && named == stem.as_ref().map(FileStem::as_str)
}
