//! One look at one Secret and its binding: a key and what is known around it
//! flow in, at most one change of the binding and of its status flows out.
//!
//! [`plan`] decides; the rest carries it out.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use control_plane_core::{
    derive::{Derivation, object_name},
    proxy_key::accepted::Former,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::DynamicObject,
    runtime::events::EventType,
};
use serde_json::{Value, json};
use shared::{
    binding::{CredentialBindingSpec, GROUP, KIND, VERSION, undeliverable},
    errors::{Code, Named},
};

use super::{
    FIELD_MANAGER,
    binding::{Binding, resource},
    events::Events,
    status::{self, Circumstances, DEGRADED, READY, Verdict},
    world::{Key, Snapshot},
};
use crate::{
    issuer::keys::InForce,
    source::{self, Derived, Found, Owner},
};

/// Why a binding could not be brought up to date.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The API server refused or did not answer.
    #[error("{step} failed")]
    Api {
        /// What was tried.
        step: &'static str,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// It took too long.
    #[error("the API server did not answer in time")]
    Timeout,
}

fn api(step: &'static str) -> impl FnOnce(kube::Error) -> Failure {
    move |source| Failure::Api {
        step,
        source: Box::new(source),
    }
}

/// What to do about a binding.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Nothing: there is no binding and there shall be none, or somebody else
    /// is about to remove it.
    Nothing,
    /// Write this spec.
    Apply(Owner, Box<CredentialBindingSpec>),
    /// The Secret is there, but does not use workload identity any more.
    Delete,
    /// The spec is as it should be, or the last good one; say how things are.
    Report(Vec<Named>),
}

/// Decides what to do about the binding of a Secret.
pub fn plan(key: &Key, derived: &Derived, binding: Option<&Binding>) -> Plan {
    let orphan = || {
        let object = object_name(&key.namespace, &key.name);
        vec![Named::new(Code::BindingNotFound, object)]
    };
    match (derived, binding) {
        (Derived::Valid(owner, spec), Some(binding))
            if binding.spec.as_ref() == Some(&**spec) && binding.is_owned_by(&owner.uid) =>
        {
            Plan::Report(Vec::new())
        }
        // It ends with its finalizers, and then comes back.
        (Derived::Valid(..), Some(binding)) if binding.deleting => Plan::Nothing,
        (Derived::Valid(owner, spec), _) => Plan::Apply(owner.clone(), spec.clone()),
        (_, None) => Plan::Nothing,
        // The last good spec would go on giving what the Secret is no longer for.
        (Derived::Elsewhere(owner, _), Some(binding)) if binding.is_owned_by(&owner.uid) => {
            Plan::Delete
        }
        (Derived::Invalid(_, problems) | Derived::Elsewhere(_, problems), Some(_)) => {
            Plan::Report(problems.clone())
        }
        (Derived::Unused(owner), Some(binding)) if binding.is_owned_by(&owner.uid) => Plan::Delete,
        // Kubernetes' garbage collector removes what a Secret owned.
        (Derived::Unused(_) | Derived::Absent, Some(binding)) if !binding.owners.is_empty() => {
            Plan::Nothing
        }
        (Derived::Unused(_) | Derived::Absent, Some(_)) => Plan::Report(orphan()),
    }
}

/// What has to be said on the Secret itself, because it has no binding or
/// because its owner may not see the binding's conditions.
fn on_secret<'d>(derived: &'d Derived, notices: &[Named]) -> Option<(&'d Owner, Vec<Named>)> {
    let (owner, mut problems, has_binding) = match derived {
        Derived::Absent => return None,
        Derived::Invalid(owner, problems) | Derived::Elsewhere(owner, problems) => {
            (owner, problems.clone(), false)
        }
        Derived::Unused(owner) => (owner, Vec::new(), false),
        Derived::Valid(owner, _) => (owner, Vec::new(), true),
    };
    let here = notices
        .iter()
        .filter(|notice| !has_binding || is_loud(notice.code));
    problems.extend(here.cloned());
    (!problems.is_empty()).then_some((owner, problems))
}

/// Whether a notice is said on the Secret although its binding's conditions
/// say it: somebody may know a key that is not theirs.
fn is_loud(code: Code) -> bool {
    matches!(code, Code::ProxyForeign | Code::ProxyKeyStale)
}

/// Why no key opens a binding that is delivered by the credential proxy. No
/// agent serves it then, since nobody could use it.
fn keyless(object: &str, former: &Former, notices: &[Named]) -> Option<Named> {
    let is_why = |code| {
        matches!(
            code,
            Code::ProxyKeyStale | Code::ProxyForeign | Code::ProxyNotWritten
        )
    };
    former.is_keyless().then(|| {
        let why = notices.iter().find(|notice| is_why(notice.code)).cloned();
        why.unwrap_or_else(|| Named::new(Code::ProxyNotWritten, object))
    })
}

