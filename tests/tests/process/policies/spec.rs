//! A binding's spec is the control plane's: not even a cluster's administrator
//! changes it, and the binding goes with its Secret.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use harness::bindings;
use harness::installation::NAMESPACE;
use harness::process::wait_until;
use harness::scene::ARGOCD;
use serde_json::{Value, json};

use super::bench::{
    CONTROL_PLANE, account, bindings as all, control_plane, json_patch, object, refused, smallest,
};
use crate::api::Rest;
use crate::case::{Case, shared};
use crate::identity::bench::{AGENT, repository, secrets, service_accounts};
use crate::scene::Scene;

const SOON: Duration = Duration::from_secs(60);
/// What the policy says.
const POLICY: (u16, &str) = (403, "Only the control plane writes");

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(an_administrator_does_not_write_a_spec),
        shared!(nor_does_another_service_account),
        shared!(a_binding_goes_with_its_secret),
    ]
}

async fn an_administrator_does_not_write_a_spec(scene: &Scene) -> Result<()> {
    let (rest, client) = (scene.rest()?, scene.client()?);
    let name = "policies-spec";
    let stored: Value = serde_json::from_str(&repository(name, &[]))?;
    rest.create(&secrets(ARGOCD), &stored).await?;
    let api = &bindings::api(client.clone(), ARGOCD);
    let binding = wait_until(
        "the binding",
        SOON,
        || async move { Ok(api.get(name).await?) },
    );
    let binding = binding.await?;

    let hand_made = object("policies-hand-made", &smallest());
    let made = rest.create(&all(ARGOCD), &hand_made).await;
    refused(made, POLICY, &"create")?;
    let path = format!("{}/{name}", all(ARGOCD));
    for change in [
        json!({ "target": { "address": "thief.example.test/charts" } }),
        json!({ "target": { "type": "Cluster" } }),
        json!({ "project": "team-a" }),
        json!({ "provider": "oidc" }),
        json!({ "identity": { "subject": "spiffe://example.test/admin" } }),
        json!({ "identity": { "audience": "another" } }),
        json!({ "identity": { "serviceAccount": "another" } }),
        json!({ "identity": { "credential": "ServiceAccountToken" } }),
        json!({ "exchange": { "authUrl": "https://thief.example.test" } }),
        json!({ "exchange": { "username": null } }),
        json!({ "delivery": "exec" }),
        json!({ "consumers": ["default"] }),
        json!({ "consumers": [] }),
        json!({ "proxy": {"keySha256": ["0".repeat(64)], "type": "oci"} }),
    ] {
        let patch = json!({ "spec": change });
        refused(rest.merge(&path, &patch).await, POLICY, &change)?;
    }
    let operations = json!([{ "op": "add", "path": "/spec/consumers/-", "value": "default" }]);
    let patched = json_patch(&client, &path, &operations).await;
    refused(patched, POLICY, &operations)?;
    let mut applied = object(name, &binding.spec);
    applied["spec"]["identity"]["audience"] = json!("another");
    refused(rest.apply(&path, &applied).await, POLICY, &"apply")?;
    // Controller and agents write its status meanwhile.
    wait_until("a replacement in time", SOON, || async {
        let mut replaced = rest.read(&path).await?;
        replaced["spec"]["identity"]["audience"] = json!("another");
        refused(rest.replace(&path, &replaced).await, POLICY, &"replace")
    })
    .await?;
    // An upsert is a creation.
    let absent = format!("{}/policies-hand-made", all(ARGOCD));
    let upsert = rest.apply(&absent, &hand_made).await;
    refused(upsert, POLICY, &"apply to nothing")?;

    // What is not the spec is the user's.
    for metadata in [
        json!({ "labels": { "example.test/team": "a" } }),
        json!({ "annotations": { "example.test/note": "b" } }),
        json!({ "finalizers": ["example.test/c"] }),
        json!({ "finalizers": null }),
    ] {
        rest.merge(&path, &json!({ "metadata": metadata })).await?;
    }
    let found = api.get(name).await?;
    ensure!(found.spec == binding.spec, "{found:?}");
    ensure!(found.metadata.generation == binding.metadata.generation);

    // A binding may be deleted; as long as its Secret is there, it comes again.
    rest.delete(&path).await?;
    let before = &binding;
    wait_until("another binding", SOON, || async move {
        let found = api.get(name).await?;
        ensure!(found.metadata.uid != before.metadata.uid, "it is the same");
        ensure!(found.spec == before.spec, "{found:?}");
        Ok(())
    })
    .await?;
    rest.delete(&format!("{}/{name}", secrets(ARGOCD))).await?;
    Ok(())
}

async fn nor_does_another_service_account(scene: &Scene) -> Result<()> {
    let rest = scene.rest()?;
    let namespace = scene.namespace("policies-others", &[]).await?;
    let ours = Rest::new(control_plane(scene).await?);
    ours.create(&all(namespace), &object("real", &smallest()))
        .await?;
    let path = format!("{}/real", all(namespace));
    let change = json!({ "spec": { "consumers": ["default"] } });

    // With all rights, and the control plane's name in another namespace; or
    // another name in its own.
    for (namespace, name) in [
        (namespace, CONTROL_PLANE),
        (NAMESPACE, "argocd-identity-controller"),
    ] {
        let made = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": name },
        });
        rest.create(&service_accounts(namespace), &made).await?;
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": format!("policies-{namespace}-{name}") },
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "cluster-admin",
            },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": namespace }],
        });
        let roles = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        rest.create(roles, &role).await?;
        let theirs = Rest::new(account(scene, namespace, name).await?);
        let (theirs, path) = (&theirs, path.as_str());
        // Roles take a moment.
        wait_until("the role", SOON, || async move { theirs.read(path).await }).await?;
        refused(theirs.merge(path, &change).await, POLICY, &name)?;
        let hand_made = object("hand-made", &smallest());
        let made = theirs.create(&all(namespace), &hand_made).await;
        refused(made, POLICY, &name)?;
    }
    // An agent does not even get that far.
    let agent = Rest::new(account(scene, NAMESPACE, AGENT).await?);
    let roles = (403, "cannot patch resource");
    refused(agent.merge(&path, &change).await, roles, &"agent")?;
    ours.merge(&path, &change).await?;
    Ok(())
}

async fn a_binding_goes_with_its_secret(scene: &Scene) -> Result<()> {
    let (rest, client) = (scene.rest()?, scene.client()?);
    let api = &bindings::api(client.clone(), ARGOCD);
    for (name, policy) in [
        ("policies-background", "Background"),
        ("policies-foreground", "Foreground"),
    ] {
        let stored: Value = serde_json::from_str(&repository(name, &[]))?;
        let stored = rest.create(&secrets(ARGOCD), &stored).await?.object;
        let binding = wait_until(
            "the binding",
            SOON,
            || async move { Ok(api.get(name).await?) },
        );
        let binding = binding.await?;
        let owners = binding.metadata.owner_references.unwrap_or_default();
        let uids: Vec<_> = owners.iter().map(|owner| owner.uid.as_str()).collect();
        ensure!(uids == [&stored["metadata"]["uid"]], "{owners:?}");

        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": policy,
        });
        let path = format!("{}/{name}", secrets(ARGOCD));
        let json = "application/json";
        harness::admission::send::<_, Value>(&client, "DELETE", &path, json, &options).await?;
        wait_until("the end of the binding", SOON, || async move {
            match api.get_opt(name).await? {
                Some(_) => bail!("it is still there"),
                None => Ok(()),
            }
        })
        .await?;
    }
    Ok(())
}
