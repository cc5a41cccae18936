//! Prometheus metrics: verdicts and events flow in, counted series flow out.
//!
//! Every label is a closed enum, so that no request can make a new series.

use std::{fmt, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use shared::errors::Code;

use crate::admission::{Label, Outcome, Path, Skip, Verdict};

/// Upper bounds in seconds: an API server waits for up to 10 s, a decision
/// takes far less than a millisecond.
const LATENCY: [f64; 10] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0,
];

/// The metrics of admission and serving. Clones share their values.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    latency: Family<PathLabels, Histogram, fn() -> Histogram>,
    skips: Family<SkipLabels, Counter>,
    denials: Family<CodeLabels, Counter>,
    warnings: Family<CodeLabels, Counter>,
    certificate_loads: Family<LoadLabels, Counter>,
    certificate_expiry: Gauge,
}

impl Metrics {
    /// Registers the metrics, all at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            refusals: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(LATENCY)),
            skips: Family::default(),
            denials: Family::default(),
            warnings: Family::default(),
            certificate_loads: Family::default(),
            certificate_expiry: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("argocd_identity");
        registry.register(
            "admission_requests",
            "Admission requests that were answered, by path and verdict",
            metrics.requests.clone(),
        );
        registry.register(
            "admission_refusals",
            "Requests that were not answered with an AdmissionReview",
            metrics.refusals.clone(),
        );
        registry.register(
            "admission_seconds",
            "Time from the whole body to the answer",
            metrics.latency.clone(),
        );
        registry.register(
            "admission_skips",
            "Objects that were left alone, by reason",
            metrics.skips.clone(),
        );
        registry.register(
            "admission_denials",
            "Objects that were refused, by error code",
            metrics.denials.clone(),
        );
        registry.register(
            "admission_warnings",
            "Warnings that were given, by error code",
            metrics.warnings.clone(),
        );
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

    /// Counts an answered admission request.
    pub fn answered(&self, path: Path, verdict: &Verdict, took: Duration) {
        let label = verdict.label();
        self.requests
            .get_or_create(&RequestLabels {
                path,
                verdict: label,
            })
            .inc();
        self.latency
            .get_or_create(&PathLabels { path })
            .observe(took.as_secs_f64());
        for warning in &verdict.warnings {
            let code = CodeLabel(warning.code);
            self.warnings.get_or_create(&CodeLabels { code }).inc();
        }
        match &verdict.outcome {
            Outcome::Skip(reason) => {
                let reason = *reason;
                self.skips.get_or_create(&SkipLabels { path, reason }).inc();
            }
            Outcome::Deny(error) => {
                let code = CodeLabel(error.code);
                self.denials.get_or_create(&CodeLabels { code }).inc();
            }
            Outcome::Patch(_) => {}
        }
    }

    /// Counts a request that got no AdmissionReview.
    pub fn refused(&self, path: Path, reason: Refused) {
        let labels = RefusalLabels { path, reason };
        self.refusals.get_or_create(&labels).inc();
    }

    /// Counts an attempt to load a changed certificate. `expiry` is that of
    /// the certificate in Unix seconds, `None` if it was not taken.
    pub fn certificate_loaded(&self, expiry: Option<i64>) {
        let result = match expiry {
            Some(_) => Load::Ok,
            None => Load::Error,
        };
        self.certificate_loads
            .get_or_create(&LoadLabels { result })
            .inc();
        if let Some(expiry) = expiry {
            self.certificate_expiry.set(expiry);
        }
    }
}

/// Why a request got no AdmissionReview.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The content type is not JSON.
    ContentType,
    /// The body is larger than the limit.
    TooLarge,
    /// The body did not arrive in time, or not whole.
    Incomplete,
    /// The body is no AdmissionReview.
    Unreadable,
    /// The answer could not be made.
    Internal,
}

impl Refused {
    const fn as_str(self) -> &'static str {
        match self {
            Self::ContentType => "content-type",
            Self::TooLarge => "too-large",
            Self::Incomplete => "incomplete",
            Self::Unreadable => "unreadable",
            Self::Internal => "internal",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Load {
    Ok,
    Error,
}

impl Load {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct CodeLabel(Code);

impl CodeLabel {
    const fn as_str(self) -> &'static str {
        self.0.as_str()
    }
}

macro_rules! label_values {
    ($($name:ident)*) => {$(
        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }
    )*};
}

label_values! { Path Label Skip Refused Load CodeLabel }

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    path: Path,
    verdict: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    path: Path,
    reason: Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathLabels {
    path: Path,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SkipLabels {
    path: Path,
    reason: Skip,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: CodeLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoadLabels {
    result: Load,
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;
    use shared::errors::Named;

    use super::*;

    #[test]
    fn verdicts_are_counted_by_path_reason_and_code() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let took = Duration::from_micros(80);
        let conflict = Named::new(Code::MountConflict, "c: /binaries is left out");
        metrics.answered(
            Path::Pods,
            &Verdict::skip(Skip::OptedOut, vec![conflict.clone()]),
            took,
        );
        metrics.answered(Path::Secrets, &Verdict::deny(conflict, Vec::new()), took);
        metrics.refused(Path::Pods, Refused::TooLarge);
        metrics.certificate_loaded(None);
        metrics.certificate_loaded(Some(1_900_000_000));

        let mut out = String::new();
        text::encode(&mut out, &registry).unwrap();
        for line in [
            r#"argocd_identity_admission_requests_total{path="/mutate/pods",verdict="skip"} 1"#,
            r#"argocd_identity_admission_requests_total{path="/mutate/secrets",verdict="deny"} 1"#,
            r#"argocd_identity_admission_skips_total{path="/mutate/pods",reason="opted-out"} 1"#,
            r#"argocd_identity_admission_warnings_total{code="mount-conflict"} 1"#,
            r#"argocd_identity_admission_denials_total{code="mount-conflict"} 1"#,
            r#"argocd_identity_admission_refusals_total{path="/mutate/pods",reason="too-large"} 1"#,
            r#"argocd_identity_admission_seconds_bucket{le="0.0001",path="/mutate/pods"} 1"#,
            r#"argocd_identity_certificate_loads_total{result="error"} 1"#,
            r#"argocd_identity_certificate_expiry_timestamp_seconds 1900000000"#,
        ] {
            assert!(out.contains(line), "{line}\n{out}");
        }
    }
}
