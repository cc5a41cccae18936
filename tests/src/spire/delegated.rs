//! `spire.api.agent.delegatedidentity.v1.DelegatedIdentity`, on the admin socket. Statuses, their texts and the
//! order of the checks are those of SPIRE 1.x.

use std::collections::BTreeSet;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::agent::{Agent, Composed, Messages};
use super::journal::Method;
use super::proto::delegated::{
    JwtBundlesRequest, JwtBundlesResponse, JwtSvidsRequest, JwtSvidsResponse, X509BundlesRequest,
    X509BundlesResponse, X509SvidWithKey, X509SvidsRequest, X509SvidsResponse,
};
use super::proto::types::{JwtSvid, Selector, SpiffeId, X509Svid};
use super::services::delegated_identity_server::DelegatedIdentity;
use super::world::{Entry, no_identity};

pub(super) struct Delegated(pub(super) Arc<Agent>);

#[tonic::async_trait]
impl DelegatedIdentity for Delegated {
    type SubscribeToX509SVIDsStream = Messages<X509SvidsResponse>;
    type SubscribeToX509BundlesStream = Messages<X509BundlesResponse>;
    type SubscribeToJWTBundlesStream = Messages<JwtBundlesResponse>;

    async fn fetch_jwt_svids(
        &self,
        request: Request<JwtSvidsRequest>,
    ) -> Result<Response<JwtSvidsResponse>, Status> {
        let request = request.into_inner();
        let selectors = texts(&request.selectors);
        let audience = request.audience;
        let method = Method::DelegatedJwtSvids;
        let exchange = self.0.arrive(method, selectors, audience.clone()).await?;
        let entries = || {
            if audience.is_empty() {
                return Err(Status::invalid_argument("audience must be specified"));
            }
            let mut world = exchange.world();
            world.authorize()?;
            validate(&request.selectors)?;
            let entries = world.matching(exchange.selectors());
            if entries.is_empty() {
                return Err(no_identity());
            }
            Ok(entries)
        };
        let entries = entries().map_err(|status| exchange.refuse(status))?;
        let suffered = exchange.suffer(&entries).await;
        suffered.map_err(|status| exchange.refuse(status))?;
        let svid = |entry: &Entry| {
            let jwt = exchange.world().jwt_svid(entry, &audience)?;
            Ok(JwtSvid {
                token: jwt.token,
                id: Some(parts(&entry.spiffe_id)),
                expires_at: jwt.expires_at,
                issued_at: jwt.issued_at,
            })
        };
        let svids: Result<_, Status> = entries.iter().map(svid).collect();
        let svids = svids.map_err(|status| exchange.refuse(status))?;
        let answer = exchange.answer(&entries, JwtSvidsResponse { svids });
        Ok(Response::new(answer))
    }

    async fn subscribe_to_x509_svids(
        &self,
        request: Request<X509SvidsRequest>,
    ) -> Result<Response<Self::SubscribeToX509SVIDsStream>, Status> {
        let request = request.into_inner();
        let selectors = texts(&request.selectors);
        let method = Method::DelegatedX509Svids;
        let exchange = self.0.arrive(method, selectors, Vec::new()).await?;
        let checked = exchange.world().authorize();
        checked
            .and_then(|()| validate(&request.selectors))
            .map_err(|status| exchange.refuse(status))?;
        let entries: Vec<Entry> = exchange.world().matching(exchange.selectors());
        let suffered = exchange.suffer(&entries).await;
        suffered.map_err(|status| exchange.refuse(status))?;
        let first: Vec<String> = entries.into_iter().map(|entry| entry.spiffe_id).collect();
        Ok(Response::new(exchange.stream(move |world, selectors| {
            world.authorize()?;
            let mut entries: Vec<Entry> = world.entries_for(selectors).cloned().collect();
            // Each stream has an order of its own, and keeps it.
            entries.sort_by_key(|entry| first.iter().position(|id| *id == entry.spiffe_id));
            let svid = |entry: &Entry| {
                let certificate = world.x509_svid(entry)?;
                let svid = X509Svid {
                    cert_chain: certificate.chain,
                    id: Some(parts(&entry.spiffe_id)),
                    expires_at: certificate.expires_at,
                };
                Ok(X509SvidWithKey {
                    svid: Some(svid),
                    key: certificate.key,
                })
            };
            let svids: Result<_, Status> = entries.iter().map(svid).collect();
            let message = X509SvidsResponse { svids: svids? };
            Ok(Composed {
                message,
                again_after: world.until_renewal(&entries),
                entries,
            })
        })))
    }

    async fn subscribe_to_x509_bundles(
        &self,
        _request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::SubscribeToX509BundlesStream>, Status> {
        let method = Method::DelegatedX509Bundles;
        let exchange = self.0.arrive(method, BTreeSet::new(), Vec::new()).await?;
        let checked = exchange.world().authorize();
        checked.map_err(|status| exchange.refuse(status))?;
        Ok(Response::new(exchange.stream(|world, _| {
            world.authorize()?;
            let ca_certificates = world.authority.x509_bundles();
            Ok(Composed::lasting(X509BundlesResponse { ca_certificates }))
        })))
    }

    async fn subscribe_to_jwt_bundles(
        &self,
        _request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::SubscribeToJWTBundlesStream>, Status> {
        let method = Method::DelegatedJwtBundles;
        let exchange = self.0.arrive(method, BTreeSet::new(), Vec::new()).await?;
        let checked = exchange.world().authorize();
        checked.map_err(|status| exchange.refuse(status))?;
        Ok(Response::new(exchange.stream(|world, _| {
            world.authorize()?;
            let bundles = world.authority.jwt_bundles();
            Ok(Composed::lasting(JwtBundlesResponse { bundles }))
        })))
    }
}

fn texts(selectors: &[Selector]) -> BTreeSet<String> {
    let text = |selector: &Selector| format!("{}:{}", selector.kind, selector.value);
    selectors.iter().map(text).collect()
}

fn validate(selectors: &[Selector]) -> Result<(), Status> {
    if selectors.is_empty() {
        return Err(Status::invalid_argument(
            "must provide either selectors or non-zero PID, but not both",
        ));
    }
    let malformed = |selector: &Selector| {
        selector.kind.is_empty() || selector.kind.contains(':') || selector.value.is_empty()
    };
    if selectors.iter().any(malformed) {
        return Err(Status::invalid_argument(
            "could not parse provided selectors",
        ));
    }
    Ok(())
}

fn parts(spiffe_id: &str) -> SpiffeId {
    let rest = spiffe_id.strip_prefix("spiffe://").unwrap_or(spiffe_id);
    let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    SpiffeId {
        trust_domain: trust_domain.to_owned(),
        path: path.to_owned(),
    }
}
