//! Whether a workload's pods are those of its newest template.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use kube::{Api, Client};

use super::{Component, POD};
use crate::process::wait_until;

/// Waits until the component's controller has seen the newest template and only pods of that exist, all
/// of them ready.
pub(super) async fn complete(client: &Client, namespace: &str, component: Component) -> Result<()> {
    let name = component.name();
    wait_until(&format!("the rollout of {name}"), POD, || async move {
        let state = match component {
            Component::ApplicationController => {
                let api = Api::<StatefulSet>::namespaced(client.clone(), namespace);
                of_stateful_set(
                    &api.get(name)
                        .await
                        .with_context(|| format!("read {name}"))?,
                )
            }
            Component::RepoServer | Component::Server => {
                let api = Api::<Deployment>::namespaced(client.clone(), namespace);
                of_deployment(
                    &api.get(name)
                        .await
                        .with_context(|| format!("read {name}"))?,
                )
            }
        };
        ensure!(state.is_complete(), "{state:?}");
        Ok(())
    })
    .await
}

#[derive(Debug)]
struct Rollout {
    seen: bool,
    wanted: i32,
    pods: i32,
    updated: i32,
    ready: i32,
}

impl Rollout {
    fn is_complete(&self) -> bool {
        self.seen && [self.pods, self.updated, self.ready] == [self.wanted; 3]
    }
}

fn of_deployment(object: &Deployment) -> Rollout {
    let status = object.status.clone().unwrap_or_default();
    Rollout {
        seen: status.observed_generation == object.metadata.generation,
        wanted: object
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1),
        pods: status.replicas.unwrap_or_default(),
        updated: status.updated_replicas.unwrap_or_default(),
        ready: status.ready_replicas.unwrap_or_default(),
    }
}

fn of_stateful_set(object: &StatefulSet) -> Rollout {
    let status = object.status.clone().unwrap_or_default();
    // Once all is new, the controller counts no pod as updated but makes the revisions equal.
    let all_new = status.current_revision == status.update_revision;
    Rollout {
        seen: status.observed_generation == object.metadata.generation,
        wanted: object
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1),
        pods: status.replicas,
        updated: if all_new {
            status.replicas
        } else {
            status.updated_replicas.unwrap_or_default()
        },
        ready: status.ready_replicas.unwrap_or_default(),
    }
}
