//! Carries the opt-in of a workload to its pods: a Deployment, StatefulSet or
//! ArgoCD resource flows in, a patch of the annotations of its pod templates
//! flows out. Pure.
//!
//! The webhook's copy is marked, so that it goes when the workload's own
//! annotation goes, and so that what a user wrote in the template, which is
//! nearer to the pod, is never touched.

use serde::Deserialize;
use serde_json::json;
use shared::errors::{Code, Named};

use super::{
    Skip, Verdict,
    annotations::OurAnnotations,
    patch::{Patch, Slot},
    read,
    review::{Operation, Request, Text},
};
use crate::annotations::{INJECT, INJECT_SOURCE, INJECT_SOURCE_WORKLOAD, Inject};

const ARGO_CD_GROUP: &str = "argoproj.io";
const ARGO_CD_KIND: &str = "ArgoCD";

/// Decides about a Deployment, a StatefulSet or an ArgoCD resource.
pub fn decide(request: &Request<'_>) -> Verdict {
    if !matches!(request.operation, Operation::Create | Operation::Update)
        || request.is_sub_resource()
    {
        return Verdict::skip(Skip::OtherOperation, Vec::new());
    }
    match request.kind.group_kind() {
        ("apps", "Deployment" | "StatefulSet") => decide_as::<Workload<'_>>(request),
        (ARGO_CD_GROUP, ARGO_CD_KIND) => decide_as::<ArgoCd<'_>>(request),
        _ => Verdict::skip(Skip::OtherKind, Vec::new()),
    }
}

fn decide_as<'a, T: PodOwner<'a>>(request: &Request<'a>) -> Verdict {
    let Some(new) = read::<T>(request.object) else {
        return Verdict::skip(Skip::Unreadable, Vec::new());
    };
    let old = match request.operation {
        Operation::Update => read::<T>(request.old_object),
        Operation::Create | Operation::Other => None,
    };
    if new.metadata().is_some_and(Metadata::is_operators) {
        return Verdict::skip(Skip::OperatorOwned, Vec::new());
    }
    let wanted = annotation(new.metadata(), INJECT);
    let copy = match wanted.map(|value| (value, Inject::parse(value))) {
        None => None,
        Some((_, Some(inject))) => Some(inject),
        Some((value, None)) => {
            let error = invalid(request, value);
            let before = old
                .as_ref()
                .and_then(|old| annotation(old.metadata(), INJECT));
            return if before == Some(value) {
                Verdict::skip(Skip::NotOptedIn, vec![error])
            } else {
                Verdict::deny(error, Vec::new())
            };
        }
    };
    let mut patch = Patch::new();
    for place in T::PLACES {
        let before = old.as_ref().map(|old| Template::of(old.annotations(place)));
        let template = Template::of(new.annotations(place));
        template.write(copy, before, &new.slot(place), &mut patch);
    }
    if patch.is_empty() && wanted.is_none() {
        return Verdict::skip(Skip::NotOptedIn, Vec::new());
    }
    Verdict::patch(patch, Vec::new())
}

fn invalid(request: &Request<'_>, value: &str) -> Named {
    let shown: String = value.chars().take(64).collect();
    Named::new(
        Code::InvalidAnnotation,
        format!(
            "{} {}, {INJECT}: `{}` is not enabled or disabled",
            request.kind.kind,
            request.reference(),
            shown.escape_debug()
        ),
    )
}

fn annotation<'m>(metadata: Option<&'m Metadata<'_>>, name: &str) -> Option<&'m str> {
    metadata?.annotations.as_ref()?.find(name)
}

/// The annotations of ours in one pod template.
#[derive(Debug, Clone, Copy)]
struct Template<'t> {
    inject: Option<&'t str>,
    is_marked: bool,
}

impl<'t> Template<'t> {
    fn of(annotations: Option<&'t OurAnnotations<'_>>) -> Self {
        let find = |name| annotations.and_then(|annotations| annotations.find(name));
        Self {
            inject: find(INJECT),
            is_marked: find(INJECT_SOURCE) == Some(INJECT_SOURCE_WORKLOAD),
        }
    }

    /// Whether this request wrote another value over the webhook's copy, which
    /// makes it the user's.
    fn is_overwritten(&self, before: Option<Template<'_>>) -> bool {
        before.is_some_and(|before| {
            before.is_marked
                && before.inject.is_some()
                && self.inject.is_some()
                && before.inject != self.inject
        })
    }

    fn write(
        &self,
        copy: Option<Inject>,
        before: Option<Template<'_>>,
        slot: &Slot,
        patch: &mut Patch,
    ) {
        match copy.map(Inject::as_str) {
            // The user's own, or the copy as it should be.
            Some(_) if self.inject.is_some() && !self.is_marked => {}
            Some(copy) if self.inject == Some(copy) => {}
            Some(_) if self.is_overwritten(before) => patch.remove(slot, INJECT_SOURCE),
            Some(copy) => patch.set(
                slot,
                [
                    (INJECT, json!(copy)),
                    (INJECT_SOURCE, json!(INJECT_SOURCE_WORKLOAD)),
                ],
            ),
            None if !self.is_marked => {}
            None => {
                if self.inject.is_some() && !self.is_overwritten(before) {
                    patch.remove(slot, INJECT);
                }
                patch.remove(slot, INJECT_SOURCE);
            }
        }
    }
}

