//! A binding's status: each agent writes its own node's entry and nothing else,
//! so that a stolen node speaks for no other.

use std::slice;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::admission::{self, Answer};
use harness::installation::NAMESPACE;
use harness::process::wait_until;
use kube::Client;
use serde_json::{Value, json};
use shared::binding::{GROUP, KIND, VERSION};

use super::bench::{
    account, agent, bindings, control_plane, json_patch, object, refused, smallest,
};
use crate::api::Rest;
use crate::case::{Case, shared};
use crate::identity::bench::{AGENT, node, pod, secrets, token, token_for};
use crate::scene::Scene;

const SOON: Duration = Duration::from_secs(60);
/// What the policy says about entries.
const ENTRIES: (u16, &str) = (403, "An agent writes only its own node's entry");
/// And about all else.
const REST: (u16, &str) = (403, "Only the control plane writes");

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(an_agent_writes_its_own_nodes_entry),
        shared!(an_agent_writes_nothing_else),
        shared!(nobody_else_writes_entries),
        shared!(as_many_nodes_as_the_schema_allows),
    ]
}

async fn an_agent_writes_its_own_nodes_entry(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "policies-own").await?;
    let ([a, b], [node_a, node_b]) = (&bench.agents, &bench.nodes);
    let before = bench.fill().await?;
    ensure!(names(&before) == [node_a, node_b], "{before}");

    // It changes, goes, and comes again; the other one's stays.
    let mut changed = entry(node_a, "Degraded");
    changed["error"] = json!({ "code": "exchange-rejected", "message": "no" });
    let after = bench.apply(a, node_a, &nodes(&[changed.clone()])).await?;
    ensure!(names(&after.object) == [node_a, node_b], "{after:?}");
    ensure!(after.object["status"]["nodes"][0] == changed, "{after:?}");
    let after = bench.apply(a, node_a, &nodes(&[])).await?;
    ensure!(names(&after.object) == [node_b], "{after:?}");
    let after = bench.apply(b, node_b, &nodes(&[])).await?;
    ensure!(names(&after.object).is_empty(), "{after:?}");
    let after = bench.apply(a, node_a, &nodes(&[changed])).await?.object;
    ensure!(names(&after) == [node_a], "{after}");
    for field in ["conditions", "expiresAt"] {
        ensure!(after["status"][field] == before["status"][field], "{after}");
    }

    // And so the agent that really runs, by the pod of its DaemonSet. It takes
    // the entry back, for nobody on its node needs this binding.
    let running = &scene.around.node;
    let pod = running.running_pod(NAMESPACE, "app.kubernetes.io/component=agent", SOON);
    let token = running.token(&pod.await?, None, 600).await?;
    let agent = scene.around.control_plane.client_with_token(&token)?;
    let own = nodes(&[entry(running.name(), "Pending")]);
    let after = bench.apply(&agent, running.name(), &own).await?;
    ensure!(names(&after.object).contains(&running.name()), "{after:?}");
    let other = nodes(&[entry(node_a, "Pending")]);
    let taken = bench.apply(&agent, running.name(), &other).await;
    refused(taken, ENTRIES, &"the running agent").map(drop)
}

