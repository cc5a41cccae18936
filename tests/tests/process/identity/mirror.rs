//! A stolen node: what it can do with its own credentials, and that none of it
//! makes it a consumer.
//!
//! A node may create mirror pods with any label. What it cannot do is obtain a
//! token of a service account that runs nowhere on it.

use anyhow::{Context as _, Result, bail, ensure};
use control_plane_core::annotations::{COMPONENT, INJECT};
use harness::scene::ARGOCD;
use kube::config::AuthInfo;
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use shared::errors::Code;
use shared::layout::TOKEN_AUDIENCE;

use super::bench::{
    Ask, Bench, REPO_SERVER, bound_token, describe, node, pods, service_accounts, token_request,
};
use crate::api::{Rest, refusal};
use crate::case::{Case, shared};
use crate::scene::Scene;

/// As the webhook knows a repo-server, and different from the real one's, which
/// other trials look for.
const LABELS: (&str, &str) = ("app.kubernetes.io/name", "stolen-repo-server");

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(a_mirror_pod_gets_no_token),
        shared!(labels_and_annotations_prove_nothing),
    ]
}

async fn a_mirror_pod_gets_no_token(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "mirror").await?;
    // This one runs no consumer; the bench's own runs one.
    let bare = "identity-mirror-2";
    node(&bench.rest, bare).await?;
    for name in [bare, bench.name.as_str()] {
        let machine = bench.rest.read(&format!("/api/v1/nodes/{name}")).await?;
        let thief = Rest::new(as_node(scene, name)?);

        let mut pod = mirror(name, &machine);
        pod["spec"]["serviceAccountName"] = json!(REPO_SERVER);
        let refused = refusal(thief.create(&pods(ARGOCD), &pod).await)?;
        ensure!(refused.code == 403, "{refused:?}");
        ensure!(refused.message.contains("service account"), "{refused:?}");

        let mut pod = mirror(name, &machine);
        let source = json!({ "serviceAccountToken": { "path": "t", "audience": TOKEN_AUDIENCE } });
        pod["spec"]["volumes"] = json!([{ "name": "t", "projected": { "sources": [source] } }]);
        let refused = refusal(thief.create(&pods(ARGOCD), &pod).await)?;
        ensure!(refused.code == 403, "{refused:?}");

        let pod = mirror(name, &machine);
        let made = thief.create(&pods(ARGOCD), &pod).await?.object;
        ensure!(made["metadata"]["labels"][LABELS.0] == LABELS.1, "{made}");
        ensure!(made["spec"]["nodeName"] == name, "{made}");

        for (account, runs_here) in [(REPO_SERVER, name != bare), ("default", false)] {
            let path = format!("{}/{account}/token", service_accounts(ARGOCD));
            for bound in [None, Some(("Node", &machine)), Some(("Pod", &made))] {
                let request = token_request(Some(TOKEN_AUDIENCE), bound);
                let refused = refusal(thief.create(&path, &request).await)?;
                let reasons: &[&str] = match (runs_here, bound) {
                    // The node authorizer.
                    (false, _) => &["no relationship found"],
                    // NodeRestriction; the TokenRequest itself before Kubernetes 1.33.
                    (true, Some(("Pod", _))) => {
                        &["not found in pod spec", "different serviceaccount name"]
                    }
                    (true, _) => &["not bound to a pod"],
                };
                let is_why = reasons.iter().any(|why| refused.message.contains(why));
                ensure!(is_why, "{name} {account} {bound:?}: {refused:?}");
                ensure!(matches!(refused.code, 400 | 403), "{refused:?}");
            }
        }
    }
    bench.close().await
}

async fn labels_and_annotations_prove_nothing(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "labels").await?;
    let rest = &bench.rest;
    let mut pod = describe(ARGOCD, "identity-labelled", "default", &bench.name);
    pod["metadata"]["labels"] = json!({ LABELS.0: LABELS.1 });
    pod["metadata"]["annotations"] = json!({ COMPONENT: "repo-server" });
    let pod = rest.create(&pods(ARGOCD), &pod).await?.object;
    // It looks so much like a repo-server that it gets the volume of one.
    let volumes = pod["spec"]["volumes"].to_string();
    ensure!(volumes.contains(shared::layout::CSI_DRIVER), "{pod}");
    let ask = Ask {
        pod: bound_token(rest, &pod).await?,
        ..bench.granted()
    };
    bench.api.refuses(&ask, 403, Code::NotAConsumer).await?;
    bench.close().await
}

/// A mirror pod as kubelet makes one of a static pod.
fn mirror(node: &str, machine: &Value) -> Value {
    let mut pod = describe(ARGOCD, &format!("{node}-static"), "", node);
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.remove("serviceAccountName");
    }
    pod["metadata"]["labels"] = json!({ LABELS.0: LABELS.1 });
    pod["metadata"]["annotations"] = json!({
        "kubernetes.io/config.mirror": "0123456789abcdef",
        "kubernetes.io/config.source": "file",
        // Else it gets a CSI volume, and that a node may not ask for.
        INJECT: "disabled",
    });
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1",
        "kind": "Node",
        "name": node,
        "uid": machine["metadata"]["uid"],
        "controller": true,
    }]);
    pod
}

/// A client that the API server takes for the kubelet of a node.
fn as_node(scene: &Scene, node: &str) -> Result<Client> {
    let cluster = &scene.around.control_plane;
    let url = cluster.url().parse().context("address of the API server")?;
    let authority = CertificateDer::from_pem_slice(cluster.ca_pem().as_bytes());
    let Ok(authority) = authority else {
        bail!("the API server's authority is no certificate");
    };
    let mut config = Config::new(url);
    config.root_cert = Some(vec![authority.to_vec()]);
    config.auth_info = AuthInfo {
        token: Some(cluster.admin_token().to_owned().into()),
        impersonate: Some(format!("system:node:{node}")),
        impersonate_groups: Some(vec!["system:nodes".to_owned()]),
        ..AuthInfo::default()
    };
    Client::try_from(config).context("make a Kubernetes client")
}
