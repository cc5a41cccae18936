//! What the two service accounts may do, beyond what every service account may:
//! exactly the rules below, whichever role they come from.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use harness::admission::{self, Answer};
use harness::installation::NAMESPACE;
use harness::scene::ARGOCD;
use kube::Client;
use serde_json::{Value, json};

use super::bench::{CONTROL_PLANE, account, control_plane, refused};
use crate::api::Rest;
use crate::case::{Case, shared};
use crate::identity::bench::{AGENT, accounts, pods, secrets, service_accounts, token_request};
use crate::scene::Scene;

/// What RBAC says.
const FORBIDDEN: (u16, &str) = (403, "cannot");

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(agents_read_bindings_and_report),
        shared!(the_control_plane_reads_secrets_where_it_was_told),
    ]
}

async fn agents_read_bindings_and_report(scene: &Scene) -> Result<()> {
    let agent = account(scene, NAMESPACE, AGENT).await?;
    let nobody = account(scene, NAMESPACE, "default").await?;
    for namespace in namespaces(scene).await? {
        let rules = rules(&agent, &nobody, &namespace).await?;
        let expected = [
            "create,patch events.k8s.io/events",
            "get,list,watch workload-identity.dev/credentialbindings",
            "list,watch /configmaps argocd-tls-certs-cm",
            "patch workload-identity.dev/credentialbindings/status",
        ];
        ensure!(rules == set(&expected), "{namespace}: {rules:?}");
    }

    accounts(&scene.rest()?, ARGOCD).await?;
    for namespace in [ARGOCD, NAMESPACE, "default", "kube-system"] {
        let secrets = secrets(namespace);
        for path in [
            secrets.clone(),
            format!("{secrets}/argocd-identity-issuer"),
            format!("{secrets}?watch=true"),
            pods(namespace),
            format!("{}/any", pods(namespace)),
            format!("/api/v1/namespaces/{namespace}/configmaps"),
            service_accounts(namespace),
        ] {
            refused(get(&agent, &path).await, FORBIDDEN, &path)?;
        }
    }
    for path in ["/api/v1/secrets", "/api/v1/pods", "/api/v1/nodes"] {
        refused(get(&agent, path).await, FORBIDDEN, &path)?;
    }
    let roots = "/api/v1/configmaps?fieldSelector=metadata.name%3D";
    let others = format!("{roots}argocd-cm");
    refused(get(&agent, &others).await, FORBIDDEN, &others)?;
    let path = format!("{roots}argocd-tls-certs-cm");
    get(&agent, &path).await.context(path)?;
    let agent = Rest::new(agent);
    for (namespace, account) in [
        (ARGOCD, "argocd-repo-server"),
        (NAMESPACE, CONTROL_PLANE),
        (NAMESPACE, AGENT),
    ] {
        let path = format!("{}/{account}/token", service_accounts(namespace));
        let made = agent.create(&path, &token_request(None, None)).await;
        refused(made, FORBIDDEN, &path)?;
    }
    Ok(())
}

