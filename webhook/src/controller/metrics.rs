//! Metrics of the controller: what it did flows in, counted series flow out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

type Labels<const N: usize> = [(&'static str, String); N];

/// The controller's metrics. Clones share their values.
#[derive(Debug, Clone)]
pub struct Metrics {
    leading: Gauge,
    reconciliations: Family<[(&'static str, &'static str); 1], Counter>,
    latency: Histogram,
    waiting: Gauge,
    bindings: Gauge,
    known_namespaces: Gauge,
    synced: Family<Labels<2>, Gauge>,
    restarts: Family<Labels<2>, Counter>,
    heard: Family<Labels<2>, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            leading: Gauge::default(),
            reconciliations: Family::default(),
            latency: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
            waiting: Gauge::default(),
            bindings: Gauge::default(),
            known_namespaces: Gauge::default(),
            synced: Family::default(),
            restarts: Family::default(),
            heard: Family::default(),
        }
    }
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
        registry.register(
            "controller_reconciliation_seconds",
            "Duration of a look at a binding",
            metrics.latency.clone(),
        );
        registry.register(
            "controller_queue_depth",
            "Bindings that wait for a look, now or at a time that is known",
            metrics.waiting.clone(),
        );
        registry.register(
            "controller_bindings",
            "Bindings that this process knows",
            metrics.bindings.clone(),
        );
        registry.register(
            "controller_synced_namespaces",
            "Argo CD namespaces whose bindings have been listed",
            metrics.known_namespaces.clone(),
        );
        registry.register(
            "controller_watch_synced",
            "1 once the watch has brought a whole list",
            metrics.synced.clone(),
        );
        registry.register(
            "controller_watch_failures",
            "Failures after which a watch was started again",
            metrics.restarts.clone(),
        );
        registry.register(
            "controller_watch_last_event_timestamp_seconds",
            "When the watch last brought an event, in seconds since 1970",
            metrics.heard.clone(),
        );
        metrics
    }

    /// Says that this process leads, until the value is dropped.
    pub(super) fn lead(&self) -> Leading {
        self.leading.set(1);
        Leading(self.leading.clone())
    }

    pub(super) fn reconciled(&self, ok: bool, took: Duration) {
        let result = if ok { "ok" } else { "error" };
        self.reconciliations
            .get_or_create(&[("result", result)])
            .inc();
        self.latency.observe(took.as_secs_f64());
    }

    pub(super) fn known(&self, waiting: usize, bindings: usize, namespaces: usize) {
        for (gauge, count) in [
            (&self.waiting, waiting),
            (&self.bindings, bindings),
            (&self.known_namespaces, namespaces),
        ] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// The series of one watch; `namespace` is empty for all of them.
    pub(super) fn watch(&self, what: &'static str, namespace: &str) -> Watch {
        let labels = [
            ("resource", what.to_owned()),
            ("namespace", namespace.to_owned()),
        ];
        let synced = self.synced.get_or_create_owned(&labels);
        synced.set(0);
        Watch {
            what,
            synced,
            restarts: self.restarts.get_or_create_owned(&labels),
            heard: self.heard.get_or_create_owned(&labels),
        }
    }
}

/// The series of one watch.
pub(super) struct Watch {
    what: &'static str,
    synced: Gauge,
    restarts: Counter,
    heard: Gauge,
}

impl Watch {
    pub(super) fn what(&self) -> &'static str {
        self.what
    }

    pub(super) fn heard(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.unwrap_or_default().as_secs();
        self.heard.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    pub(super) fn failed(&self) {
        self.restarts.inc();
    }

    pub(super) fn synced(&self) {
        self.synced.set(1);
    }
}

pub(super) struct Leading(Gauge);

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.set(0);
    }
}
