//! Admission: one request body flows in, one answer flows out.
//!
//! ```text
//! bytes ─▶ review::parse ─▶ pods | workloads | secrets ─▶ Verdict ─▶ review::render ─▶ bytes
//! ```
//!
//! Architecture invariant: everything below this module decides from the
//! request, static configuration and random bytes that it is given alone. There
//! is no API call, no clock, no key and no logging, so the same request gives
//! the same answer with the same bytes, and a patched object gives an empty
//! patch.

mod annotations;
pub mod patch;
pub mod pods;
pub mod review;
pub mod secrets;
pub mod workloads;

use std::collections::BTreeSet;

use serde::Deserialize;
use shared::errors::{Code, Named};

use self::{
    patch::Patch,
    pods::{Entry, PodConfig, PodView},
    review::Request,
    secrets::SecretRules,
};
use crate::proxy_key::KeyBytes;

/// Gives the random bytes of a new key; `None` where there are none.
pub type Draw<'a> = dyn FnMut() -> Option<KeyBytes> + 'a;

/// A decision needs random bytes, and there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRandomness;

/// The entries of the webhook configuration, each with a path of its own:
/// requests carry no namespace labels, so the path says what selected them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// Pods in a namespace whose label opts in.
    PodsNamespace,
    /// Pods with an annotation of ours.
    Pods,
    /// Deployments, StatefulSets and ArgoCD resources.
    Workloads,
    /// Repository and cluster Secrets.
    Secrets,
}

impl Path {
    /// Every path.
    pub const ALL: [Self; 4] = [
        Self::PodsNamespace,
        Self::Pods,
        Self::Workloads,
        Self::Secrets,
    ];

    /// The path of the URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PodsNamespace => "/mutate/pods/namespace",
            Self::Pods => "/mutate/pods",
            Self::Workloads => "/mutate/workloads",
            Self::Secrets => "/mutate/secrets",
        }
    }
}

/// Why an object was left alone. Becomes a metric label, so the set is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Skip {
    /// Nothing asks for injection.
    NotOptedIn,
    /// The nearest annotation says `disabled`.
    OptedOut,
    /// No component of Argo CD that uses credentials.
    NotArgoCd,
    /// The pod shares its node's network.
    HostNetwork,
    /// No container is left to inject.
    NoContainer,
    /// The Argo CD operator owns the workload and would undo changes.
    OperatorOwned,
    /// A Secret without workload identity.
    NotWorkloadIdentity,
    /// The control plane does not serve the namespace.
    NamespaceNotServed,
    /// An operation or sub-resource that no decision is made for.
    OtherOperation,
    /// A kind that no decision is made for.
    OtherKind,
    /// The object does not have the shape of its kind.
    Unreadable,
}

impl Skip {
    /// The reason in kebab case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotOptedIn => "not-opted-in",
            Self::OptedOut => "opted-out",
            Self::NotArgoCd => "not-argo-cd",
            Self::HostNetwork => "host-network",
            Self::NoContainer => "no-container",
            Self::OperatorOwned => "operator-owned",
            Self::NotWorkloadIdentity => "not-workload-identity",
            Self::NamespaceNotServed => "namespace-not-served",
            Self::OtherOperation => "other-operation",
            Self::OtherKind => "other-kind",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What happens to the object.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is allowed as it is; no decision was made about it.
    Skip(Skip),
    /// It is allowed with these changes; none if it already has them.
    Patch(Patch),
    /// It is refused.
    Deny(Named),
}

/// What happens to the object, and what its author is told besides.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What happens to the object.
    pub outcome: Outcome,
    /// Shown by kubectl; the object is allowed or refused regardless.
    pub warnings: Vec<Named>,
}

impl Verdict {
    /// Leaves the object alone.
    pub fn skip(reason: Skip, warnings: Vec<Named>) -> Self {
        Self {
            outcome: Outcome::Skip(reason),
            warnings,
        }
    }

    /// Changes the object, or finds nothing to change.
    pub fn patch(patch: Patch, warnings: Vec<Named>) -> Self {
        Self {
            outcome: Outcome::Patch(patch),
            warnings,
        }
    }

    /// Refuses the object.
    pub fn deny(error: Named, warnings: Vec<Named>) -> Self {
        Self {
            outcome: Outcome::Deny(error),
            warnings,
        }
    }

    /// The verdict as a label.
    pub fn label(&self) -> Label {
        match &self.outcome {
            Outcome::Skip(_) => Label::Skip,
            Outcome::Patch(patch) if patch.is_empty() => Label::Keep,
            Outcome::Patch(_) => Label::Patch,
            Outcome::Deny(_) => Label::Deny,
        }
    }
}

