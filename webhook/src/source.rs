//! Reads one Secret and derives its binding: a name flows in, a spec or the
//! reasons against it flow out.
//!
//! Controller and identity API both come through here. The Secret's values,
//! which may hold static credentials, are wiped before this returns.

use k8s_openapi::{api::core::v1::Secret, jiff::Timestamp};
use kube::{Api, Client};
use shared::{binding::CredentialBindingSpec, errors::Named};
use zeroize::Zeroize;

use crate::derive::{self, Derivation, object_name};

/// The Secret that a binding belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// When it was created.
    pub created: Option<Timestamp>,
}

/// What a Secret means.
#[derive(Debug, Clone, PartialEq)]
pub enum Derived {
    /// There is no Secret of that name.
    Absent,
    /// The Secret does not use workload identity.
    Unused(Owner),
    /// The Secret uses it, and there are reasons to refuse.
    Invalid(Owner, Vec<Named>),
    /// The Secret's binding.
    Valid(Owner, Box<CredentialBindingSpec>),
}

/// Reads the Secret `namespace/name`.
///
/// # Errors
/// When the API server does not answer the question.
pub async fn fetch(
    client: &Client,
    derivation: &Derivation,
    namespace: &str,
    name: &str,
) -> Result<Derived, kube::Error> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    Ok(match api.get_opt(name).await? {
        Some(mut secret) => {
            let derived = derive(derivation, &secret);
            wipe(&mut secret);
            derived
        }
        None => Derived::Absent,
    })
}

/// Derives the binding of a Secret as the API returned it.
pub fn derive(derivation: &Derivation, secret: &Secret) -> Derived {
    let metadata = &secret.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let owner = Owner {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map(|time| time.0),
    };
    let object = object_name(namespace, &owner.name);
    let spec = match derive::read(secret) {
        Ok(None) => return Derived::Unused(owner),
        Ok(Some(parsed)) => derivation.binding(namespace, &object, &parsed),
        Err(problems) => Err(problems),
    };
    match spec {
        Ok(spec) => Derived::Valid(owner, Box::new(spec)),
        Err(problems) => Derived::Invalid(owner, problems),
    }
}

/// Overwrites the values of a Secret that is about to be dropped.
pub fn wipe(secret: &mut Secret) {
    for value in secret.data.iter_mut().flat_map(|data| data.values_mut()) {
        value.0.zeroize();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;
    use shared::{allow_list::AllowList, binding::undeliverable};

    use super::*;

    /// The installation of the tests.
    pub(crate) fn derivation() -> Derivation {
        Derivation {
            trust_domain: "example.org".into(),
            allowed_hosts: AllowList::parse("spoke.example.org,other.example.org").unwrap(),
            registry_consumers: vec!["argocd-repo-server".into()],
            cluster_consumers: vec!["argocd-application-controller".into()],
        }
    }

    /// A Secret with these values.
    pub(crate) fn secret(kind: &str, name: &str, values: &[(&str, &str)]) -> Secret {
        let mut secret: Secret = serde_json::from_value(json!({
            "metadata": {
                "namespace": "argocd", "name": name, "uid": format!("uid-{name}"),
                "labels": {"argocd.argoproj.io/secret-type": kind},
            },
        }))
        .unwrap();
        let value = |text: &str| ByteString(text.as_bytes().to_vec());
        secret.data = Some(
            values
                .iter()
                .map(|(key, text)| ((*key).to_owned(), value(text)))
                .collect(),
        );
        secret
    }

    /// The Quay repository of the guides, without a project.
    pub(crate) fn quay(name: &str) -> Secret {
        secret(
            "repository",
            name,
            &[
                ("type", "helm"),
                ("url", "quay.example.org/team/charts"),
                ("enableOCI", "true"),
                ("useWorkloadIdentity", "true"),
                ("workloadIdentityProvider", "spiffe"),
                ("workloadIdentityAudience", "quay.example.org"),
                (
                    "workloadIdentityRegistryAuthURL",
                    "https://quay.example.org/oauth2/federation/robot/token",
                ),
                ("workloadIdentityRegistryUsername", "team+puller"),
            ],
        )
    }

    #[test]
    fn a_secret_is_absent_unused_invalid_or_valid() {
        let derivation = derivation();
        let plain = secret("repository", "plain", &[("url", "https://a.example.org/x")]);
        assert!(
            matches!(derive(&derivation, &plain), Derived::Unused(owner) if owner.uid == "uid-plain")
        );
        let broken = secret("cluster", "broken", &[("useWorkloadIdentity", "true")]);
        match derive(&derivation, &broken) {
            Derived::Invalid(_, problems) => assert!(!problems.is_empty()),
            other => panic!("{other:?}"),
        }
        match derive(&derivation, &quay("quay")) {
            Derived::Valid(owner, spec) => {
                assert_eq!(owner.name, "quay");
                assert_eq!(undeliverable("Secret argocd/quay", &spec), None);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn wiping_leaves_no_value() {
        let mut secret = quay("quay");
        wipe(&mut secret);
        assert!(
            secret
                .data
                .unwrap()
                .values()
                .all(|value| value.0.is_empty())
        );
    }
}
