//! A binding, and its exchange.

use agent::demand::Key;
use agent::exchange::{Credential, Trade, exchange};
use agent::identity::{IdentityToken, Svid};
use agent::refresh::{Failure, Fresh};
use harness::upstreams::Upstreams;
use shared::binding::{
    CredentialBindingSpec, CredentialKind, Delivery, Exchange, ExchangeKind, Identity, Provider,
    ProxyDelivery, ProxyKind, Target, TargetKind,
};
use shared::registry::RepositoryReference;

/// Who has the identity.
pub(crate) const SUBJECT: &str = "spiffe://example.org/ns/argocd/sa/argocd-project-prod";

/// A binding and the administrator's list.
pub(crate) struct Case {
    pub(crate) spec: CredentialBindingSpec,
    allowed: String,
}

impl Case {
    /// Of the project prod, for `prod/charts` at `host`, delivered by the credential proxy.
    pub(crate) fn new(kind: ExchangeKind, host: &str, allowed: &str) -> Self {
        let spec = CredentialBindingSpec {
            target: Target {
                kind: TargetKind::Registry,
                address: format!("{host}/prod/charts"),
            },
            project: Some("prod".into()),
            provider: Provider::Oidc,
            identity: Identity {
                credential: CredentialKind::SpiffeJWT,
                subject: SUBJECT.into(),
                service_account: "argocd-project-prod".into(),
                audience: "registry".into(),
            },
            exchange: Exchange::of(kind),
            delivery: Delivery::Proxy,
            consumers: vec!["argocd-repo-server".into()],
            proxy: Some(ProxyDelivery {
                key_sha256: vec!["0".repeat(64)],
                previous_key_until: None,
                kind: ProxyKind::Oci,
                insecure: false,
                upstream_proxy: None,
            }),
        };
        let allowed = allowed.to_owned();
        Self { spec, allowed }
    }

    pub(crate) async fn run(
        &self,
        world: &Upstreams,
        identity: &IdentityToken,
    ) -> Result<Fresh<Credential>, Failure> {
        let spec = &self.spec;
        let host = RepositoryReference::parse(&spec.target.address)
            .unwrap()
            .host;
        let key = Key {
            namespace: "argocd".into(),
            project: spec.project.clone(),
            credential: spec.identity.credential,
            subject: spec.identity.subject.clone(),
            service_account: spec.identity.service_account.clone(),
            audience: spec.identity.audience.clone(),
            trade: Trade::of(spec, &host)?,
        };
        let upstream = world.upstream(&self.allowed).unwrap();
        exchange(&upstream, &key, Svid::Token(identity.clone())).await
    }
}