async fn an_agent_writes_nothing_else(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "policies-else").await?;
    let ([a, _], [node_a, node_b]) = (&bench.agents, &bench.nodes);
    let before = bench.fill().await?;
    let own = entry(node_a, "Ready");
    let other = entry(node_b, "Degraded");

    // Another node's entry: written, taken, or taken away.
    for (manager, status) in [
        (node_a, nodes(&[own.clone(), other.clone()])),
        (node_a, nodes(slice::from_ref(&other))),
        (node_b, nodes(slice::from_ref(&other))),
        (node_b, nodes(slice::from_ref(&own))),
        (node_b, nodes(&[])),
        (node_b, json!({})),
        (
            node_a,
            nodes(&[own.clone(), entry("policies-else-c", "Ready")]),
        ),
    ] {
        let outcome = bench.apply(a, manager, &status).await;
        refused(outcome, ENTRIES, &(manager, &status))?;
    }
    let merges = Rest::new(a.clone());
    for status in [
        json!({ "nodes": [own] }),
        json!({ "nodes": [own, other] }),
        json!({ "nodes": [] }),
        json!({ "nodes": null }),
    ] {
        let patch = json!({ "status": status });
        let outcome = merges.merge(&bench.path, &patch).await;
        refused(outcome, ENTRIES, &patch)?;
    }
    for operation in [
        json!({ "op": "remove", "path": "/status/nodes/1" }),
        json!({ "op": "replace", "path": "/status/nodes/1/state", "value": "Degraded" }),
        json!({ "op": "replace", "path": "/status/nodes/0/name", "value": "policies-else-c" }),
        json!({ "op": "remove", "path": "/status" }),
    ] {
        let patched = json_patch(a, &bench.path, &json!([operation])).await;
        refused(patched, ENTRIES, &operation)?;
    }

    // What the controller makes of the entries.
    for status in [
        json!({ "nodes": [own], "expiresAt": "2031-01-01T00:00:00Z" }),
        json!({ "nodes": [own], "conditions": [condition("Ready", "False")] }),
        json!({ "nodes": [own], "conditions": [condition("Mine", "True")] }),
    ] {
        let outcome = bench.apply(a, node_a, &status).await;
        refused(outcome, REST, &status)?;
    }
    for status in [
        json!({ "expiresAt": null }),
        json!({ "conditions": null }),
        json!({ "conditions": [] }),
        json!({ "conditions": [condition("Ready", "False")] }),
    ] {
        let patch = json!({ "status": status });
        refused(merges.merge(&bench.path, &patch).await, REST, &patch)?;
    }

    // The subresource leaves the rest alone, and the rest is not the agent's.
    let mine = json!({
        "metadata": { "labels": { "example.test/mine": "" } },
        "spec": { "consumers": ["default"] },
    });
    let after = merges.merge(&bench.path, &mine).await?.object;
    ensure!(after["spec"] == before["spec"], "{after}");
    ensure!(after["metadata"]["labels"].is_null(), "{after}");
    let (whole, _) = bench.path.rsplit_once('/').context("a path")?;
    let roles = (403, "forbidden");
    refused(merges.merge(whole, &mine).await, roles, &"patch")?;
    refused(merges.delete(whole).await, roles, &"delete")?;
    let replaced = merges.replace(&bench.path, &before).await;
    refused(replaced, roles, &"replace")?;
    let own = object("mine", &smallest());
    let made = merges.create(&bindings("policies-else"), &own).await;
    refused(made, roles, &"create")?;
    let after = bench.rest.read(whole).await?;
    ensure!(after["status"] == before["status"], "{after}");
    Ok(())
}

async fn nobody_else_writes_entries(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "policies-nobody").await?;
    let [node_a, _] = &bench.nodes;
    bench.fill().await?;
    // An agent's token that no node vouches for, and a cluster's administrator.
    let unbound = account(scene, NAMESPACE, AGENT).await?;
    let keeper = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": "policies-nobody", "namespace": NAMESPACE },
    });
    let keeper = bench
        .rest
        .create(&secrets(NAMESPACE), &keeper)
        .await?
        .object;
    let bound = Some(("Secret", &keeper));
    let elsewhere = token(&bench.rest, (NAMESPACE, AGENT), None, bound).await?;
    let elsewhere = scene.around.control_plane.client_with_token(&elsewhere)?;
    for (who, caller) in [
        ("unbound", &unbound),
        ("bound to a Secret", &elsewhere),
        ("administrator", &bench.admin),
    ] {
        for status in [
            nodes(&[entry(node_a, "Degraded")]),
            nodes(&[entry("policies-nobody-c", "Ready")]),
        ] {
            let outcome = bench.apply(caller, node_a, &status).await;
            refused(outcome, ENTRIES, &(who, &status))?;
        }
        let outcome = bench.apply(caller, node_a, &nodes(&[])).await;
        refused(outcome, ENTRIES, &(who, "none"))?;
        // Whoever has no node has not the node without a name either.
        let outcome = bench
            .apply(caller, "x", &nodes(&[entry("", "Ready")]))
            .await;
        let status = crate::api::refusal(outcome)?;
        ensure!(matches!(status.code, 403 | 422), "{who}: {status:?}");
        let status = json!({ "expiresAt": "2031-01-01T00:00:00Z" });
        let outcome = bench.apply(caller, "x", &status).await;
        refused(outcome, REST, &(who, &status))?;
    }

    // Somebody else's pod on that node does not even get there; and when its
    // roles let it, it is no agent.
    let other = pod(&bench.rest, "policies-nobody", "other", "default", node_a).await?;
    let other = token_for(&bench.rest, &other, None).await?;
    let other = scene.around.control_plane.client_with_token(&other)?;
    let status = nodes(&[entry(node_a, "Degraded")]);
    let outcome = bench.apply(&other, node_a, &status).await;
    refused(outcome, (403, "cannot patch resource"), &"other")?;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": { "name": "reporters" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": AGENT,
        },
        "subjects": [{ "kind": "ServiceAccount", "name": "default" }],
    });
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/policies-nobody/rolebindings";
    bench.rest.create(roles, &role).await?;
    let (other, bench, status) = (&other, &bench, &status);
    wait_until("the role", SOON, || async move {
        let outcome = bench.apply(other, node_a, status).await;
        refused(outcome, ENTRIES, &"other").map(drop)
    })
    .await
}

