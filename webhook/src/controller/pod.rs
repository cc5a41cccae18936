//! A pod as the controller sees it: whatever the API server has flows in,
//! whether it is a repo-server and has the credential proxy flows out. Never
//! fails.

use control_plane_core::annotations::{
    APP_COMPONENT, APP_NAME, APP_PART_OF, AppLabels, COMPONENT, Component, starts,
};
use kube::core::DynamicObject;
use serde_json::Value;
use shared::layout::PROXY_CONTAINER;

/// A pod of Argo CD's repo-server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoServer {
    service_account: String,
    is_running: bool,
    has_proxy: bool,
}

impl RepoServer {
    /// The pod's name, and what is known of it if it is a repo-server.
    pub fn read(pod: DynamicObject) -> (String, Option<Self>) {
        let metadata = pod.metadata;
        let by_annotation = metadata
            .annotations
            .and_then(|found| Component::from_name(found.get(COMPONENT)?));
        let spec = &pod.data["spec"];
        let labels = metadata.labels.unwrap_or_default();
        let label = |name| labels.get(name).map(String::as_str);
        let labels = AppLabels {
            name: label(APP_NAME),
            part_of: label(APP_PART_OF),
            component: label(APP_COMPONENT),
        };
        let by_label = || {
            let containers = spec["containers"].as_array();
            Component::recognise(labels, |program| {
                let mut containers = containers.into_iter().flatten();
                containers.any(|container| runs(container, program))
            })
        };
        let is_repo_server = by_annotation.or_else(by_label) == Some(Component::RepoServer);
        let phase = pod.data["status"]["phase"].as_str();
        let found = is_repo_server.then(|| Self {
            service_account: spec["serviceAccountName"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            is_running: phase == Some("Running") && metadata.deletion_timestamp.is_none(),
            has_proxy: has_proxy(&spec["initContainers"]),
        });
        (metadata.name.unwrap_or_default(), found)
    }

    /// Its service account, if it runs without the credential proxy.
    pub fn lacks_proxy(&self) -> Option<&str> {
        let lacks = self.is_running && !self.has_proxy;
        lacks.then_some(&*self.service_account)
    }
}

fn runs(container: &Value, program: &str) -> bool {
    let words = [&container["command"], &container["args"]];
    let words = words.into_iter().filter_map(Value::as_array).flatten();
    container["name"] == program || starts(program, words.filter_map(Value::as_str))
}

fn has_proxy(containers: &Value) -> bool {
    let mut containers = containers.as_array().into_iter().flatten();
    containers.any(|container| container["name"] == PROXY_CONTAINER)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(pod: Value) -> Option<RepoServer> {
        let pod = serde_json::from_value(pod).unwrap();
        let (name, found) = RepoServer::read(pod);
        assert_eq!(name, "a");
        found
    }

    fn pod(label: &str, phase: &str, containers: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "labels": {APP_NAME: label}},
            "spec": {"serviceAccountName": "repo", "initContainers": containers},
            "status": {"phase": phase},
        })
    }

    #[test]
    fn a_running_repo_server_without_the_proxy_lacks_it() {
        let lacks = |pod| {
            let found = read(pod)?;
            found.lacks_proxy().map(str::to_owned)
        };
        let copyutil = json!([{"name": "copyutil"}]);
        let both = json!([{"name": "copyutil"}, {"name": PROXY_CONTAINER}]);
        let stock = pod("argocd-repo-server", "Running", copyutil);
        assert_eq!(lacks(stock.clone()).as_deref(), Some("repo"));
        assert_eq!(lacks(pod("argocd-repo-server", "Running", both)), None);
        assert_eq!(
            lacks(pod("argocd-repo-server", "Pending", json!(null))),
            None
        );
        assert_eq!(read(pod("argocd-server", "Running", json!([]))), None);
        let mut leaving = stock.clone();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(lacks(leaving), None);
        let mut named = pod("mine", "Running", json!(null));
        named["metadata"]["annotations"] = json!({ COMPONENT: "repo-server" });
        assert_eq!(lacks(named).as_deref(), Some("repo"));
    }

    #[test]
    fn a_repo_server_of_another_product_is_none() {
        let mut other = pod("gitea-repo-server", "Running", json!(null));
        assert_eq!(read(other.clone()), None);
        other["spec"]["containers"] = json!([{"name": "a"}, {"name": "argocd-repo-server"}]);
        assert!(read(other.clone()).is_some(), "the operator's");
        other["spec"]["containers"] = json!([{"name": "a", "args": ["/bin/argocd-repo-server"]}]);
        assert!(read(other).is_some(), "the chart's");
    }

    #[test]
    fn strange_shapes_are_no_repo_server_or_one_that_does_not_run() {
        for data in [json!({}), json!({"spec": 1}), json!({"status": []})] {
            let mut object = pod("argocd-repo-server", "Running", json!(1));
            object["spec"] = json!(null);
            object["status"] = json!(null);
            for (name, value) in data.as_object().unwrap() {
                object[name] = value.clone();
            }
            let found = read(object).unwrap();
            assert_eq!(found.lacks_proxy(), None, "{data}");
        }
    }
}
