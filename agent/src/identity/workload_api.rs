//! The SPIFFE Workload API of the agent's own pod as a [`Wire`]: a SPIFFE ID
//! that is registered for this pod flows in, its SVIDs flow out. It needs no
//! admin socket, and works with every implementation of the standard.

use futures::StreamExt;
use secrecy::SecretString;
use shared::errors::{Code, Named};
use spiffe::transport::{Endpoint, TransportError};
use spiffe::workload_api::WorkloadApiError;
use spiffe::{JwtBundleSet, SpiffeId, WorkloadApiClient, X509BundleSet, X509Svid};
use tokio::sync::OnceCell;
use tonic::Status;

use super::wire::{Ask, Updates, Wire, fault, place};
use crate::exchange::http::{causes, redact};

/// The Workload API's socket in the agent's pod.
pub struct WorkloadApi {
    endpoint: Endpoint,
    client: OnceCell<WorkloadApiClient>,
}

impl WorkloadApi {
    /// Asks at this endpoint. Nothing is opened before the first call.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            client: OnceCell::new(),
        }
    }

    async fn client(&self) -> Result<&WorkloadApiClient, Named> {
        self.client
            .get_or_try_init(|| WorkloadApiClient::connect(self.endpoint.clone()))
            .await
            .map_err(|error| named(&error))
    }
}

impl Wire for WorkloadApi {
    fn place(&self) -> String {
        place(&self.endpoint)
    }

    fn asked(&self, ask: &Ask) -> String {
        format!("SPIFFE ID {}, {}", ask.subject, self.place())
    }

    async fn tokens(&self, ask: &Ask) -> Result<Vec<SecretString>, Named> {
        let id = SpiffeId::new(&ask.subject)
            .map_err(|error| Named::new(Code::SpiffeIdNotIssued, error.to_string()))?;
        let client = self.client().await?;
        let svids = client.fetch_all_jwt_svids([&ask.audience], Some(&id)).await;
        let svids = svids.map_err(|error| named(&error))?;
        Ok(svids
            .iter()
            .map(|svid| SecretString::from(svid.token()))
            .collect())
    }

    async fn certificates(&self, _ask: &Ask) -> Result<Updates<Vec<X509Svid>>, Named> {
        let contexts = self.client().await?.stream_x509_contexts().await;
        let contexts = contexts.map_err(|error| named(&error))?;
        let updates = contexts.map(|context| match context {
            Ok(context) => Ok(context
                .svids()
                .iter()
                .map(|svid| (**svid).clone())
                .collect()),
            Err(error) => Err(named(&error)),
        });
        Ok(updates.boxed())
    }

    async fn jwt_bundles(&self) -> Result<Updates<JwtBundleSet>, Named> {
        let bundles = self.client().await?.stream_jwt_bundles().await;
        let bundles = bundles.map_err(|error| named(&error))?;
        Ok(bundles.map(|it| it.map_err(|error| named(&error))).boxed())
    }

    async fn x509_bundles(&self) -> Result<Updates<X509BundleSet>, Named> {
        let bundles = self.client().await?.stream_x509_bundles().await;
        let bundles = bundles.map_err(|error| named(&error))?;
        Ok(bundles.map(|it| it.map_err(|error| named(&error))).boxed())
    }
}

/// The client's errors in the catalogue's terms.
fn named(error: &WorkloadApiError) -> Named {
    match error {
        WorkloadApiError::NoIdentityIssued => fault(&Status::permission_denied(error.to_string())),
        WorkloadApiError::PermissionDenied(words) => fault(&Status::permission_denied(words)),
        WorkloadApiError::Transport(TransportError::Connect(cause)) => {
            Named::new(Code::SpireAgentAbsent, redact(&causes(cause)))
        }
        WorkloadApiError::Transport(TransportError::Status(status)) => {
            match std::error::Error::source(status).and_then(<dyn std::error::Error>::downcast_ref)
            {
                Some(status) => fault(status),
                None => Named::new(Code::SpireUnavailable, redact(&status.to_string())),
            }
        }
        other => Named::new(Code::SpireUnavailable, redact(&causes(other))),
    }
}
