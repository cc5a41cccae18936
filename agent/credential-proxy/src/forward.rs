//! One request inside a terminated tunnel: it flows in as Argo CD sent it, goes
//! to the bound host with the credential of the project, and the answer streams
//! back. Challenges are answered here; redirects are the client's to follow,
//! so no credential goes with them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_net::challenge::{self, Challenge};
use http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body as _, Incoming};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use shared::binding::ProxyKind;
use shared::errors::{Code, Named};
use shared::proxy_view::{ProxyBinding, ProxyCredential, ProxySecret};
use zeroize::Zeroizing;

use crate::authorize::{Bindings, Route};
use crate::ca::Ca;
use crate::flights::Flights;
use crate::parse::authorization::Presented;
use crate::parse::target::{self, Authority};
use crate::sync::Followed;
use crate::tokens::{TokenKey, Tokens};
use crate::upstream::{Reach, Upstream};
use crate::{Body, headers, realm, scope};

/// The way of a new binding from its Secret to here takes a second or two.
const NEWS: Duration = Duration::from_secs(10);

/// What all connections share.
#[derive(Debug)]
pub struct Proxy {
    pub(crate) followed: Followed,
    pub(crate) ca: Ca,
    pub(crate) upstream: Upstream,
    wait: Duration,
    tokens: Mutex<Tokens>,
    flights: Flights,
    /// Bindings whose registry asked for Basic: the next request brings it.
    basic: Mutex<HashSet<String>>,
}

/// A tunnel that ends here.
#[derive(Debug)]
pub(crate) struct Terminated {
    pub(crate) presented: Presented,
    pub(crate) target: Authority,
}

/// What an attempt carried.
enum Sent {
    Nothing,
    Basic,
    Token(SecretString),
}

impl Proxy {
    /// Requests wait for a binding's first credential for `wait` at most.
    pub fn new(followed: Followed, ca: Ca, upstream: Upstream, wait: Duration) -> Self {
        Self {
            followed,
            ca,
            upstream,
            wait,
            tokens: Mutex::default(),
            flights: Flights::default(),
            basic: Mutex::default(),
        }
    }

    /// The bindings of now, or, where a key is of none of them, of soon: Argo CD
    /// may see a new Secret before the agent does, and remembers a failure for
    /// minutes.
    pub(crate) async fn bindings_for(&self, presented: &Presented) -> Arc<Bindings> {
        let mut bindings = self.followed.bindings.clone();
        let wait = self.wait.min(NEWS);
        let known = bindings.wait_for(|seen| seen.knows(presented));
        let _ = tokio::time::timeout(wait, known).await;
        bindings.borrow().clone()
    }

