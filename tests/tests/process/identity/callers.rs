//! Who may ask: the agent, by a token that is bound to its pod on a node.

use anyhow::{Result, ensure};
use harness::installation::NAMESPACE;
use harness::scene::NODE;
use serde_json::json;
use shared::errors::Code;
use shared::layout::TOKEN_AUDIENCE;

use super::bench::{
    AGENT, Ask, Bench, accounts, answer, bound_token, node, pod, secrets, service_accounts, token,
    token_for,
};
use super::forgery::{Forger, shift};
use crate::case::{Case, shared};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(no_token_and_what_is_none),
        shared!(tokens_for_another_audience),
        shared!(expired_and_forged_tokens),
        shared!(unbound_tokens),
        shared!(only_the_agents_service_account_asks),
    ]
}

async fn no_token_and_what_is_none(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "no-token").await?;
    let good = bench.granted();
    let body = good.body().to_string();
    let rejected = |answer: super::bench::Answer| answer.refused(401, Code::AgentTokenRejected);

    let silent = answer(bench.api.call(None, body.clone())).await?;
    ensure!(rejected(silent)?.contains("there is no bearer token"));
    // Whoever is not known learns nothing about what is wrong with the rest.
    let nothing = answer(bench.api.call(None, "no JSON".to_owned())).await?;
    rejected(nothing)?;

    let as_basic = format!("Basic {}", good.agent);
    for header in ["", "Bearer", "Bearer ", good.agent.as_str(), &as_basic] {
        let request = bench.api.call(None, body.clone());
        rejected(answer(request.header("authorization", header)).await?)?;
    }
    let cut = good.agent.get(..good.agent.len() - 9).unwrap_or_default();
    // What the API server itself takes from others is no token for our audience.
    let admin = scene.around.control_plane.admin_token();
    let kubelet = scene.around.control_plane.node_token(NODE)?;
    for agent in ["garbage", "a.b.c", "e30.e30.", cut, admin, kubelet] {
        let ask = Ask {
            agent: agent.to_owned(),
            ..bench.granted()
        };
        let message = bench.api.refuses(&ask, 401, Code::AgentTokenRejected);
        ensure!(!message.await?.contains(agent), "the token is repeated");
        let ask = Ask {
            pod: agent.to_owned(),
            ..bench.granted()
        };
        let message = bench.api.refuses(&ask, 403, Code::PodTokenRejected);
        ensure!(!message.await?.contains(agent), "the token is repeated");
    }
    bench.close().await
}

async fn tokens_for_another_audience(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "audience").await?;
    for audience in [None, Some("argocd-identity.example.test"), Some("argocd")] {
        let ask = Ask {
            agent: token_for(&bench.rest, &bench.agent, audience).await?,
            ..bench.granted()
        };
        bench
            .api
            .refuses(&ask, 401, Code::AgentTokenRejected)
            .await?;
        let ask = Ask {
            pod: token_for(&bench.rest, &bench.consumer, audience).await?,
            ..bench.granted()
        };
        bench.api.refuses(&ask, 403, Code::PodTokenRejected).await?;
    }
    bench.close().await
}

/// The API server gives no token that lives less than ten minutes, so these are
/// signed here, with the key that it signs with itself.
async fn expired_and_forged_tokens(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "expired").await?;
    let good = bench.granted();
    let real = Forger::new(scene.around.control_plane.dir())?;
    // Twice as long as any clock may be off.
    let past = |claims: &mut _| shift(claims, -900);

    // It is the time alone that is wrong with those.
    let same = Ask {
        agent: real.forge(&good.agent, |claims| claims["jti"] = json!("another"))?,
        pod: real.forge(&good.pod, |claims| claims["jti"] = json!("another"))?,
        ..bench.granted()
    };
    bench.api.ask(&same).await?.granted()?;
    let ask = Ask {
        agent: real.forge(&good.agent, past)?,
        ..bench.granted()
    };
    let message = bench.api.refuses(&ask, 401, Code::AgentTokenRejected);
    let message = message.await?;
    ensure!(message.contains("expired"), "{message}");
    let ask = Ask {
        pod: real.forge(&good.pod, past)?,
        ..bench.granted()
    };
    let message = bench.api.refuses(&ask, 403, Code::PodTokenRejected).await?;
    ensure!(message.contains("expired"), "{message}");

    // Another cluster's key, and an unsigned one.
    let wrong = Forger::new(&scene.folder.join("remote"))?;
    let unsigned = |token: &str| {
        let (signed, _) = token.rsplit_once('.').unwrap_or_default();
        format!("{signed}.")
    };
    let forged = [
        (
            wrong.forge(&good.agent, |_| ())?,
            wrong.forge(&good.pod, |_| ())?,
        ),
        (unsigned(&good.agent), unsigned(&good.pod)),
    ];
    for (agent, pod) in forged {
        let ask = Ask {
            agent,
            ..bench.granted()
        };
        bench
            .api
            .refuses(&ask, 401, Code::AgentTokenRejected)
            .await?;
        let ask = Ask {
            pod,
            ..bench.granted()
        };
        bench.api.refuses(&ask, 403, Code::PodTokenRejected).await?;
    }
    bench.close().await
}

