//! `SpiffeWorkloadAPI`, on the workloads' socket. Statuses, their texts and the order of the checks are those of
//! SPIRE 1.x; what attestors find about the caller is the test's to say.

use std::sync::Arc;

use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::agent::{Agent, Composed, Exchange, Messages};
use super::journal::Method;
use super::proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtSvid, JwtSvidRequest, JwtSvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509Svid, X509SvidRequest, X509SvidResponse,
};
use super::services::spiffe_workload_a_p_i_server::SpiffeWorkloadAPI;
use super::world::{Entry, no_identity};

pub(super) struct Workload(pub(super) Arc<Agent>);

impl Workload {
    /// Begins a call, if it has the header that a request forged through a browser or proxy cannot have.
    async fn arrive(
        &self,
        method: Method,
        metadata: &MetadataMap,
        audience: Vec<String>,
    ) -> Result<Exchange, Status> {
        let selectors = self.0.world().workload.clone();
        let exchange = self.0.arrive(method, selectors, audience).await?;
        if metadata
            .get("workload.spiffe.io")
            .is_none_or(|it| it != "true")
        {
            let status = Status::invalid_argument("security header missing from request");
            return Err(exchange.refuse(status));
        }
        Ok(exchange)
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadAPI for Workload {
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;
    type FetchX509SVIDStream = Messages<X509SvidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;

    async fn fetch_jwt_svid(
        &self,
        request: Request<JwtSvidRequest>,
    ) -> Result<Response<JwtSvidResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let audience = request.audience;
        let method = Method::WorkloadJwtSvid;
        let exchange = self.arrive(method, &metadata, audience.clone()).await?;
        let asked = request.spiffe_id;
        let entries = || {
            if audience.is_empty() {
                return Err(Status::invalid_argument("audience must be specified"));
            }
            if !asked.is_empty() && !asked.starts_with("spiffe://") {
                let text = "invalid requested SPIFFE ID: scheme is missing or invalid";
                return Err(Status::invalid_argument(text));
            }
            let mut entries = exchange.world().matching(exchange.selectors());
            entries.retain(|entry| asked.is_empty() || entry.spiffe_id == asked);
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
                spiffe_id: entry.spiffe_id.clone(),
                svid: jwt.token,
            })
        };
        let svids: Result<_, Status> = entries.iter().map(svid).collect();
        let svids = svids.map_err(|status| exchange.refuse(status))?;
        let answer = exchange.answer(&entries, JwtSvidResponse { svids });
        Ok(Response::new(answer))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let method = Method::WorkloadJwtBundles;
        let exchange = self.arrive(method, request.metadata(), Vec::new()).await?;
        Ok(Response::new(exchange.stream(|world, selectors| {
            if world.entries_for(selectors).next().is_none() {
                return Err(no_identity());
            }
            let bundles = world.authority.jwt_bundles();
            Ok(Composed::lasting(JwtBundlesResponse { bundles }))
        })))
    }

    async fn fetch_x509_svid(
        &self,
        request: Request<X509SvidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let method = Method::WorkloadX509Svid;
        let exchange = self.arrive(method, request.metadata(), Vec::new()).await?;
        let entries = exchange.world().matching(exchange.selectors());
        let suffered = exchange.suffer(&entries).await;
        suffered.map_err(|status| exchange.refuse(status))?;
        let first: Vec<String> = entries.into_iter().map(|entry| entry.spiffe_id).collect();
        Ok(Response::new(exchange.stream(move |world, selectors| {
            let mut entries: Vec<Entry> = world.entries_for(selectors).cloned().collect();
            if entries.is_empty() {
                return Err(no_identity());
            }
            // Each stream has an order of its own, and keeps it.
            entries.sort_by_key(|entry| first.iter().position(|id| *id == entry.spiffe_id));
            let mut federated_bundles = world.authority.x509_bundles();
            let own = world.authority.trust_domain_id();
            let bundle = federated_bundles.remove(&own).unwrap_or_default();
            let svid = |entry: &Entry| {
                let certificate = world.x509_svid(entry)?;
                Ok(X509Svid {
                    spiffe_id: entry.spiffe_id.clone(),
                    x509_svid: certificate.chain.concat(),
                    x509_svid_key: certificate.key,
                    bundle: bundle.clone(),
                })
            };
            let svids: Result<_, Status> = entries.iter().map(svid).collect();
            let message = X509SvidResponse {
                svids: svids?,
                federated_bundles,
            };
            Ok(Composed {
                message,
                again_after: world.until_renewal(&entries),
                entries,
            })
        })))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let method = Method::WorkloadX509Bundles;
        let exchange = self.arrive(method, request.metadata(), Vec::new()).await?;
        Ok(Response::new(exchange.stream(|world, selectors| {
            if world.entries_for(selectors).next().is_none() {
                return Err(no_identity());
            }
            let bundles = world.authority.x509_bundles();
            Ok(Composed::lasting(X509BundlesResponse { bundles }))
        })))
    }
}
