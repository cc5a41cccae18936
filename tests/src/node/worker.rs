//! One task per pod, which takes it through its life; and the watch that feeds them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::lifecycle::{Step, running, step};
use super::volumes;

/// Until a step that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// Until a step that is not wanted happens.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// Follows every pod of the cluster, for as long as the node lives.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut workers = Workers {
        shared: Arc::clone(&shared),
        pods: HashMap::new(),
        tasks: JoinSet::new(),
    };
    let events = watcher(Api::<Pod>::all(shared.admin.clone()), Config::default());
    pin_mut!(events);
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        // The watcher begins anew by itself after an error.
        let Ok(event) = event else { continue };
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(pod) => {
                listed.extend(pod.uid());
                workers.update(pod);
            }
            Event::InitDone => workers.pods.retain(|uid, _| listed.contains(uid)),
            Event::Apply(pod) => workers.update(pod),
            Event::Delete(pod) => {
                workers.pods.remove(&pod.uid().unwrap_or_default());
            }
        }
        while workers.tasks.try_join_next().is_some() {}
    }
}

struct Workers {
    shared: Arc<Shared>,
    /// A worker ends when its sender is gone.
    pods: HashMap<String, watch::Sender<Pod>>,
    tasks: JoinSet<()>,
}

impl Workers {
    fn update(&mut self, pod: Pod) {
        let Some(uid) = pod.uid() else { return };
        match self.pods.get(&uid) {
            Some(sender) => {
                sender.send_replace(pod);
            }
            None => {
                let (sender, receiver) = watch::channel(pod);
                self.pods.insert(uid, sender);
                self.tasks.spawn(tend(Arc::clone(&self.shared), receiver));
            }
        }
    }
}

/// Takes one pod through its life, until it is gone from the API.
async fn tend(shared: Arc<Shared>, mut pods: watch::Receiver<Pod>) {
    loop {
        let pod = pods.borrow_and_update().clone();
        let uid = pod.uid().unwrap_or_default();
        let wait = match advance(&shared, &pod).await {
            Ok(wait) => {
                shared.set_failure(&uid, None);
                wait
            }
            Err(failure) => {
                shared.set_failure(&uid, Some(format!("{failure:#}")));
                RETRY
            }
        };
        tokio::select! {
            changed = pods.changed() => {
                if changed.is_err() {
                    // Deleted by force: what it had must not stay.
                    let _ = volumes::unpublish(&shared, &pod).await;
                    shared.set_failure(&uid, None);
                    return;
                }
            }
            () = sleep_until(Instant::now() + wait) => {}
        }
    }
}

/// Does the pod's next step and tells how long to wait for the one after it, if no event comes before.
async fn advance(shared: &Shared, pod: &Pod) -> Result<Duration> {
    match step(pod, &shared.name) {
        Step::Ignore => Ok(NEVER),
        Step::Bind => {
            bind(shared, pod).await?;
            Ok(NEVER)
        }
        Step::Start => {
            volumes::publish(shared, pod).await?;
            set_running(shared, pod).await?;
            Ok(NEVER)
        }
        Step::Keep => {
            let again = volumes::republish(shared, pod).await?;
            Ok(if again { shared.republish } else { NEVER })
        }
        Step::Clear => {
            volumes::unpublish(shared, pod).await?;
            Ok(NEVER)
        }
        Step::Remove => {
            volumes::unpublish(shared, pod).await?;
            remove(shared, pod).await?;
            Ok(NEVER)
        }
    }
}

async fn bind(shared: &Shared, pod: &Pod) -> Result<()> {
    let name = pod.name_any();
    let pods: Api<Pod> = namespaced(&shared.admin, pod);
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            uid: pod.uid(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(shared.name.clone()),
            ..ObjectReference::default()
        },
    };
    pods.create_subresource::<_, Status>("binding", &name, &PostParams::default(), &binding)
        .await
        .with_context(|| format!("bind pod {name}"))?;
    Ok(())
}

async fn set_running(shared: &Shared, pod: &Pod) -> Result<()> {
    let name = pod.name_any();
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    let status = json!({ "status": running(pod, &now) });
    namespaced::<Pod>(&shared.kubelet, pod)
        .patch_status(&name, &PatchParams::default(), &Patch::Strategic(status))
        .await
        .with_context(|| format!("report pod {name} as Running"))?;
    Ok(())
}

/// Ends a pod's graceful deletion, as kubelet does when its containers have ended.
async fn remove(shared: &Shared, pod: &Pod) -> Result<()> {
    let name = pod.name_any();
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: pod.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match namespaced::<Pod>(&shared.kubelet, pod)
        .delete(&name, &now)
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("complete the deletion of pod {name}")),
    }
}

fn namespaced<K>(client: &kube::Client, pod: &Pod) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default())
}
