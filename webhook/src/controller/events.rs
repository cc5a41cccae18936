//! Events: what has changed for a user flows in, `events.k8s.io` events on the
//! Secret or the binding flow out. An event that cannot be written is logged.

use control_plane_core::bindings::{FIELD_MANAGER, binding::Binding, world::Key};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use shared::{
    binding::{Condition, GROUP, KIND, VERSION},
    errors::Named,
};

/// The API's limit for a note is 1 kB.
const LONGEST_NOTE: usize = 1000;

#[derive(Clone)]
pub(super) struct Events(Recorder);

impl Events {
    pub(super) fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter {
            controller: FIELD_MANAGER.to_owned(),
            instance: Some(instance.to_owned()),
        };
        Self(Recorder::new(client, reporter))
    }

    /// Says on the Secret what is wrong with it. Returns whether it was written.
    pub(super) async fn refused(&self, key: &Key, uid: &str, problem: &Named) -> bool {
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            ..reference(key, uid)
        };
        let (kind, reason) = (EventType::Warning, problem.code.as_str());
        self.publish(kind, reason, &problem.to_string(), &reference)
            .await
    }

    /// Says on the binding that a condition has changed.
    pub(super) async fn changed(
        &self,
        key: &Key,
        binding: &Binding,
        condition: &Condition,
        kind: EventType,
    ) {
        let reference = ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some(KIND.to_owned()),
            ..reference(key, &binding.metadata.uid)
        };
        self.publish(kind, &condition.reason, &condition.message, &reference)
            .await;
    }

    async fn publish(
        &self,
        kind: EventType,
        reason: &str,
        note: &str,
        on: &ObjectReference,
    ) -> bool {
        let mut end = note.len().min(LONGEST_NOTE);
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(note[..end].to_owned()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let published = self.0.publish(&event, on).await;
        if let Err(error) = &published {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                reason,
                "an event was not written"
            );
        }
        published.is_ok()
    }
}

fn reference(key: &Key, uid: &str) -> ObjectReference {
    ObjectReference {
        namespace: Some(key.namespace.to_string()),
        name: Some(key.name.to_string()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}