    pub(crate) async fn forward(
        &self,
        tunnel: &Terminated,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Named> {
        let (parts, body) = request.into_parts();
        let path = target::origin(&parts.method, &parts.uri, &parts.headers, &tunnel.target)?;
        // A binding or key that was withdrawn since the CONNECT opens nothing.
        let bindings = self.followed.bindings.borrow().clone();
        let Route::Terminate(own) = bindings.authorize(&tunnel.presented, &tunnel.target)? else {
            return Err(Named::new(
                Code::ProxyHostMismatch,
                format!("host {}", tunnel.target),
            ));
        };
        let empty = body.is_end_stream();
        let body = body.map_err(Into::into).boxed();
        let Some(selected) = scope::select(&bindings, own, &parts.method, path) else {
            let response = self
                .attempt(own, &tunnel.target, &parts, body, None)
                .await?;
            return Ok(stream(response, false));
        };
        let key = TokenKey {
            binding: selected.binding.name.clone(),
            project: selected.binding.project.clone(),
            target: tunnel.target.clone(),
            repository: selected.repository.map(str::to_owned),
        };
        let (binding, credential) = self.credential(selected.binding).await?;

        let sent = self.first(&binding, &credential, &key);
        let response = self
            .attempt(
                &binding,
                &tunnel.target,
                &parts,
                body,
                Some((&credential, &sent)),
            )
            .await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(stream(response, true));
        }
        let sent = self
            .answer(&binding, &credential, &key, sent, &response)
            .await?;
        if !empty {
            // Its body has gone; the client's next attempt carries the answer.
            return Err(refused(&binding, "the request cannot be repeated"));
        }
        drop(response);
        let response = self
            .attempt(
                &binding,
                &tunnel.target,
                &parts,
                nothing(),
                Some((&credential, &sent)),
            )
            .await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.forget(&key, &sent);
            return Err(refused(&binding, "status 401"));
        }
        Ok(stream(response, true))
    }

    /// Waits, bounded, until the binding has a credential that has not expired.
    async fn credential(
        &self,
        binding: &ProxyBinding,
    ) -> Result<(ProxyBinding, ProxyCredential), Named> {
        let detail = || format!("binding {}", binding.name);
        let missing = || Named::new(Code::CredentialMissing, detail());
        let mut bindings = self.followed.bindings.clone();
        let present = |seen: &Arc<Bindings>| {
            let current = seen.find(&binding.name)?;
            // The Secret may have moved meanwhile: this request was not
            // authorised for anything but what it saw.
            let same = current.target == binding.target && current.project == binding.project;
            let credential = current.credential.clone().filter(|_| same)?;
            Some((current.clone(), credential))
        };
        let waited = tokio::time::timeout(self.wait, async {
            bindings
                .wait_for(|seen| present(seen).is_some())
                .await
                .ok()?;
            let seen = bindings.borrow().clone();
            present(&seen)
        })
        .await;
        let Ok(Some((current, credential))) = waited else {
            return Err(missing());
        };
        if credential.expires <= Timestamp::now() {
            return Err(Named::new(Code::CredentialExpired, detail()));
        }
        Ok((current, credential))
    }

    /// What the first attempt carries: git and Helm servers often serve
    /// something else to anonymous readers instead of asking.
    fn first(&self, binding: &ProxyBinding, credential: &ProxyCredential, key: &TokenKey) -> Sent {
        // The TLS handshake has presented it.
        if let ProxySecret::X509 { .. } = credential.secret {
            return Sent::Nothing;
        }
        let basic = self.basic.lock().unwrap_or_else(PoisonError::into_inner);
        let asks_for_basic = binding.kind != ProxyKind::Oci || basic.contains(&binding.name);
        if asks_for_basic && binding.realm.is_none() {
            return Sent::Basic;
        }
        self.token(key).map_or(Sent::Nothing, Sent::Token)
    }

    fn token(&self, key: &TokenKey) -> Option<SecretString> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.find(key, Instant::now())
    }

    /// Answers the challenge of a 401, once.
    async fn answer(
        &self,
        binding: &ProxyBinding,
        credential: &ProxyCredential,
        key: &TokenKey,
        sent: Sent,
        response: &Response<Incoming>,
    ) -> Result<Sent, Named> {
        self.forget(key, &sent);
        if let ProxySecret::X509 { .. } = credential.secret {
            return Err(refused(binding, "status 401 in spite of the certificate"));
        }
        let lines = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenge = challenge::parse(lines.map(HeaderValue::as_bytes)).map_err(|error| {
            Named::new(error.code, format!("{}: {}", binding.name, error.detail))
        })?;
        match (challenge, sent) {
            (Challenge::Basic, _) if binding.realm.is_some() => Err(refused(
                binding,
                "it asks for a password, and the credential is for its token realm alone",
            )),
            (Challenge::Basic, Sent::Basic) => Err(refused(binding, "status 401")),
            (Challenge::Basic, _) => {
                let mut basic = self.basic.lock().unwrap_or_else(PoisonError::into_inner);
                basic.insert(binding.name.clone());
                Ok(Sent::Basic)
            }
            (Challenge::Bearer { .. }, _) if binding.kind != ProxyKind::Oci => Err(refused(
                binding,
                "it asks for a token, which only registries give",
            )),
            (Challenge::Bearer { realm, service, .. }, _) => {
                let repository = key.repository.as_deref();
                let place =
                    realm::locate(binding, realm.as_deref(), service.as_deref(), repository)?;
                // Another request may have had the same answer meanwhile.
                if let Some(token) = self.token(key) {
                    return Ok(Sent::Token(token));
                }
                let roots = self.followed.roots.borrow().clone();
                let fetch = realm::fetch(
                    &self.upstream,
                    &roots,
                    binding,
                    credential,
                    place,
                    repository,
                );
                let keep = |token: &SecretString, life| {
                    let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                    tokens.keep(key.clone(), token.clone(), life, Instant::now());
                };
                let token = self.flights.join(key, fetch, keep).await?;
                Ok(Sent::Token(token))
            }
        }
    }

    fn forget(&self, key: &TokenKey, sent: &Sent) {
        match sent {
            Sent::Nothing => {}
            Sent::Basic => {
                let mut basic = self.basic.lock().unwrap_or_else(PoisonError::into_inner);
                basic.remove(&key.binding);
            }
            Sent::Token(token) => {
                let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                tokens.refused(key, token);
            }
        }
    }

    /// Sends what `parts` and `body` say with a credential, or with what the
    /// client brought where there is none.
    async fn attempt(
        &self,
        binding: &ProxyBinding,
        target: &Authority,
        parts: &Parts,
        body: Body,
        credential: Option<(&ProxyCredential, &Sent)>,
    ) -> Result<Response<Incoming>, Named> {
        let path = parts.uri.path_and_query().map_or("/", |it| it.as_str());
        let authority = match target.port {
            443 => target.to_string().trim_end_matches(":443").to_owned(),
            _ => target.to_string(),
        };
        let uri = Uri::builder()
            .scheme("https")
            .authority(authority)
            .path_and_query(path)
            .build()
            .map_err(|error| Named::new(Code::ProxyRequestRefused, error.to_string()))?;
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = parts.headers.clone();
        let authorization = match credential {
            // Whatever led here: what is for a realm is not shown to the registry.
            Some((_, Sent::Basic)) if binding.realm.is_some() => None,
            Some((credential, sent)) => header(sent, credential)?,
            None => None,
        };
        headers::prepare(request.headers_mut(), authorization, credential.is_none());
        let certificate = match credential.map(|(credential, _)| &credential.secret) {
            Some(ProxySecret::X509 { certificates, key }) => Some((certificates.as_str(), key)),
            Some(ProxySecret::Basic { .. } | ProxySecret::Bearer { .. }) | None => None,
        };
        let roots = self.followed.roots.borrow().clone();
        let reach = Reach {
            binding,
            target,
            own_roots: roots.get(&target.host).map(Vec::as_slice),
            insecure: binding.insecure,
            certificate,
        };
        self.upstream.send(reach, request).await
    }
}

fn header(sent: &Sent, credential: &ProxyCredential) -> Result<Option<HeaderValue>, Named> {
    let text = match sent {
        Sent::Nothing => return Ok(None),
        Sent::Basic => match credential.authorization() {
            Some(authorization) => authorization,
            None => return Ok(None),
        },
        Sent::Token(token) => Zeroizing::new(format!("Bearer {}", token.expose_secret())),
    };
    HeaderValue::from_str(&text).map(Some).map_err(|error| {
        Named::new(
            Code::ExchangeUnreadable,
            format!("{AUTHORIZATION}: {error}"),
        )
    })
}

fn refused(binding: &ProxyBinding, reason: &str) -> Named {
    let detail = format!(
        "binding {}, host {}: {reason}",
        binding.name, binding.target
    );
    Named::new(Code::RegistryRefused, detail)
}

fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

fn stream(response: Response<Incoming>, hide: bool) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    headers::answer(&mut parts.headers, hide);
    parts.extensions.clear();
    parts.version = http::Version::HTTP_11;
    Response::from_parts(parts, body.map_err(Into::into).boxed())
}