/// What the policy costs grows with the entries, and whatever costs too much
/// is refused.
async fn as_many_nodes_as_the_schema_allows(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "policies-many").await?;
    let ([a, _], [node_a, _]) = (&bench.agents, &bench.nodes);
    let most = most_nodes(&bench.rest).await?;
    // Small entries: the store takes no object that is larger than 1.5 MiB.
    let many: Vec<_> = (1..most)
        .map(|index| json!({ "name": format!("node-{index}"), "state": "Ready" }))
        .collect();
    let patch = json!({ "status": { "nodes": many } });
    let ours = Rest::new(bench.control_plane.clone());
    ours.merge(&bench.path, &patch).await?;

    let after = bench
        .apply(a, node_a, &nodes(&[entry(node_a, "Ready")]))
        .await?;
    ensure!(
        names(&after.object).len() == most,
        "{}",
        names(&after.object).len()
    );
    let outcome = bench
        .apply(a, node_a, &nodes(&[entry("node-1", "Degraded")]))
        .await;
    refused(outcome, ENTRIES, &"among many")?;
    let after = bench.apply(a, node_a, &nodes(&[])).await?;
    ensure!(names(&after.object).len() == most - 1);
    Ok(())
}

/// How many entries a status may have.
async fn most_nodes(rest: &Rest) -> Result<usize> {
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/\
                credentialbindings.workload-identity.dev";
    let definition = rest.read(path).await?;
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let most = &schema["properties"]["status"]["properties"]["nodes"]["maxItems"];
    let most = most.as_u64().context("the schema has no maxItems")?;
    Ok(usize::try_from(most)?)
}

/// A binding in a namespace of its own, and the agents of two nodes.
struct Bench {
    rest: Rest,
    admin: Client,
    control_plane: Client,
    /// `<name>-a` and `<name>-b`.
    nodes: [String; 2],
    agents: [Client; 2],
    /// Of the status.
    path: String,
}

impl Bench {
    async fn new(scene: &Scene, name: &str) -> Result<Self> {
        scene.namespace(name, &[]).await?;
        let rest = scene.rest()?;
        let control_plane = control_plane(scene).await?;
        let made = object("charts", &smallest());
        Rest::new(control_plane.clone())
            .create(&bindings(name), &made)
            .await?;
        let nodes = ["a", "b"].map(|end| format!("{name}-{end}"));
        let [a, b] = &nodes;
        node(&rest, a).await?;
        node(&rest, b).await?;
        Ok(Self {
            agents: [agent(scene, a).await?, agent(scene, b).await?],
            admin: scene.client()?,
            control_plane,
            path: format!("{}/charts/status", bindings(name)),
            rest,
            nodes,
        })
    }

    /// Applies a status as the agent of `node` does, with its field manager.
    async fn apply(&self, who: &Client, node: &str, status: &Value) -> Result<Answer<Value>> {
        let document = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": KIND,
            "metadata": { "name": "charts" },
            "status": status,
        });
        let query = format!("fieldManager=argocd-identity-agent%2F{node}&force=true");
        let url = format!("{}?{query}", self.path);
        let kind = "application/apply-patch+yaml";
        admission::send(who, "PATCH", &url, kind, &document).await
    }

    /// Both agents report; then the control plane does.
    async fn fill(&self) -> Result<Value> {
        for (agent, node) in self.agents.iter().zip(&self.nodes) {
            self.apply(agent, node, &nodes(&[entry(node, "Ready")]))
                .await?;
        }
        let status = json!({
            "expiresAt": "2030-01-01T00:00:00Z",
            "conditions": [condition("Ready", "True"), condition("Degraded", "False")],
        });
        let patch = json!({ "status": status });
        let ours = Rest::new(self.control_plane.clone());
        Ok(ours.merge(&self.path, &patch).await?.object)
    }
}

fn nodes(entries: &[Value]) -> Value {
    json!({ "nodes": entries })
}

fn entry(node: &str, state: &str) -> Value {
    json!({
        "name": node,
        "state": state,
        "observedGeneration": 1,
        "expiresAt": "2030-01-01T00:00:00Z",
        "lastRotation": "2029-01-01T00:00:00Z",
        "rotations": 3,
    })
}

fn condition(kind: &str, status: &str) -> Value {
    json!({
        "type": kind,
        "status": status,
        "reason": "ready",
        "message": "",
        "lastTransitionTime": "2029-01-01T00:00:00Z",
    })
}

/// Names of the nodes that have an entry.
fn names(binding: &Value) -> Vec<&str> {
    let nodes = binding["status"]["nodes"].as_array();
    let names = nodes.into_iter().flatten();
    names.filter_map(|node| node["name"].as_str()).collect()
}
