//! What the credential proxy has to know of a binding. PURE: a binding's spec
//! flows in, the document that the proxy reads flows out, but for the
//! administrator's list and the credential, which come from elsewhere.

use shared::allow_list::AllowList;
use shared::binding::{CredentialBindingSpec, ProxyDelivery, ProxyKind};
use shared::errors::{Code, Named};
use shared::layout::FileStem;
use shared::proxy_view::{self, KeyHash, ProxyBinding, ProxyCredential, Realm};
use shared::registry::{RegistryHost, RepositoryReference};
use url::Url;

use crate::store::FileName;

/// The way of a binding's requests through the credential proxy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    file: FileName,
    name: String,
    project: Option<String>,
    keys: Vec<KeyHash>,
    target: RegistryHost,
    path: String,
    kind: ProxyKind,
    insecure: bool,
    upstream_proxy: Option<Url>,
    realm: Option<Realm>,
}

impl Route {
    /// The route of the binding `name`. `proxy` is its `spec.proxy`.
    ///
    /// # Errors
    /// [`Code::InvalidUrl`] and [`Code::InvalidSecret`], with the field: whatever
    /// the proxy could not read is refused here, where somebody is told.
    pub fn of(
        name: &str,
        spec: &CredentialBindingSpec,
        proxy: &ProxyDelivery,
    ) -> Result<Self, Named> {
        let at = |field: &str, error: Named| {
            Named::new(error.code, format!("{field}: {}", error.detail))
        };
        let refuse = |detail: &str| Named::new(Code::InvalidSecret, detail);
        let target = RepositoryReference::parse(&spec.target.address)
            .map_err(|error| at("target.address", error))?;
        // Nobody could use it, and the proxy would go on with the keys of before.
        if proxy.key_sha256.is_empty() {
            return Err(Named::new(Code::ProxyNotWritten, "no key opens it"));
        }
        let keys = proxy
            .key_sha256
            .iter()
            .map(|hex| {
                KeyHash::from_hex(hex).ok_or_else(|| refuse("proxy.keySha256: not 64 hex digits"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let upstream_proxy = proxy
            .upstream_proxy
            .as_deref()
            .map(proxy_view::upstream_proxy)
            .transpose()
            .map_err(|error| at("proxy.upstreamProxy", error))?;
        let exchange = &spec.exchange;
        let realm = exchange
            .auth_url
            .as_deref()
            .filter(|_| exchange.has_realm())
            .map(|url| Realm::parse(url, exchange.service.clone()))
            .transpose()
            .map_err(|error| at("exchange.authUrl", error))?;
        let file = FileStem::new(name)
            .ok()
            .and_then(|stem| FileName::of(format!("{}.json", stem.as_str())).ok())
            .ok_or_else(|| refuse("its name cannot be a file name"))?;
        let route = Self {
            file,
            name: name.to_owned(),
            project: spec.project.clone(),
            keys,
            target: target.host,
            path: target.path,
            kind: proxy.kind,
            insecure: proxy.insecure,
            upstream_proxy,
            realm,
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
        &self.target
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
            target: self.target.clone(),
            path: self.path.clone(),
            kind: self.kind,
            insecure: self.insecure,
            allowed_hosts,
            upstream_proxy: self.upstream_proxy.clone(),
            realm: self.realm.clone(),
            credential,
        }
    }

    /// Whether a credential that lies in `document` is for this route: of the
    /// same project, for the same place and realm. A binding that was changed while no
    /// agent ran must not take an old credential to a new host.
    pub fn is_of(&self, document: &ProxyBinding) -> bool {
        self.name == document.name
            && self.project == document.project
            && self.target == document.target
            && self.path == document.path
            && self.realm == document.realm
    }
}
