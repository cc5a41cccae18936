//! What has to happen to a pod next. Pure.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus, Pod,
    PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The next step of a pod on the one node of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// No node has it yet.
    Bind,
    /// It is ours: publish its volumes, then tell that it runs.
    Start,
    /// It runs: publish its volumes again from time to time.
    Keep,
    /// It ended by itself: take its volumes back.
    Clear,
    /// It is being deleted: take its volumes back and let it go.
    Remove,
    /// Another node's, or gated.
    Ignore,
}

pub(super) fn step(pod: &Pod, node: &str) -> Step {
    let Some(spec) = &pod.spec else {
        return Step::Ignore;
    };
    let deleting = pod.metadata.deletion_timestamp.is_some();
    match spec.node_name.as_deref() {
        None if deleting
            || spec
                .scheduling_gates
                .as_ref()
                .is_some_and(|gates| !gates.is_empty()) =>
        {
            Step::Ignore
        }
        None => Step::Bind,
        Some(name) if name != node => Step::Ignore,
        Some(_) if deleting => Step::Remove,
        Some(_) => match phase(pod) {
            "Running" => Step::Keep,
            "Succeeded" | "Failed" => Step::Clear,
            _ => Step::Start,
        },
    }
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

pub(super) fn is_running(pod: &Pod) -> bool {
    phase(pod) == "Running"
}

/// The status of a pod whose every container runs and is ready, since `now`.
pub(super) fn running(pod: &Pod, now: &Time) -> PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    let condition = |kind: &str| PodCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(now.clone()),
        ..PodCondition::default()
    };
    let runs = || ContainerState {
        running: Some(ContainerStateRunning {
            started_at: Some(now.clone()),
        }),
        ..ContainerState::default()
    };
    let done = || ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 0,
            reason: Some("Completed".to_owned()),
            started_at: Some(now.clone()),
            finished_at: Some(now.clone()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    };
    let status = |name: &str, image: Option<&String>, state: ContainerState| ContainerStatus {
        name: name.to_owned(),
        image: image.cloned().unwrap_or_default(),
        ready: true,
        started: Some(state.running.is_some()),
        state: Some(state),
        ..ContainerStatus::default()
    };
    PodStatus {
        phase: Some("Running".to_owned()),
        conditions: Some(
            ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
                .map(condition)
                .to_vec(),
        ),
        host_ip: Some(ADDRESS.to_owned()),
        pod_ip: Some(ADDRESS.to_owned()),
        pod_ips: Some(vec![PodIP {
            ip: ADDRESS.to_owned(),
        }]),
        start_time: Some(now.clone()),
        container_statuses: Some(
            spec.containers
                .iter()
                .map(|container| status(&container.name, container.image.as_ref(), runs()))
                .collect(),
        ),
        init_container_statuses: spec.init_containers.map(|containers| {
            containers
                .iter()
                .map(|container| {
                    let sidecar = container.restart_policy.as_deref() == Some("Always");
                    let state = if sidecar { runs() } else { done() };
                    status(&container.name, container.image.as_ref(), state)
                })
                .collect()
        }),
        ..PodStatus::default()
    }
}

/// Everything of a run is on loopback.
const ADDRESS: &str = "127.0.0.1";

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(object: serde_json::Value) -> Pod {
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn each_state_has_its_step() {
        let cases = [
            (r#"{"spec": {"containers": []}}"#, Step::Bind),
            (
                r#"{"spec": {"containers": [], "schedulingGates": [{"name": "wait"}]}}"#,
                Step::Ignore,
            ),
            (
                r#"{"spec": {"containers": [], "nodeName": "other"}}"#,
                Step::Ignore,
            ),
            (
                r#"{"spec": {"containers": [], "nodeName": "node-1"}}"#,
                Step::Start,
            ),
            (
                r#"{"spec": {"containers": [], "nodeName": "node-1"}, "status": {"phase": "Running"}}"#,
                Step::Keep,
            ),
            (
                r#"{"spec": {"containers": [], "nodeName": "node-1"}, "status": {"phase": "Failed"}}"#,
                Step::Clear,
            ),
            (
                r#"{"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
                    "spec": {"containers": [], "nodeName": "node-1"}, "status": {"phase": "Running"}}"#,
                Step::Remove,
            ),
        ];
        for (object, expected) in cases {
            assert_eq!(
                step(&pod(serde_json::from_str(object).unwrap()), "node-1"),
                expected,
                "{object}"
            );
        }
    }

    #[test]
    fn init_containers_are_done_and_sidecars_run() {
        let pod = pod(serde_json::json!({ "spec": {
            "initContainers": [{ "name": "copy" }, { "name": "proxy", "restartPolicy": "Always" }],
            "containers": [{ "name": "main" }],
        }}));
        let status = running(&pod, &Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        let init = status.init_container_statuses.unwrap();
        assert!(init[0].state.as_ref().unwrap().terminated.is_some());
        assert!(init[1].state.as_ref().unwrap().running.is_some());
        assert_eq!(status.container_statuses.unwrap().len(), 1);
    }
}
