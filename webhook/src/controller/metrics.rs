//! Metrics of the controller: what it did flows in, counted series flow out.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The controller's metrics. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    leading: Gauge,
    reconciliations: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("argocd_identity");
        registry.register(
            "controller_leading",
            "1 while this process runs the controller",
            metrics.leading.clone(),
        );
        registry.register(
            "controller_reconciliations",
            "Looks at a binding, by result",
            metrics.reconciliations.clone(),
        );
        metrics
    }

    /// Says that this process leads, until the value is dropped.
    pub(super) fn lead(&self) -> Leading {
        self.leading.set(1);
        Leading(self.leading.clone())
    }

    pub(super) fn reconciled(&self, ok: bool) {
        let result = if ok { "ok" } else { "error" };
        self.reconciliations
            .get_or_create(&[("result", result)])
            .inc();
    }
}

pub(super) struct Leading(Gauge);

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.set(0);
    }
}
