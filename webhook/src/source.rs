//! Reads one Secret, and the service account that its binding needs, and
//! derives the binding: a name flows in, a spec or the reasons against it flow
//! out.
//!
//! Controller and identity API both come through here. The Secret's values,
//! which may hold static credentials, are wiped before this returns.

use control_plane_core::{
    derive::{
        Derivation,
        account::{self, Annotations},
        meaning::{self, Derived, Found, Owner},
    },
    secret::{SECRET_TYPE, SecretKind, SecretValues},
};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{Api, Client};

use crate::wipe::wipe;

/// Reads the Secret `namespace/name`.
///
/// # Errors
/// When the API server does not answer the question.
pub async fn fetch(
    client: &Client,
    derivation: &Derivation,
    namespace: &str,
    name: &str,
) -> Result<Found, kube::Error> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let Some(mut secret) = api.get_opt(name).await? else {
        return Ok(Found::nothing(Derived::Absent));
    };
    let mut found = look(derivation, &secret);
    wipe(&mut secret);
    found.lacks = match &mut found.derived {
        Derived::Valid(_, spec) if account::is_needed(spec) => {
            let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
            let account = &spec.identity.service_account;
            let found = accounts.get_metadata_opt(account).await?;
            let found = found.map(|found| Annotations::read(found.metadata.annotations.as_ref()));
            account::complete(namespace, name, spec, found.as_ref())
        }
        _ => None,
    };
    Ok(found)
}

/// Derives the binding of a Secret as the API returned it.
pub fn derive(derivation: &Derivation, secret: &Secret) -> Derived {
    look(derivation, secret).derived
}

/// What a Secret as the API returned it means.
pub fn look(derivation: &Derivation, secret: &Secret) -> Found {
    let metadata = &secret.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let owner = Owner {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map(|time| time.0),
    };
    match values(secret) {
        Some((kind, values)) => meaning::look(derivation, namespace, owner, kind, &values),
        None => Found::nothing(Derived::Unused(owner)),
    }
}

/// The kind and the values of a Secret from the API; `None` where it is none of
/// the kinds that can have workload identity.
fn values(secret: &Secret) -> Option<(SecretKind, SecretValues)> {
    let labels = secret.metadata.labels.as_ref()?;
    let kind = SecretKind::from_label(labels.get(SECRET_TYPE)?)?;
    let data = secret.data.iter().flatten();
    let values = SecretValues::from_bytes(data.map(|(name, value)| (name.as_str(), &*value.0)));
    Some((kind, values))
}

#[cfg(test)]
mod journeys;
#[cfg(test)]
pub(crate) mod tests;
