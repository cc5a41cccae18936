//! One look at one Secret and its binding: a key and what is known around it
//! flow in, at most one change of the binding and of its status flows out.
//!
//! [`plan()`] decides; this carries it out. The Secret is read when it, its
//! service account or its binding's keys are others than at the last look: what
//! it meant then is kept, its values are not.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use control_plane_core::{
    bindings::{
        FIELD_MANAGER,
        binding::Binding,
        condition::{DEGRADED, READY},
        manifests::{end_overlap_patch, manifest, prune_patch, status_manifest},
        plan::{Meaning, Plan, keyless, on_secret, plan},
        status::{self, Circumstances, Verdict},
        world::{Key, Snapshot},
    },
    derive::{Derivation, meaning::Derived, object_name},
    identity::algorithm::Algorithm,
    proxy_key::accepted::Former,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::DynamicObject,
    runtime::events::EventType,
};
use shared::{
    binding::CredentialBindingSpec,
    errors::{Code, Named},
};
use tokio::time::Instant;

use super::{
    events::Events,
    look::{Look, former},
    objects::resource,
};
use crate::{issuer::keys::InForce, source};

/// An event lives for an hour, so what is said on a Secret is said again before.
const SAY_AGAIN: Duration = Duration::from_secs(50 * 60);
/// When to look again at what cannot be judged yet.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// After this long without a signing key there will be none: others sign.
const SIGNATURE: Duration = Duration::from_secs(60);

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

impl Failure {
    /// What the API server said, if it refused for a reason that does not pass
    /// by itself.
    fn refusal(&self) -> Option<&str> {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) if matches!(status.code, 400 | 403 | 413 | 422) => {
                    Some(&status.message)
                }
                _ => None,
            },
            Self::Timeout => None,
        }
    }
}

/// What was said on a Secret, and when.
#[derive(Debug)]
struct Said {
    problems: Vec<Named>,
    at: Instant,
}

/// Carries plans out.
pub struct Reconciler {
    client: Client,
    derivation: Derivation,
    signature: InForce,
    events: Events,
    /// What Secrets meant at the last look.
    looks: Mutex<BTreeMap<Key, Look>>,
    /// What was last said on Secrets, so that it is said once while its event
    /// lives.
    said: Mutex<HashMap<Key, Said>>,
    started: Instant,
}

