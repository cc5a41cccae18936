//! Metrics of admission: verdicts flow in, counted series flow out.
//!
//! Every label is a word of a closed enum, so that no request can make a new
//! series.

use std::time::Duration;

use control_plane_core::admission::{Outcome, Path, Verdict};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// Upper bounds in seconds: an API server waits for up to 10 s, a decision
/// takes far less than a millisecond.
const LATENCY: [f64; 10] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0,
];

/// The metrics of admission. Clones share their values.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    latency: Family<PathLabels, Histogram, fn() -> Histogram>,
    skips: Family<SkipLabels, Counter>,
    denials: Family<CodeLabels, Counter>,
    warnings: Family<CodeLabels, Counter>,
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
        metrics
    }

    /// Counts an answered admission request.
    pub fn answered(&self, path: Path, verdict: &Verdict, took: Duration) {
        let path = path.as_str();
        let label = verdict.label().as_str();
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
            let code = warning.code.as_str();
            self.warnings.get_or_create(&CodeLabels { code }).inc();
        }
        match &verdict.outcome {
            Outcome::Skip(reason) => {
                let reason = reason.as_str();
                self.skips.get_or_create(&SkipLabels { path, reason }).inc();
            }
            Outcome::Deny(error) => {
                let code = error.code.as_str();
                self.denials.get_or_create(&CodeLabels { code }).inc();
            }
            Outcome::Patch(_) => {}
        }
    }

    /// Counts a request that got no AdmissionReview.
    pub fn refused(&self, path: Path, reason: Refused) {
        let (path, reason) = (path.as_str(), reason.as_str());
        let labels = RefusalLabels { path, reason };
        self.refusals.get_or_create(&labels).inc();
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
    /// Too much is under way.
    Busy,
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
            Self::Busy => "busy",
            Self::Internal => "internal",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    path: &'static str,
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    path: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathLabels {
    path: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SkipLabels {
    path: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

#[cfg(test)]
mod tests {
    use control_plane_core::admission::Skip;
    use prometheus_client::encoding::text;
    use shared::errors::{Code, Named};

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
        ] {
            assert!(out.contains(line), "{line}\n{out}");
        }
    }
}