/// A resource with pod templates, at one or more places.
trait PodOwner<'a>: Deserialize<'a> {
    /// The templates' places.
    const PLACES: &'static [&'static str];

    fn metadata(&self) -> Option<&Metadata<'a>>;

    /// The annotations of the pod template at `place`.
    fn annotations(&self, place: &str) -> Option<&OurAnnotations<'a>>;

    /// Where they are.
    fn slot(&self, place: &str) -> Slot;
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    annotations: Option<OurAnnotations<'a>>,
    #[serde(borrow, default)]
    owner_references: Option<Vec<OwnerReference<'a>>>,
}

impl Metadata<'_> {
    /// Whether the Argo CD operator reconciles the object.
    fn is_operators(&self) -> bool {
        self.owner_references.iter().flatten().any(|owner| {
            let group = owner.api_version.split('/').next();
            group == Some(ARGO_CD_GROUP) && &*owner.kind == ARGO_CD_KIND
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnerReference<'a> {
    #[serde(borrow)]
    api_version: Text<'a>,
    #[serde(borrow)]
    kind: Text<'a>,
}

/// A Deployment or a StatefulSet.
#[derive(Debug, Deserialize)]
struct Workload<'a> {
    #[serde(borrow, default)]
    metadata: Option<Metadata<'a>>,
    #[serde(borrow, default)]
    spec: Option<WorkloadSpec<'a>>,
}

#[derive(Debug, Deserialize)]
struct WorkloadSpec<'a> {
    #[serde(borrow, default)]
    template: Option<PodTemplate<'a>>,
}

#[derive(Debug, Deserialize)]
struct PodTemplate<'a> {
    #[serde(borrow, default)]
    metadata: Option<Annotated<'a>>,
}

/// Anything with a member `annotations`.
#[derive(Debug, Deserialize)]
struct Annotated<'a> {
    #[serde(borrow, default)]
    annotations: Option<OurAnnotations<'a>>,
}

impl<'a> Workload<'a> {
    fn template(&self) -> Option<&PodTemplate<'a>> {
        self.spec.as_ref()?.template.as_ref()
    }
}

impl<'a> PodOwner<'a> for Workload<'a> {
    const PLACES: &'static [&'static str] = &["template"];

    fn metadata(&self) -> Option<&Metadata<'a>> {
        self.metadata.as_ref()
    }

    fn annotations(&self, _: &str) -> Option<&OurAnnotations<'a>> {
        self.template()?.metadata.as_ref()?.annotations.as_ref()
    }

    fn slot(&self, place: &str) -> Slot {
        let template = self.template();
        let metadata = template.and_then(|template| template.metadata.as_ref());
        Slot::root()
            .member("spec", self.spec.is_some())
            .member(place, template.is_some())
            .member("metadata", metadata.is_some())
            .member("annotations", self.annotations(place).is_some())
    }
}

/// The operator's resource. It hands `spec.<component>.annotations` to the pods
/// from operator 0.13 on (GitOps 1.15).
#[derive(Debug, Deserialize)]
struct ArgoCd<'a> {
    #[serde(borrow, default)]
    metadata: Option<Metadata<'a>>,
    #[serde(borrow, default)]
    spec: Option<ArgoCdSpec<'a>>,
}

#[derive(Debug, Deserialize)]
struct ArgoCdSpec<'a> {
    #[serde(borrow, default)]
    repo: Option<Annotated<'a>>,
    #[serde(borrow, default)]
    server: Option<Annotated<'a>>,
    #[serde(borrow, default)]
    controller: Option<Annotated<'a>>,
}

impl<'a> ArgoCd<'a> {
    fn component(&self, name: &str) -> Option<&Annotated<'a>> {
        let spec = self.spec.as_ref()?;
        match name {
            "repo" => spec.repo.as_ref(),
            "server" => spec.server.as_ref(),
            "controller" => spec.controller.as_ref(),
            _ => None,
        }
    }
}

impl<'a> PodOwner<'a> for ArgoCd<'a> {
    const PLACES: &'static [&'static str] = &["repo", "server", "controller"];

    fn metadata(&self) -> Option<&Metadata<'a>> {
        self.metadata.as_ref()
    }

    fn annotations(&self, place: &str) -> Option<&OurAnnotations<'a>> {
        self.component(place)?.annotations.as_ref()
    }

    fn slot(&self, place: &str) -> Slot {
        Slot::root()
            .member("spec", self.spec.is_some())
            .member(place, self.component(place).is_some())
            .member("annotations", self.annotations(place).is_some())
    }
}

#[cfg(test)]
mod tests;
