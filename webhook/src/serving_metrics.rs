//! Metrics of what every listener serves with: certificates that were loaded
//! flow in, counted series flow out.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The metrics of the serving certificate. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct ServingMetrics {
    certificate_loads: Family<[(&'static str, &'static str); 1], Counter>,
    certificate_expiry: Gauge,
}

impl ServingMetrics {
    /// Registers the metrics, all at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("argocd_identity");
        registry.register(
            "certificate_loads",
            "Attempts to load a changed serving certificate",
            metrics.certificate_loads.clone(),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the serving certificate expires; 0 while there is none",
            metrics.certificate_expiry.clone(),
        );
        metrics
    }

    /// Counts an attempt to load a changed certificate. `expiry` is that of
    /// the certificate in Unix seconds, `None` if it was not taken.
    pub fn certificate_loaded(&self, expiry: Option<i64>) {
        let result = match expiry {
            Some(_) => "ok",
            None => "error",
        };
        let labels = [("result", result)];
        self.certificate_loads.get_or_create(&labels).inc();
        if let Some(expiry) = expiry {
            self.certificate_expiry.set(expiry);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn certificates_are_counted_and_the_last_good_one_dated() {
        let mut registry = Registry::default();
        let metrics = ServingMetrics::register(&mut registry);
        metrics.certificate_loaded(Some(1_900_000_000));
        metrics.certificate_loaded(None);
        let mut out = String::new();
        text::encode(&mut out, &registry).unwrap();
        for line in [
            r#"argocd_identity_certificate_loads_total{result="ok"} 1"#,
            r#"argocd_identity_certificate_loads_total{result="error"} 1"#,
            "argocd_identity_certificate_expiry_timestamp_seconds 1900000000",
        ] {
            assert!(out.contains(line), "{line}\n{out}");
        }
    }
}