/// Carries plans out.
pub struct Reconciler {
    client: Client,
    derivation: Derivation,
    signature: InForce,
    events: Events,
    /// What was last said on Secrets, so that it is said once.
    said: Mutex<HashMap<Key, Vec<Named>>>,
}

impl Reconciler {
    /// A reconciler that reports events as `instance`.
    pub fn new(client: Client, derivation: Derivation, signature: InForce, instance: &str) -> Self {
        Self {
            events: Events::new(client.clone(), instance),
            client,
            derivation,
            signature,
            said: Mutex::default(),
        }
    }

    /// Looks at one Secret and its binding once. Returns after how long to
    /// look again although nothing changes, if at all.
    ///
    /// # Errors
    /// When a call to the API server fails.
    pub async fn reconcile(
        &self,
        key: &Key,
        around: &Snapshot,
    ) -> Result<Option<Duration>, Failure> {
        let mut found = source::fetch(&self.client, &self.derivation, &key.namespace, &key.name)
            .await
            .map_err(api("reading the Secret"))?;
        let binding = around.binding.as_deref();
        let former = binding.and_then(|binding| binding.spec.as_ref());
        let former = former.map(Former::of);
        let object = object_name(&key.namespace, &key.name);
        found.settle(&object, former.as_ref(), Timestamp::now());
        let Found {
            derived,
            lacks,
            notices,
            ..
        } = found;
        self.say(key, &derived, &notices).await;
        match (plan(key, &derived, binding), binding) {
            (Plan::Nothing, _) | (Plan::Delete | Plan::Report(_), None) => Ok(None),
            (Plan::Apply(owner, spec), _) => self.apply(key, &owner, &spec).await.map(|()| None),
            (Plan::Delete, Some(binding)) => self.delete(key, binding).await.map(|()| None),
            (Plan::Report(mut problems), Some(binding)) => {
                problems.extend(lacks);
                self.report(key, binding, around, &problems, notices).await
            }
        }
    }

    /// Puts what is wrong with a Secret into an event, once.
    async fn say(&self, key: &Key, derived: &Derived, notices: &[Named]) {
        let news = {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            match on_secret(derived, notices) {
                Some((owner, problems)) => {
                    let before = said.insert(key.clone(), problems.clone());
                    (before.as_ref() != Some(&problems)).then_some((owner, problems))
                }
                None => {
                    said.remove(key);
                    None
                }
            }
        };
        let Some((owner, problems)) = news else {
            return;
        };
        for problem in &problems {
            let (namespace, name, code) = (&key.namespace, &key.name, problem.code);
            tracing::warn!(namespace, name, %code, detail = problem.detail, "a Secret cannot be used");
            self.events.refused(key, owner, problem).await;
        }
    }

    async fn apply(
        &self,
        key: &Key,
        owner: &Owner,
        spec: &CredentialBindingSpec,
    ) -> Result<(), Failure> {
        let manifest = manifest(key, owner, spec);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.bindings(key)
            .patch(&key.name, &parameters, &Patch::Apply(&manifest))
            .await
            .map_err(api("writing the binding"))?;
        let (namespace, name) = (&key.namespace, &key.name);
        let subject = &spec.identity.subject;
        tracing::info!(namespace, name, subject, "wrote a binding");
        Ok(())
    }

