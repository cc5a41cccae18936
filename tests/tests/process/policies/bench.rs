//! Who writes, and what: service accounts and bindings flow in, clients and
//! paths flow out.

use std::fmt::Debug;

use anyhow::{Result, ensure};
use harness::admission::{self, Answer};
use harness::installation::NAMESPACE;
use kube::Client;
use kube::core::Status;
use serde_json::{Value, json};
use shared::binding::{
    CredentialBindingSpec, CredentialKind, Delivery, Exchange, ExchangeKind, GROUP, Identity, KIND,
    PLURAL, Provider, Target, TargetKind, VERSION,
};

use crate::api::refusal;
use crate::identity::bench::{AGENT, pod, token, token_for};
use crate::scene::Scene;

/// The control plane's service account.
pub(super) const CONTROL_PLANE: &str = "argocd-identity";

/// A client of a service account, with a token that is bound to nothing.
pub(super) async fn account(scene: &Scene, namespace: &str, name: &str) -> Result<Client> {
    let token = token(&scene.rest()?, (namespace, name), None, None).await?;
    with_token(scene, &token)
}

/// A client of the control plane's service account.
pub(super) async fn control_plane(scene: &Scene) -> Result<Client> {
    account(scene, NAMESPACE, CONTROL_PLANE).await
}

/// A client of an agent's pod that is made on a node.
pub(super) async fn agent(scene: &Scene, node: &str) -> Result<Client> {
    let rest = scene.rest()?;
    let pod = pod(&rest, NAMESPACE, node, AGENT, node).await?;
    with_token(scene, &token_for(&rest, &pod, None).await?)
}

fn with_token(scene: &Scene, token: &str) -> Result<Client> {
    scene.around.control_plane.client_with_token(token)
}

/// Path of the bindings of a namespace.
pub(super) fn bindings(namespace: &str) -> String {
    format!("/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}")
}

/// A binding as an object to create.
pub(super) fn object(name: &str, spec: &CredentialBindingSpec) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": { "name": name },
        "spec": spec,
    })
}

/// A spec with everything that is optional left out.
pub(super) fn smallest() -> CredentialBindingSpec {
    CredentialBindingSpec {
        target: Target {
            kind: TargetKind::Registry,
            address: "policies.example.test/team".to_owned(),
        },
        project: None,
        provider: Provider::Spiffe,
        identity: Identity {
            subject: "spiffe://example.test/ns/argocd/sa/argocd-global".to_owned(),
            audience: "policies.example.test".to_owned(),
            service_account: "argocd-global".to_owned(),
            credential: CredentialKind::SpiffeJWT,
        },
        exchange: Exchange::of(ExchangeKind::Quay),
        delivery: Delivery::DockerConfig,
        consumers: vec!["argocd-repo-server".to_owned()],
        proxy: None,
    }
}

/// A JSON patch.
pub(super) async fn json_patch(
    client: &Client,
    path: &str,
    operations: &Value,
) -> Result<Answer<Value>> {
    admission::send(
        client,
        "PATCH",
        path,
        "application/json-patch+json",
        operations,
    )
    .await
}

/// Makes sure that a request was refused with this status and these words;
/// `what` is shown where it was not.
pub(super) fn refused(
    outcome: Result<Answer<Value>>,
    (code, words): (u16, &str),
    what: &impl Debug,
) -> Result<Status> {
    let status = refusal(outcome).map_err(|error| error.context(format!("{what:?}")))?;
    ensure!(
        status.code == code && status.message.contains(words),
        "{what:?}: {status:?}"
    );
    Ok(status)
}