async fn unbound_tokens(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "unbound").await?;
    let rest = &bench.rest;
    let account = (NAMESPACE, AGENT);
    let ours = Some(TOKEN_AUDIENCE);
    let keeper = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": bench.name, "namespace": NAMESPACE },
    });
    let keeper = rest.create(&secrets(NAMESPACE), &keeper).await?.object;
    let machine = rest.read(&format!("/api/v1/nodes/{}", bench.name)).await?;
    let nowhere = pod(rest, NAMESPACE, "identity-nowhere", AGENT, "").await?;
    for (bound, lacks) in [
        (None, "pod-name"),
        (Some(("Secret", &keeper)), "pod-name"),
        // It says which node, but nothing vouches for a pod there.
        (Some(("Node", &machine)), "pod-name"),
        (Some(("Pod", &nowhere)), "node-name"),
    ] {
        let ask = Ask {
            agent: token(rest, account, ours, bound).await?,
            ..bench.granted()
        };
        let message = bench.api.refuses(&ask, 403, Code::AgentTokenUnbound);
        let message = message.await?;
        ensure!(message.contains(lacks), "{message}");
    }
    bench.close().await
}

async fn only_the_agents_service_account_asks(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "caller").await?;
    let rest = &bench.rest;
    let other = scene.namespace("identity-caller", &[]).await?;
    accounts(rest, other).await?;
    // The same name elsewhere, and a longer one here.
    for (namespace, name) in [(other, AGENT), (NAMESPACE, "argocd-identity-agent-2")] {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": name },
        });
        rest.create(&service_accounts(namespace), &object).await?;
    }
    // All of them on the consumer's own node, so that nothing else is wrong.
    let on = bench.name.as_str();
    for (name, namespace, account) in [
        ("identity-same-name", other, AGENT),
        ("identity-longer", NAMESPACE, "argocd-identity-agent-2"),
        ("identity-control-plane", NAMESPACE, "argocd-identity"),
        ("identity-default", NAMESPACE, "default"),
    ] {
        let pod = pod(rest, namespace, name, account, on).await?;
        let ask = Ask {
            agent: bound_token(rest, &pod).await?,
            ..bench.granted()
        };
        let message = bench.api.refuses(&ask, 403, Code::AgentNotAuthorized);
        let message = message.await?;
        ensure!(message.contains(account), "{message}");
    }
    // A consumer cannot ask for itself.
    let ask = Ask {
        agent: bench.granted().pod,
        ..bench.granted()
    };
    bench
        .api
        .refuses(&ask, 403, Code::AgentNotAuthorized)
        .await?;
    // And an agent is no consumer.
    let ask = Ask {
        pod: bench.granted().agent,
        ..bench.granted()
    };
    bench.api.refuses(&ask, 403, Code::NotAConsumer).await?;
    // Another node's agent is a caller like any other; its pods are its own.
    node(rest, "identity-caller-2").await?;
    let elsewhere = pod(
        rest,
        NAMESPACE,
        "identity-caller-2",
        AGENT,
        "identity-caller-2",
    );
    let ask = Ask {
        agent: bound_token(rest, &elsewhere.await?).await?,
        ..bench.granted()
    };
    bench.api.refuses(&ask, 403, Code::NodeMismatch).await?;
    bench.close().await
}
