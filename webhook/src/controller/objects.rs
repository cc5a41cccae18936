//! Objects as the API server sends them: JSON flows in, the few fields that
//! the controller keeps flow out. Never fails: a part with a strange shape
//! counts as one that is not there, so that it breaks no watch.

use std::{borrow::Cow, sync::Arc};

use control_plane_core::bindings::{
    binding::{Metadata, Observed},
    pod::{PodView, Program, RepoServer},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::{
    Resource,
    core::{ApiResource, GroupVersionKind, ObjectMeta, PartialObjectMeta},
};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use shared::binding::{
    CredentialBindingSpec, CredentialBindingStatus, GROUP, KIND, PLURAL, VERSION,
};

/// CredentialBinding in the API.
pub(super) fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk(GROUP, VERSION, KIND);
    ApiResource::from_gvk_with_plural(&kind, PLURAL)
}

/// A CredentialBinding.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct BindingObject {
    #[serde(default, deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Lenient<CredentialBindingSpec>,
    #[serde(default)]
    status: Lenient<CredentialBindingStatus>,
}

impl BindingObject {
    /// Its name, and what is kept of it.
    pub(super) fn observed(self) -> (Arc<str>, Observed) {
        let metadata = self.metadata;
        let name: Arc<str> = metadata.name.unwrap_or_default().into();
        let namespace = metadata.namespace.unwrap_or_default();
        let owners = metadata.owner_references.unwrap_or_default().into_iter();
        let kept = Metadata {
            uid: metadata.uid.unwrap_or_default().into(),
            resource_version: metadata.resource_version.unwrap_or_default().into(),
            generation: metadata.generation.unwrap_or_default(),
            created: metadata.creation_timestamp.map(|time| time.0),
            owners: owners.map(|owner| owner.uid.into()).collect(),
            deleting: metadata.deletion_timestamp.is_some(),
        };
        let (spec, status) = (self.spec.0, self.status.0.unwrap_or_default());
        let observed = Observed::new(&namespace, &name, kept, spec, status);
        (name, observed)
    }
}

impl Resource for BindingObject {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A pod.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PodObject {
    #[serde(default, deserialize_with = "slim")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Lenient<PodSpec>,
    #[serde(default)]
    status: Lenient<PodStatus>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    service_account_name: Lenient<String>,
    #[serde(default)]
    init_containers: Lenient<Vec<Container>>,
    #[serde(default)]
    containers: Lenient<Vec<Container>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Container {
    #[serde(default)]
    name: Lenient<String>,
    #[serde(default)]
    command: Lenient<Vec<String>>,
    #[serde(default)]
    args: Lenient<Vec<String>>,
}

impl Container {
    fn program(self) -> Program {
        let mut words = self.command.0.unwrap_or_default();
        words.extend(self.args.0.unwrap_or_default());
        Program {
            name: self.name.0.unwrap_or_default(),
            words,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
struct PodStatus {
    #[serde(default)]
    phase: Lenient<String>,
}

impl PodObject {
    /// Its name, and what is known of it if it is a repo-server.
    pub(super) fn repo_server(self) -> (Arc<str>, Option<RepoServer>) {
        let metadata = self.metadata;
        let spec = self.spec.0.unwrap_or_default();
        let status = self.status.0.unwrap_or_default();
        let containers = spec.init_containers.0.unwrap_or_default().into_iter();
        let names: Vec<_> = containers
            .filter_map(|container| container.name.0)
            .collect();
        let containers = spec.containers.0.unwrap_or_default().into_iter();
        let programs: Vec<_> = containers.map(Container::program).collect();
        let found = RepoServer::read(&PodView {
            labels: metadata.labels.as_ref(),
            annotations: metadata.annotations.as_ref(),
            deleting: metadata.deletion_timestamp.is_some(),
            service_account: spec.service_account_name.0.as_deref().unwrap_or_default(),
            phase: status.phase.0.as_deref().unwrap_or_default(),
            init_containers: &names,
            containers: &programs,
        });
        (metadata.name.unwrap_or_default().into(), found)
    }
}

impl Resource for PodObject {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The name of an object of which nothing else is kept.
pub(super) fn name<K>(object: &PartialObjectMeta<K>) -> Arc<str> {
    object.metadata.name.as_deref().unwrap_or_default().into()
}

/// The version of an object that was seen.
pub(super) fn version<K>(object: &PartialObjectMeta<K>) -> Arc<str> {
    let version = object.metadata.resource_version.as_deref();
    version.unwrap_or_default().into()
}

/// `None` for what does not have the shape.
#[derive(Debug, Clone)]
struct Lenient<T>(Option<T>);

impl<T> Default for Lenient<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either<T> {
            Shaped(T),
            Other(IgnoredAny),
        }
        Ok(Self(match Either::deserialize(deserializer)? {
            Either::Shaped(value) => Some(value),
            Either::Other(_) => None,
        }))
    }
}

/// Metadata without what nobody here asks for; `managedFields` alone is often
/// larger than the rest of the object.
fn slim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Slim {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        generation: Option<i64>,
        creation_timestamp: Option<Timestamp>,
        deletion_timestamp: Option<Timestamp>,
        labels: Option<std::collections::BTreeMap<String, String>>,
        annotations: Option<std::collections::BTreeMap<String, String>>,
        owner_references: Option<Vec<OwnerReference>>,
    }
    let slim = Slim::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: slim.name,
        namespace: slim.namespace,
        uid: slim.uid,
        resource_version: slim.resource_version,
        generation: slim.generation,
        creation_timestamp: slim.creation_timestamp.map(Time),
        deletion_timestamp: slim.deletion_timestamp.map(Time),
        labels: slim.labels,
        annotations: slim.annotations,
        owner_references: slim.owner_references,
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use control_plane_core::annotations::APP_NAME;
    use control_plane_core::annotations::COMPONENT;
    use serde_json::{Value, json};
    use shared::layout::PROXY_CONTAINER;

    use super::*;
    use crate::controller::testing::{object, quay};

    fn read(pod: Value) -> Option<RepoServer> {
        let pod: PodObject = serde_json::from_value(pod).unwrap();
        let (name, found) = pod.repo_server();
        assert_eq!(&*name, "a");
        found
    }

    fn pod(label: &str, phase: &str, containers: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "labels": {APP_NAME: label}, "managedFields": 17},
            "spec": {"serviceAccountName": "repo", "initContainers": containers},
            "status": {"phase": phase},
        })
    }

    #[test]
    fn a_running_repo_server_without_the_proxy_lacks_it() {
        let lacks = |pod| read(pod)?.lacks_proxy().map(|account| account.to_string());
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

    #[test]
    fn a_binding_of_a_strange_shape_is_one_without_spec_and_status() {
        for (spec, status) in [(json!(17), json!(["?"])), (json!(null), json!(null))] {
            let (name, observed) = object("strange", 1, spec, status).observed();
            assert_eq!(&*name, "strange");
            assert_eq!(observed.spec, None);
            assert_eq!(observed.binding.spec, None);
            assert_eq!(observed.binding.status, Default::default());
            assert_eq!(observed.binding.metadata.generation, 2);
        }
        let status = json!({"nodes": [{"name": "n", "state": "Ready"}]});
        let (_, observed) = object("a", 1, quay("quay.example.org"), status).observed();
        assert!(observed.binding.is_owned_by("uid-a"));
        assert_eq!(&*observed.binding.status.nodes[0].name, "n");
        assert_eq!(observed.spec.unwrap().consumers, ["argocd-repo-server"]);
    }
}