/// A verdict in one word, for metrics, logs and audit annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Label {
    /// No decision was made about the object.
    Skip,
    /// The object is already as it should be.
    Keep,
    /// The object is changed.
    Patch,
    /// The object is refused.
    Deny,
}

impl Label {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Keep => "keep",
            Self::Patch => "patch",
            Self::Deny => "deny",
        }
    }
}

/// The static configuration of all decisions.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The namespaces that are served; `None` for each.
    pub namespaces: Option<BTreeSet<String>>,
    /// What pods get.
    pub pods: PodConfig,
    /// What becomes of Secrets.
    pub secrets: SecretRules,
}

/// The decision about a request and what the log says it was about.
#[derive(Debug)]
pub struct Review {
    /// The request's uid.
    pub uid: String,
    /// `namespace/name`, as far as they are known.
    pub reference: String,
    /// The decision.
    pub verdict: Verdict,
    /// The answer's body.
    pub body: Vec<u8>,
}

/// Why there is no answer in the shape of an AdmissionReview.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Neither the request nor its uid can be read.
    #[error(transparent)]
    Request(review::Unreadable),
    /// A new key is needed, and there are no random bytes.
    #[error("there are no random bytes for a new key")]
    Randomness,
    /// The answer cannot be written.
    #[error("the answer cannot be written")]
    Response(#[source] serde_json::Error),
}

/// Answers one request body. `draw` is asked at most once, and for a Secret
/// that needs a new key only.
///
/// # Errors
/// When the body is no AdmissionReview whose uid can be told, or there are no
/// random bytes for a key.
pub fn review(
    path: Path,
    body: &[u8],
    rules: &Rules,
    draw: &mut Draw<'_>,
) -> Result<Review, Refusal> {
    let (uid, reference, verdict) = match review::parse(body) {
        Ok(request) => (
            request.uid.to_string(),
            request.reference(),
            decide(path, &request, rules, draw).map_err(|NoRandomness| Refusal::Randomness)?,
        ),
        Err(mut unreadable) => match unreadable.uid.take() {
            None => return Err(Refusal::Request(unreadable)),
            Some(uid) => {
                let verdict = Verdict::skip(Skip::Unreadable, Vec::new());
                (uid, "-/-".to_owned(), verdict)
            }
        },
    };
    let body = review::render(&uid, &verdict).map_err(Refusal::Response)?;
    Ok(Review {
        uid,
        reference,
        verdict,
        body,
    })
}

fn decide(
    path: Path,
    request: &Request<'_>,
    rules: &Rules,
    draw: &mut Draw<'_>,
) -> Result<Verdict, NoRandomness> {
    let unserved = rules.unserved(request);
    let verdict = match path {
        Path::PodsNamespace => decide_pod(request, Entry::Namespace, &rules.pods),
        Path::Pods => decide_pod(request, Entry::Annotation, &rules.pods),
        Path::Workloads => workloads::decide(request),
        Path::Secrets => secrets::decide(request, &rules.secrets, draw)?,
    };
    Ok(match (unserved, &verdict.outcome) {
        (Some(warning), Outcome::Patch(_) | Outcome::Deny(_)) => {
            Verdict::skip(Skip::NamespaceNotServed, vec![warning])
        }
        _ => verdict,
    })
}

impl Rules {
    /// Why nothing that asks for something gets it: no binding would ever be
    /// made for it.
    fn unserved(&self, request: &Request<'_>) -> Option<Named> {
        let namespace = request.namespace.as_deref()?;
        let served = self.namespaces.as_ref()?;
        (!served.contains(namespace))
            .then(|| Named::new(Code::NamespaceNotServed, format!("namespace {namespace}")))
    }
}

fn decide_pod(request: &Request<'_>, entry: Entry, config: &PodConfig) -> Verdict {
    if request.kind.group_kind() != ("", "Pod") {
        return Verdict::skip(Skip::OtherKind, Vec::new());
    }
    // What a pod mounts cannot change after its creation.
    if request.operation != review::Operation::Create || request.is_sub_resource() {
        return Verdict::skip(Skip::OtherOperation, Vec::new());
    }
    match read::<PodView<'_>>(request.object) {
        Some(pod) => pods::decide(&pod, entry, config),
        None => Verdict::skip(Skip::Unreadable, Vec::new()),
    }
}

/// The view `T` of an object, or `None` if it does not have that shape.
pub fn read<'a, T: Deserialize<'a>>(object: Option<&'a serde_json::value::RawValue>) -> Option<T> {
    let text = object?.get();
    // serde would also read a list as a struct, field by field.
    text.starts_with('{')
        .then(|| serde_json::from_str(text).ok())?
}

#[cfg(test)]
mod tests;