    async fn delete(&self, key: &Key, binding: &Binding) -> Result<(), Failure> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(binding.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.bindings(key).delete(&key.name, &parameters).await {
            Ok(_) => {
                let (namespace, name) = (&key.namespace, &key.name);
                tracing::info!(namespace, name, "deleted a binding");
                Ok(())
            }
            // Somebody was faster; if there is another one now, it has an event.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {
                Ok(())
            }
            Err(error) => Err(api("deleting the binding")(error)),
        }
    }

    async fn report(
        &self,
        key: &Key,
        binding: &Binding,
        around: &Snapshot,
        problems: &[Named],
        mut notices: Vec<Named>,
    ) -> Result<Option<Duration>, Failure> {
        let object = object_name(&key.namespace, &key.name);
        notices.extend(around.without_proxy());
        let spec = binding.spec.as_ref();
        let signature = self.signature.algorithm();
        let objection = |spec| signature?.objection(&object, spec);
        notices.extend(spec.and_then(objection));
        let former = spec.map(Former::of);
        let keyless = |former: &Former| keyless(&object, former, &notices);
        let unavailable = spec
            .and_then(|spec| undeliverable(&object, spec))
            .or_else(|| former.as_ref().and_then(keyless));
        let now = Timestamp::now();
        let circumstances = Circumstances {
            problems,
            blocked: around.conflict.as_ref().or(unavailable.as_ref()),
            notices: &notices,
            nodes: around.nodes.as_ref(),
            service_accounts: around.service_accounts.as_ref(),
        };
        let verdict = status::judge(binding, circumstances, now);
        if let Some(patch) = self.prune(binding, &verdict.vanished).await? {
            let patch = Patch::<()>::Json(patch);
            self.patch_status(key, &PatchParams::default(), &patch)
                .await?;
        }
        let status = &binding.status;
        if (&verdict.conditions, &verdict.expires_at) != (&status.conditions, &status.expires_at) {
            let parameters = PatchParams::apply(FIELD_MANAGER).force();
            let manifest = status_manifest(key, &verdict);
            self.patch_status(key, &parameters, &Patch::Apply(&manifest))
                .await?;
            self.tell(key, binding, &verdict).await;
        }
        let key_ends = former.and_then(|former| former.until);
        let again_at = verdict.again_at.into_iter().chain(key_ends);
        let again_at = again_at.filter(|at| *at > now).min();
        let left = again_at.map(|at| at.duration_since(now));
        // A second later, so that it has passed by then.
        Ok(left.map(|left| left.unsigned_abs() + Duration::from_secs(1)))
    }

    async fn patch_status<P: serde::Serialize + std::fmt::Debug>(
        &self,
        key: &Key,
        parameters: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<(), Failure> {
        match self
            .bindings(key)
            .patch_status(&key.name, parameters, patch)
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(api("writing the binding's status")(error)),
        }
    }

    /// Removes entries of nodes that are gone. The agent of such a node does
    /// not come back for it, and nobody else may touch it. Asks once more for
    /// each node: an agent writes its entry but once, and a node that the
    /// watch has not shown yet is no reason to lose it.
    async fn prune(
        &self,
        binding: &Binding,
        vanished: &[String],
    ) -> Result<Option<json_patch::Patch>, Failure> {
        let nodes = Api::<Node>::all(self.client.clone());
        let mut gone = BTreeSet::new();
        for name in vanished {
            let node = nodes
                .get_metadata_opt(name)
                .await
                .map_err(api("reading a node"))?;
            if node.is_none() {
                gone.insert(name.as_str());
            }
        }
        Ok(prune_patch(binding, &gone))
    }

    /// Puts transitions into events.
    async fn tell(&self, key: &Key, binding: &Binding, verdict: &Verdict) {
        for condition in &verdict.conditions {
            let before = binding
                .status
                .conditions
                .iter()
                .find(|before| before.kind == condition.kind);
            let same_status = before.is_some_and(|before| before.status == condition.status);
            let same_reason = before.is_some_and(|before| before.reason == condition.reason);
            let kind = match (condition.kind.as_str(), condition.status.as_str()) {
                (DEGRADED, "True") if !same_status || !same_reason => EventType::Warning,
                (READY, "True") if !same_status => EventType::Normal,
                _ => continue,
            };
            self.events.changed(key, binding, condition, kind).await;
        }
    }

    fn bindings(&self, key: &Key) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &key.namespace, &resource())
    }
}

fn manifest(key: &Key, owner: &Owner, spec: &CredentialBindingSpec) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": {
            "name": key.name,
            "namespace": key.namespace,
            "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
            // No blockOwnerDeletion: it would need the right to change the
            // Secret's finalizers (OwnerReferencesPermissionEnforcement).
            "ownerReferences": [{
                "apiVersion": "v1",
                "kind": "Secret",
                "name": owner.name,
                "uid": owner.uid,
                "controller": true,
            }],
        },
        "spec": spec,
    })
}

fn status_manifest(key: &Key, verdict: &Verdict) -> Value {
    let mut status = json!({"conditions": verdict.conditions});
    if let Some(expiry) = verdict.expires_at {
        status["expiresAt"] = json!(expiry);
    }
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": {"name": key.name, "namespace": key.namespace},
        "status": status,
    })
}

/// Removes the entries of these nodes from the version that was seen.
fn prune_patch(binding: &Binding, gone: &BTreeSet<&str>) -> Option<json_patch::Patch> {
    let mut operations = vec![json!({
        "op": "test", "path": "/metadata/resourceVersion", "value": binding.resource_version,
    })];
    // From the end, so that no index moves.
    for (at, node) in binding.status.nodes.iter().enumerate().rev() {
        if gone.contains(node.name.as_str()) {
            operations.push(json!({"op": "remove", "path": format!("/status/nodes/{at}")}));
        }
    }
    if operations.len() == 1 {
        return None;
    }
    serde_json::from_value(Value::Array(operations)).ok()
}

#[cfg(test)]
mod tests;