async fn the_control_plane_reads_secrets_where_it_was_told(scene: &Scene) -> Result<()> {
    let everywhere = [
        "create authentication.k8s.io/tokenreviews",
        "create,delete,get,list,patch,watch workload-identity.dev/credentialbindings",
        "get,list,watch /nodes",
        "patch workload-identity.dev/credentialbindings/status",
    ];
    let argocd = [
        "create /serviceaccounts/token",
        "create,patch events.k8s.io/events",
        "get,list,watch /pods",
        "get,list,watch /secrets",
        "get,list,watch /serviceaccounts",
    ];
    let own = [
        "create /secrets",
        "create coordination.k8s.io/leases",
        "get /secrets argocd-identity-proxy-key",
        "get,list,watch /secrets argocd-identity-issuer",
        "get,update coordination.k8s.io/leases argocd-identity-controller",
    ];
    let ours = control_plane(scene).await?;
    let nobody = account(scene, NAMESPACE, "default").await?;
    for namespace in namespaces(scene).await? {
        let rules = rules(&ours, &nobody, &namespace).await?;
        let mut expected = set(&everywhere);
        match namespace.as_str() {
            ARGOCD => expected.extend(set(&argocd)),
            NAMESPACE => expected.extend(set(&own)),
            _ => {}
        }
        ensure!(rules == expected, "{namespace}: {rules:?}");
    }

    let issuer = format!("{}/argocd-identity-issuer", secrets(NAMESPACE));
    let named = |name: &str| {
        format!(
            "{}?fieldSelector=metadata.name%3D{name}",
            secrets(NAMESPACE)
        )
    };
    let only = named("argocd-identity-issuer");
    for path in [secrets(ARGOCD), pods(ARGOCD), issuer.clone(), only] {
        get(&ours, &path).await.with_context(|| path.clone())?;
    }
    for path in [
        "/api/v1/secrets".to_owned(),
        secrets(NAMESPACE),
        named("argocd-identity-tls"),
        format!("{}/argocd-identity-tls", secrets(NAMESPACE)),
        secrets("default"),
        format!("{}/argocd-identity-issuer", secrets("default")),
        secrets("kube-system"),
        "/api/v1/pods".to_owned(),
        pods(NAMESPACE),
    ] {
        refused(get(&ours, &path).await, FORBIDDEN, &path)?;
    }
    let ours = Rest::new(ours);
    let change = json!({ "metadata": { "labels": { "example.test/a": "b" } } });
    refused(ours.merge(&issuer, &change).await, FORBIDDEN, &"patch")?;
    refused(ours.delete(&issuer).await, FORBIDDEN, &"delete")?;
    // What RBAC allows in an Argo CD namespace, the policy limits (tokens.rs).
    for (namespace, account) in [("default", "default"), (NAMESPACE, AGENT)] {
        let path = format!("{}/{account}/token", service_accounts(namespace));
        let made = ours.create(&path, &token_request(None, None)).await;
        refused(made, FORBIDDEN, &path)?;
    }
    Ok(())
}

async fn get(client: &Client, path: &str) -> Result<Answer<Value>> {
    admission::send(client, "GET", path, "application/json", &json!({})).await
}

/// The namespaces of the cluster, those of other trials among them.
async fn namespaces(scene: &Scene) -> Result<Vec<String>> {
    let list = scene.rest()?.read("/api/v1/namespaces").await?;
    let items = list["items"].as_array().context("no list")?;
    let names = items
        .iter()
        .filter(|item| item["status"]["phase"] == "Active");
    names
        .map(|item| {
            let name = item["metadata"]["name"].as_str();
            Ok(name.context("a namespace without a name")?.to_owned())
        })
        .collect()
}

fn set(rules: &[&str]) -> BTreeSet<String> {
    rules.iter().map(|rule| (*rule).to_owned()).collect()
}

/// What a caller may do in a namespace and a service account without any role
/// may not, as `verbs group/resource names`.
async fn rules(caller: &Client, nobody: &Client, namespace: &str) -> Result<BTreeSet<String>> {
    let theirs = listed(caller, namespace).await?;
    let nobodys = listed(nobody, namespace).await?;
    Ok(theirs.difference(&nobodys).cloned().collect())
}

async fn listed(client: &Client, namespace: &str) -> Result<BTreeSet<String>> {
    let question = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": { "namespace": namespace },
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let rest = Rest::new(client.clone());
    let answer = rest.create(path, &question).await?.object;
    let rules = answer["status"]["resourceRules"].as_array();
    let mut listed = BTreeSet::new();
    for rule in rules.context("no rules")? {
        let words = |field: &str| -> Vec<&str> {
            let words = rule[field].as_array().into_iter().flatten();
            let mut words: Vec<_> = words.filter_map(Value::as_str).collect();
            words.sort_unstable();
            words
        };
        let (verbs, names) = (words("verbs").join(","), words("resourceNames").join(","));
        for group in words("apiGroups") {
            for resource in words("resources") {
                let line = format!("{verbs} {group}/{resource} {names}");
                listed.insert(line.trim_end().to_owned());
            }
        }
    }
    Ok(listed)
}
