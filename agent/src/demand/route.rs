//! What the credential proxy has to know of a binding. PURE: a binding's spec
//! flows in, the document that the proxy reads flows out, but for the
//! administrator's list and the credential, which come from elsewhere.

use shared::allow_list::AllowList;
use shared::binding::{CredentialBindingSpec, ProxyDelivery};
use shared::errors::{Code, Named};
use shared::layout::FileStem;
use shared::proxy_view::{self, KeyHash, ProxyBinding, ProxyCredential};
use shared::registry::RegistryHost;

use crate::store::FileName;

/// The way of a binding's requests through the credential proxy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    file: FileName,
    name: String,
    project: Option<String>,
    keys: Vec<KeyHash>,
    way: proxy_view::Route,
}

impl Route {
    /// The route of the binding `name`. `proxy` is its `spec.proxy`.
    ///
    /// # Errors
    /// Those of [`proxy_view::Route::of`] and [`Code::InvalidSecret`], with the
    /// field: whatever the proxy could not read is refused here, where somebody
    /// is told.
    pub fn of(
        name: &str,
        spec: &CredentialBindingSpec,
        proxy: &ProxyDelivery,
    ) -> Result<Self, Named> {
        let refuse = |detail: &str| Named::new(Code::InvalidSecret, detail);
        // Nobody could use it, and the proxy would go on with the keys of before.
        if proxy.key_sha256.is_empty() {
            return Err(Named::new(Code::ProxyNotWritten, "no key opens it"));
        }
        let way = proxy_view::Route::of(spec, proxy)?;
        let keys = proxy
            .key_sha256
            .iter()
            .map(|hex| {
                KeyHash::from_hex(hex).ok_or_else(|| refuse("proxy.keySha256: not 64 hex digits"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let file = FileStem::new(name)
            .ok()
            .and_then(|stem| FileName::of(format!("{}.json", stem.as_str())).ok())
            .ok_or_else(|| refuse("its name cannot be a file name"))?;
        let route = Self {
            file,
            name: name.to_owned(),
            project: spec.project.clone(),
            keys,
            way,
        };
        // The rest of what the reader asks for, in the reader's own words.
        proxy_view::render(&route.document(AllowList::default(), None))
            .map_err(|error| refuse(&format!("for the credential proxy, {}", error.detail)))?;
        Ok(route)
    }

    /// The file in the proxy's view.
    pub fn file(&self) -> &FileName {
        &self.file
    }

    /// Where it leads.
    pub fn target(&self) -> &RegistryHost {
        &self.way.target
    }

    /// What the proxy reads.
    pub fn document(
        &self,
        allowed_hosts: AllowList,
        credential: Option<ProxyCredential>,
    ) -> ProxyBinding {
        ProxyBinding {
            name: self.name.clone(),
            project: self.project.clone(),
            keys: self.keys.clone(),
            target: self.way.target.clone(),
            path: self.way.path.clone(),
            kind: self.way.kind,
            insecure: self.way.insecure,
            allowed_hosts,
            upstream_proxy: self.way.upstream_proxy.clone(),
            realm: self.way.realm.clone(),
            credential,
        }
    }

    /// Whether a credential that lies in `document` is for this route: of the
    /// same project, for the same place and realm. A binding that was changed while no
    /// agent ran must not take an old credential to a new host.
    pub fn is_of(&self, document: &ProxyBinding) -> bool {
        self.name == document.name
            && self.project == document.project
            && self.way.target == document.target
            && self.way.path == document.path
            && self.way.realm == document.realm
    }
}
