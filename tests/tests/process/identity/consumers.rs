//! For whom: a running pod on the agent's node, whose service account is a
//! consumer in the binding's namespace.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::installation::NAMESPACE;
use harness::process::wait_until;
use harness::scene::ARGOCD;
use harness::targets::{SPOKE_AUDIENCE, secret};
use serde_json::{Value, json};
use shared::errors::Code;

use super::bench::{
    AGENT, Ask, Bench, REPO_SERVER, SERVER, accounts, bound_token, describe, node, path, pod, pods,
    remove, repository, secrets, token,
};
use crate::case::{Case, shared};
use crate::scene::Scene;

/// For what takes effect at the API server a moment later.
const SOON: Duration = Duration::from_secs(30);
/// For so long the API server answers about a token as it did the last time
/// that the token was good.
const REMEMBERED: Duration = Duration::from_secs(10);

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(pods_of_another_node),
        shared!(a_node_made_again_is_another_one),
        shared!(unbound_pod_tokens),
        shared!(service_accounts_that_are_no_consumers),
        shared!(other_namespaces),
        shared!(pods_that_ended),
        shared!(deleted_pods),
    ]
}

async fn pods_of_another_node(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "elsewhere").await?;
    let rest = &bench.rest;
    node(rest, "identity-elsewhere-2").await?;
    let elsewhere = pod(
        rest,
        ARGOCD,
        "identity-elsewhere-2",
        REPO_SERVER,
        "identity-elsewhere-2",
    );
    let ask = Ask {
        pod: bound_token(rest, &elsewhere.await?).await?,
        ..bench.granted()
    };
    let message = bench.api.refuses(&ask, 403, Code::NodeMismatch).await?;
    ensure!(message.contains("identity-elsewhere-2"), "{message}");
    bench.close().await
}

async fn a_node_made_again_is_another_one(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "again").await?;
    let rest = &bench.rest;
    rest.delete(&format!("/api/v1/nodes/{}", bench.name))
        .await?;
    node(rest, &bench.name).await?;
    let agent = pod(rest, NAMESPACE, "identity-again-2", AGENT, &bench.name).await?;
    let ask = Ask {
        agent: bound_token(rest, &agent).await?,
        ..bench.granted()
    };
    bench.api.refuses(&ask, 403, Code::NodeMismatch).await?;
    bench.close().await
}

async fn unbound_pod_tokens(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "unbound-pod").await?;
    let rest = &bench.rest;
    let account = (ARGOCD, REPO_SERVER);
    let ours = Some(shared::layout::TOKEN_AUDIENCE);
    let machine = rest.read(&format!("/api/v1/nodes/{}", bench.name)).await?;
    let nowhere = pod(rest, ARGOCD, "identity-pod-nowhere", REPO_SERVER, "").await?;
    for (bound, lacks) in [
        (None, "pod-name"),
        (Some(("Node", &machine)), "pod-name"),
        (Some(("Pod", &nowhere)), "node-name"),
    ] {
        let ask = Ask {
            pod: token(rest, account, ours, bound).await?,
            ..bench.granted()
        };
        let message = bench.api.refuses(&ask, 403, Code::PodTokenUnbound).await?;
        ensure!(message.contains(lacks), "{message}");
    }
    bench.close().await
}

async fn service_accounts_that_are_no_consumers(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "account").await?;
    let rest = &bench.rest;
    let cluster = "identity-account-cluster";
    let cluster_secret = cluster_secret(scene, cluster)?;
    rest.create(&secrets(ARGOCD), &cluster_secret).await?;

    let server = pod(rest, ARGOCD, "identity-server", SERVER, &bench.name).await?;
    let server = bound_token(rest, &server).await?;
    let other = pod(rest, ARGOCD, "identity-other", "default", &bench.name).await?;
    let other = bound_token(rest, &other).await?;
    let repo_server = bench.granted().pod;
    // (whose pod, which binding, is it a consumer?)
    for (pod, binding, is_consumer) in [
        (&repo_server, bench.name.as_str(), true),
        (&server, cluster, true),
        (&server, bench.name.as_str(), false),
        (&repo_server, cluster, false),
        (&other, bench.name.as_str(), false),
        (&other, cluster, false),
    ] {
        let ask = Ask {
            pod: pod.clone(),
            binding: binding.to_owned(),
            ..bench.granted()
        };
        match is_consumer {
            true => drop(bench.api.ask(&ask).await?.granted()?),
            false => drop(bench.api.refuses(&ask, 403, Code::NotAConsumer).await?),
        }
    }
    rest.delete(&format!("{}/{cluster}", secrets(ARGOCD)))
        .await?;
    bench.close().await
}

