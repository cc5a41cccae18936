//! A CredentialBinding as the controller sees it: whatever the API server has
//! flows in, a typed view flows out. Never fails.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use shared::binding::{
    CredentialBindingSpec, CredentialBindingStatus, GROUP, KIND, PLURAL, VERSION,
};

/// The resource in the API.
pub fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk(GROUP, VERSION, KIND);
    ApiResource::from_gvk_with_plural(&kind, PLURAL)
}

/// What the controller needs to know of a binding.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// Its name, which is that of its Secret.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The version that was seen.
    pub resource_version: String,
    /// The spec's generation.
    pub generation: i64,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The spec; `None` if it does not have the shape of one.
    pub spec: Option<CredentialBindingSpec>,
    /// The status; empty if it does not have the shape of one.
    pub status: CredentialBindingStatus,
}

impl From<DynamicObject> for Binding {
    fn from(mut object: DynamicObject) -> Self {
        let metadata = object.metadata;
        Self {
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            resource_version: metadata.resource_version.unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            created: metadata.creation_timestamp.map(|time| time.0),
            owners: metadata.owner_references.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            spec: serde_json::from_value(object.data["spec"].take()).ok(),
            status: serde_json::from_value(object.data["status"].take()).unwrap_or_default(),
        }
    }
}

impl Binding {
    /// Whether the Secret with this uid owns it.
    pub fn is_owned_by(&self, uid: &str) -> bool {
        self.owners.iter().any(|owner| owner.uid == uid)
    }
}
