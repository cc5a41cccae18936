//! Metrics of the identity API: outcomes flow in, counted series flow out.

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use shared::errors::Code;

/// Counts identity requests. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    requests: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry
            .sub_registry_with_prefix("argocd_identity")
            .register(
                "identity_requests",
                "Identity requests that were answered, by outcome: issued, or an error code",
                metrics.requests.clone(),
            );
        metrics
    }

    /// Counts an answer: `None` for a token.
    pub(super) fn answered(&self, refused: Option<Code>) {
        let outcome = refused.map_or("issued", Code::as_str);
        self.requests.get_or_create(&[("outcome", outcome)]).inc();
    }
}