async fn other_namespaces(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "namespace").await?;
    let rest = &bench.rest;
    // An Argo CD like the other one, but for the service that nobody promised it.
    let other = scene.namespace("identity-namespace", &[]).await?;
    accounts(rest, other).await?;
    let mut copy: Value = serde_json::from_str(&repository(&bench.name, &[]))?;
    copy["metadata"]["namespace"] = json!(other);
    rest.create(&secrets(other), &copy).await?;
    let theirs = pod(rest, other, &bench.name, REPO_SERVER, &bench.name).await?;
    let theirs = bound_token(rest, &theirs).await?;

    // A namespace that is not served gets nothing, whoever asks.
    for pod in [theirs.clone(), bench.granted().pod] {
        for namespace in [other, "", "kube-system", "argocd ", "ARGOCD", "*"] {
            let ask = Ask {
                namespace: namespace.to_owned(),
                pod: pod.clone(),
                ..bench.granted()
            };
            let message = bench.api.refuses(&ask, 404, Code::BindingNotFound).await?;
            ensure!(message.contains("is not served"), "{message}");
        }
    }
    // A service account of the same name in another namespace is another one.
    let ask = Ask {
        pod: theirs,
        ..bench.granted()
    };
    let message = bench.api.refuses(&ask, 403, Code::NotAConsumer).await?;
    ensure!(message.contains(other), "{message}");
    bench.close().await
}

async fn pods_that_ended(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "ended").await?;
    let rest = &bench.rest;
    for phase in ["Succeeded", "Failed"] {
        let name = format!("identity-{}", phase.to_lowercase());
        let pod = pod(rest, ARGOCD, &name, REPO_SERVER, &bench.name).await?;
        let status = format!("{}/status", path(&pod)?);
        let ask = Ask {
            pod: bound_token(rest, &pod).await?,
            ..bench.granted()
        };
        for granted in ["Pending", "Running"] {
            let patch = json!({ "status": { "phase": granted } });
            rest.merge(&status, &patch).await?;
            bench.api.ask(&ask).await?.granted()?;
        }
        rest.merge(&status, &json!({ "status": { "phase": phase } }))
            .await?;
        let message = bench.api.refuses(&ask, 409, Code::PodNotRunning).await?;
        ensure!(message.contains(phase), "{message}");
    }
    bench.close().await
}

async fn deleted_pods(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "deleted").await?;
    let rest = &bench.rest;

    // Its grace period is over, but something still holds the object.
    let mut held = describe(ARGOCD, "identity-held", REPO_SERVER, &bench.name);
    held["metadata"]["finalizers"] = json!(["example.test/held"]);
    let held = rest.create(&pods(ARGOCD), &held).await?.object;
    let ask = Ask {
        pod: bound_token(rest, &held).await?,
        ..bench.granted()
    };
    bench.api.ask(&ask).await?.granted()?;
    remove(&bench.admin, &held).await?;
    let message = bench.api.refuses(&ask, 409, Code::PodNotRunning).await?;
    ensure!(message.contains("grace period"), "{message}");
    let release = json!({ "metadata": { "finalizers": null } });
    rest.merge(&path(&held)?, &release).await?;

    // While its grace period lasts, a pod may finish what it does.
    let going = pod(rest, ARGOCD, "identity-going", REPO_SERVER, &bench.name).await?;
    let ask = Ask {
        pod: bound_token(rest, &going).await?,
        ..bench.granted()
    };
    rest.delete(&path(&going)?).await?;
    bench.api.ask(&ask).await?.granted()?;
    remove(&bench.admin, &going).await?;

    // Gone, but the API server still remembers its token; and so is the pod
    // whose name another one has taken.
    for (name, is_made_again, why) in [
        ("identity-gone", false, "it is gone"),
        ("identity-replaced", true, "another pod has its name"),
    ] {
        let (message, token) = loop {
            let gone = pod(rest, ARGOCD, name, REPO_SERVER, &bench.name).await?;
            let ask = Ask {
                pod: bound_token(rest, &gone).await?,
                ..bench.granted()
            };
            let seen = Instant::now();
            bench.api.ask(&ask).await?.granted()?;
            remove(&bench.admin, &gone).await?;
            if is_made_again {
                pod(rest, ARGOCD, name, REPO_SERVER, &bench.name).await?;
            }
            let answer = bench.api.ask(&ask).await?;
            if seen.elapsed() < REMEMBERED {
                break (answer.refused(409, Code::PodNotRunning)?, ask.pod);
            }
            // A busy machine: the API server may have forgotten the token.
            if is_made_again {
                let again = rest.read(&format!("{}/{name}", pods(ARGOCD))).await?;
                remove(&bench.admin, &again).await?;
            }
        };
        ensure!(message.contains(why), "{message}");
        // When the API server has forgotten it, the token itself is no good.
        let ask = &Ask {
            pod: token,
            ..bench.granted()
        };
        let api = &bench.api;
        wait_until("the token to be forgotten", SOON, || async move {
            api.refuses(ask, 403, Code::PodTokenRejected).await
        })
        .await?;
    }
    bench.close().await
}

/// A cluster Secret with a server and a subject of its own, so that it is in no
/// conflict with another trial's.
pub(super) fn cluster_secret(scene: &Scene, name: &str) -> Result<Value> {
    let server = format!("https://{}", scene.around.targets.quay.host());
    let text = secret(
        name,
        "cluster",
        &[
            ("name", name),
            ("server", &server),
            ("project", name),
            ("config", "{}"),
            ("useWorkloadIdentity", "true"),
            ("workloadIdentityAudience", SPOKE_AUDIENCE),
        ],
    );
    serde_json::from_str(&text).context("describe the Secret")
}