impl Reconciler {
    /// A reconciler that reports events as `instance`.
    pub fn new(client: Client, derivation: Derivation, signature: InForce, instance: &str) -> Self {
        Self {
            events: Events::new(client.clone(), instance),
            client,
            derivation,
            signature,
            looks: Mutex::default(),
            said: Mutex::default(),
            started: Instant::now(),
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
        let causes = Look::causes(around, former(around), Timestamp::now());
        let known = lock(&self.looks).get(key).cloned();
        let known = known.filter(|look| causes.is_some() && look.causes == causes);
        let (look, mut spec) = match known {
            Some(look) => (look, None),
            None => self.look(key, around).await?,
        };
        let binding = around.binding.as_deref();
        let plan = plan(key, &look.meaning, binding);
        let refused = match (&plan, &look.meaning) {
            (Plan::Apply, Meaning::Valid(uid, _)) => {
                if spec.is_none() {
                    spec = self.look(key, around).await?.1;
                }
                match spec {
                    Some(spec) => {
                        let applied = self.apply(key, uid, &spec).await;
                        if applied.is_ok() {
                            self.expect(key, around, &Former::of(&spec));
                        }
                        applied.err()
                    }
                    None => None,
                }
            }
            _ => None,
        };
        let refusal = refused.as_ref().and_then(Failure::refusal);
        let refusal = refusal.map(|words| Named::new(Code::BindingRefused, words));
        let said = self.say(key, &look, refusal.clone()).await;
        if let Some(failure) = refused {
            // What is there goes on; how it is must be seen nevertheless.
            if let (Some(refusal), Some(binding)) = (refusal, binding) {
                let notices = look.notices.into();
                self.report(key, binding, around, &[refusal], notices)
                    .await?;
            }
            return Err(failure);
        }
        let again = match (plan, binding) {
            (Plan::Delete, Some(binding)) => self.delete(key, binding).await.map(|()| None)?,
            (Plan::Report(mut problems), Some(binding)) => {
                problems.extend(look.lacks.map(|lacks| *lacks));
                self.end_overlap(key, binding).await?;
                self.report(key, binding, around, &problems, look.notices.into())
                    .await?
            }
            _ => None,
        };
        Ok(again.into_iter().chain(said).min())
    }

    /// Reads the Secret. Returns what it means, and the spec that it asks for.
    async fn look(
        &self,
        key: &Key,
        around: &Snapshot,
    ) -> Result<(Look, Option<Box<CredentialBindingSpec>>), Failure> {
        let mut found = source::fetch(&self.client, &self.derivation, &key.namespace, &key.name)
            .await
            .map_err(api("reading the Secret"))?;
        let object = object_name(&key.namespace, &key.name);
        let now = Timestamp::now();
        found.settle(&object, former(around), now);
        let look = Look::new(around, &found, now);
        match look.meaning {
            Meaning::Absent => lock(&self.looks).remove(key),
            _ => lock(&self.looks).insert(key.clone(), look.clone()),
        };
        let spec = match found.derived {
            Derived::Valid(_, spec) => Some(spec),
            _ => None,
        };
        Ok((look, spec))
    }

    /// What the last look found holds for the binding that was written after it,
    /// too: looking again would ask for the same.
    fn expect(&self, key: &Key, around: &Snapshot, written: &Former) {
        if let Some(look) = lock(&self.looks).get_mut(key) {
            look.causes = Look::causes(around, Some(written), Timestamp::now());
        }
    }

    /// Puts what is wrong with a Secret into an event, once while that lives.
    /// Returns after how long to say it again.
    async fn say(&self, key: &Key, look: &Look, refusal: Option<Named>) -> Option<Duration> {
        let (uid, problems) = match (on_secret(&look.meaning, &look.notices), refusal) {
            (Some((uid, mut problems)), refusal) => {
                problems.extend(refusal);
                (uid, problems)
            }
            (None, Some(refusal)) => match &look.meaning {
                Meaning::Valid(uid, _) => (&**uid, vec![refusal]),
                _ => return None,
            },
            (None, None) => {
                lock(&self.said).remove(key);
                return None;
            }
        };
        let now = Instant::now();
        {
            let mut said = lock(&self.said);
            if let Some(before) = said.get(key).filter(|before| before.problems == problems) {
                let left = (before.at + SAY_AGAIN).saturating_duration_since(now);
                if !left.is_zero() {
                    return Some(left);
                }
            }
            said.remove(key);
        }
        let mut is_written = true;
        for problem in &problems {
            let (namespace, name, code) = (&*key.namespace, &*key.name, problem.code);
            tracing::warn!(namespace, name, %code, detail = problem.detail, "a Secret cannot be used");
            is_written &= self.events.refused(key, uid, problem).await;
        }
        if !is_written {
            return Some(LOOK_AGAIN);
        }
        let said = Said { problems, at: now };
        lock(&self.said).insert(key.clone(), said);
        Some(SAY_AGAIN)
    }

    async fn apply(
        &self,
        key: &Key,
        uid: &str,
        spec: &CredentialBindingSpec,
    ) -> Result<(), Failure> {
        let manifest = manifest(key, uid, spec);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.bindings(key)
            .patch(&key.name, &parameters, &Patch::Apply(&manifest))
            .await
            .map_err(api("writing the binding"))?;
        let (namespace, name) = (&*key.namespace, &*key.name);
        let subject = &spec.identity.subject;
        tracing::info!(namespace, name, subject, "wrote a binding");
        Ok(())
    }

    /// Ends a key whose time is over where the Secret is broken, so that nothing
    /// is applied for it: whoever knows the key must not have it for longer.
    async fn end_overlap(&self, key: &Key, binding: &Binding) -> Result<(), Failure> {
        let Some(patch) = end_overlap_patch(binding, Timestamp::now()) else {
            return Ok(());
        };
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::<()>::Json(patch);
        let bindings = self.bindings(key);
        let ended = bindings.patch(&key.name, &parameters, &patch).await;
        ended.map(drop).map_err(api("ending a key"))
    }

    async fn delete(&self, key: &Key, binding: &Binding) -> Result<(), Failure> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(binding.metadata.uid.to_string()),
                // Decided for this version of it, not for one that is newer.
                resource_version: Some(binding.metadata.resource_version.to_string()),
            }),
            ..DeleteParams::default()
        };
        match self.bindings(key).delete(&key.name, &parameters).await {
            Ok(_) => {
                let (namespace, name) = (&*key.namespace, &*key.name);
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
        let objection = |algorithm: Algorithm| {
            let spec = spec?;
            algorithm.objection(&object, spec.credential, spec.exchange)
        };
        let signature = self.signature.algorithm();
        notices.extend(signature.and_then(objection));
        let signature_is_open = signature.is_none()
            && self.started.elapsed() < SIGNATURE
            && objection(Algorithm::Es256).is_some();
        let pods_matter = spec.is_some_and(|spec| spec.is_proxied);
        let keyless = spec.and_then(|spec| keyless(&object, &spec.former, &notices));
        let unavailable = spec.and_then(|spec| spec.undeliverable.as_deref());
        let now = Timestamp::now();
        let circumstances = Circumstances {
            problems,
            blocked: around
                .conflict
                .as_ref()
                .or(unavailable)
                .or(keyless.as_ref()),
            notices: &notices,
            vanished: around.vanished.as_deref(),
            has_consumer: around.has_consumer,
            is_partial: (pods_matter && around.unproxied.is_none()) || signature_is_open,
        };
        let verdict = status::judge(binding, circumstances, now);
        if let Some(patch) = self.prune(binding, &verdict.vanished).await? {
            let patch = Patch::<()>::Json(patch);
            self.patch_status(key, &PatchParams::default(), &patch)
                .await?;
        }
        if verdict.differs_from(&binding.status, now) {
            let parameters = PatchParams::apply(FIELD_MANAGER).force();
            let manifest = status_manifest(key, &verdict);
            self.patch_status(key, &parameters, &Patch::Apply(&manifest))
                .await?;
            self.tell(key, binding, &verdict).await;
        }
        // A second later, so that it has passed by then.
        let again_at = verdict.again_at.filter(|at| *at > now);
        // Also one that has passed since the look: who looked saw it in force.
        let key_ends = spec.and_then(|spec| spec.former.until);
        let again_at = again_at.into_iter().chain(key_ends).min();
        let left = again_at.map(|at| at.duration_since(now).max(SignedDuration::ZERO));
        let left = left.map(|left| left.unsigned_abs() + Duration::from_secs(1));
        let is_partial =
            circumstances.is_partial || around.vanished.is_none() || around.has_consumer.is_none();
        Ok(left
            .into_iter()
            .chain(is_partial.then_some(LOOK_AGAIN))
            .min())
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
        vanished: &[Arc<str>],
    ) -> Result<Option<json_patch::Patch>, Failure> {
        let nodes = Api::<Node>::all(self.client.clone());
        let mut gone = BTreeSet::new();
        for name in vanished {
            let node = nodes
                .get_metadata_opt(name)
                .await
                .map_err(api("reading a node"))?;
            if node.is_none() {
                gone.insert(&**name);
            }
        }
        Ok(prune_patch(binding, &gone))
    }

    /// Puts transitions into events.
    async fn tell(&self, key: &Key, binding: &Binding, verdict: &Verdict) {
        for condition in &verdict.conditions {
            let before = binding.condition(&condition.kind);
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

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
