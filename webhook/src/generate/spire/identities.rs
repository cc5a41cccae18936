//! Secrets flow in, who is to be registered with SPIRE flows out. Pure.

use std::collections::{BTreeMap, BTreeSet};

use control_plane_core::derive::{Derivation, meaning::Derived, object_name};
use k8s_openapi::api::core::v1::Secret;
use shared::{
    binding::{CredentialBindingSpec, CredentialKind, ExchangeKind, undeliverable},
    errors::Named,
    selectors::Registration,
};

use crate::source::derive;

/// Everybody who is to be registered.
#[derive(Debug, Default)]
pub struct Identities {
    by_id: BTreeMap<String, Identity>,
    /// Why Secrets with workload identity have none.
    pub problems: Vec<Named>,
}

/// One SPIFFE ID.
#[derive(Debug)]
pub struct Identity {
    /// The whole SPIFFE ID.
    pub spiffe_id: String,
    /// What its selectors are made from.
    pub registration: Registration,
    /// The Secrets that it is for, as `namespace/name`.
    pub secrets: BTreeSet<String>,
    /// Those of them whose token Quay takes.
    pub at_quay: BTreeSet<String>,
}

impl Identities {
    /// Adds the identity of a Secret, if it has one that SPIRE issues.
    pub fn add(&mut self, derivation: &Derivation, secret: &Secret) {
        let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
        match derive(derivation, secret) {
            Derived::Absent | Derived::Unused(_) => {}
            Derived::Invalid(_, problems) | Derived::Elsewhere(_, problems) => {
                self.problems.extend(problems)
            }
            Derived::Valid(owner, spec) => self.add_binding(namespace, &owner.name, &spec),
        }
    }

    fn add_binding(&mut self, namespace: &str, name: &str, spec: &CredentialBindingSpec) {
        match spec.identity.credential {
            CredentialKind::SpiffeJWT | CredentialKind::SpiffeCertificate => {}
            CredentialKind::ServiceAccountToken => return,
        }
        // What nobody asks for is not to be had either.
        if let Some(problem) = undeliverable(&object_name(namespace, name), spec) {
            self.problems.push(problem);
            return;
        }
        let id = &spec.identity.subject;
        let identity = self.by_id.entry(id.clone()).or_insert_with(|| Identity {
            spiffe_id: id.clone(),
            registration: Registration {
                namespace: namespace.to_owned(),
                service_account: spec.identity.service_account.clone(),
                project: spec.project.clone(),
            },
            secrets: BTreeSet::new(),
            at_quay: BTreeSet::new(),
        });
        let secret = format!("{namespace}/{name}");
        if spec.exchange.kind == ExchangeKind::Quay {
            identity.at_quay.insert(secret.clone());
        }
        identity.secrets.insert(secret);
    }

    /// Each SPIFFE ID once, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Identity> {
        self.by_id.values()
    }
}
