//! Tells the owners of pods whose volume stays empty. [`Reports`] flow in, one
//! event on each such pod flows out: kubelet publishes every few seconds, but
//! there is news only once. A credential never waits for any of this.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use shared::errors::{Code, Named};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::demand::EmptyVolume;
use crate::report::Reports;

/// A pod and its Secrets are often made together: what is there a moment later
/// is no news.
const GATHER: Duration = Duration::from_secs(2);
/// First wait after a failure.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// Longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// For one request.
const PATIENCE: Duration = Duration::from_secs(15);
/// Who reports.
const CONTROLLER: &str = "argocd-identity-agent";
/// The API's limit for the instance of a reporter.
const LONGEST_INSTANCE: usize = 128;
/// The API's limit for a note is 1 kB.
const LONGEST_NOTE: usize = 1000;
/// Of more service accounts only the number is told.
const SHOWN: usize = 10;

/// Tells until the engine is gone.
pub async fn tell(client: Client, node: String, mut reports: watch::Receiver<Reports>) {
    let reporter = Reporter {
        controller: CONTROLLER.to_owned(),
        instance: Some(cut(&node, LONGEST_INSTANCE).to_owned()),
    };
    let recorder = Recorder::new(client, reporter);
    let mut told = Told::default();
    let mut wait = FIRST_WAIT;
    loop {
        if !reports.borrow_and_update().empty.is_empty() {
            sleep(GATHER).await;
        }
        let empty = reports.borrow_and_update().empty.clone();
        let mut failed = false;
        for volume in told.news(&empty) {
            match publish(&recorder, volume).await {
                Ok(()) => told.note(volume),
                Err(error) => {
                    failed = true;
                    tracing::warn!(
                        namespace = volume.namespace,
                        pod = volume.pod,
                        "an event is not written, it is tried again: {error}"
                    );
                }
            }
        }
        if failed {
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            if reports.has_changed().is_err() {
                return;
            }
        } else {
            wait = FIRST_WAIT;
            if reports.changed().await.is_err() {
                return;
            }
        }
    }
}

/// What was told, so that nothing is told twice.
#[derive(Debug, Default)]
struct Told(BTreeSet<(String, bool)>);

impl Told {
    /// What there is to tell, and forgets pods that are gone or served.
    fn news<'a>(&mut self, empty: &'a BTreeSet<EmptyVolume>) -> Vec<&'a EmptyVolume> {
        let pods: BTreeSet<&str> = empty.iter().map(|it| it.pod_uid.as_str()).collect();
        self.0.retain(|(pod, _)| pods.contains(pod.as_str()));
        empty
            .iter()
            .filter(|volume| !self.0.contains(&Self::key(volume)))
            .collect()
    }

    fn note(&mut self, volume: &EmptyVolume) {
        self.0.insert(Self::key(volume));
    }

    /// The first binding of a namespace changes what is to be told; which
    /// service accounts it names does not.
    fn key(volume: &EmptyVolume) -> (String, bool) {
        (volume.pod_uid.clone(), volume.consumers.is_some())
    }
}

/// The documented order is pods first, Secrets second: a namespace without
/// bindings is on its way, one with bindings for others only is a mistake.
fn event(volume: &EmptyVolume) -> Event {
    let error = Named::new(Code::VolumeEmpty, detail(volume));
    Event {
        type_: match volume.consumers {
            Some(_) => EventType::Warning,
            None => EventType::Normal,
        },
        reason: error.code.as_str().to_owned(),
        note: Some(cut(&error.to_string(), LONGEST_NOTE).to_owned()),
        action: "Publish".to_owned(),
        secondary: None,
    }
}

fn detail(volume: &EmptyVolume) -> String {
    let EmptyVolume {
        namespace,
        pod,
        service_account,
        consumers,
        ..
    } = volume;
    let known = match consumers {
        None => format!("namespace {namespace} has no bindings yet"),
        Some(names) => {
            let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
            let more = match names.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(
                "consumers in namespace {namespace}: {}{more}",
                shown.join(", ")
            )
        }
    };
    format!("pod {namespace}/{pod}, service account {service_account}; {known}")
}

async fn publish(recorder: &Recorder, volume: &EmptyVolume) -> Result<(), String> {
    let pod = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(volume.namespace.clone()),
        name: Some(volume.pod.clone()),
        uid: Some(volume.pod_uid.clone()),
        ..ObjectReference::default()
    };
    let event = event(volume);
    match timeout(PATIENCE, recorder.publish(&event, &pod)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

/// The longest start of `text` that has at most `length` bytes.
fn cut(text: &str, length: usize) -> &str {
    let mut end = text.len().min(length);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
#[path = "notices_tests.rs"]
mod tests;
