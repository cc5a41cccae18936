//! The schema of the bindings: what the types of the contract write comes back
//! equal, and nothing else goes in.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use harness::binaries::workspace;
use harness::bindings;
use harness::bindings::CredentialBinding;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use shared::binding::{
    CloudAccount, Condition, CredentialBindingSpec, CredentialBindingStatus, CredentialKind,
    Delivery, Exchange, ExchangeKind, NodeError, NodeState, NodeStatus, Provider, ProxyDelivery,
    ProxyKind, TargetKind,
};

use super::bench::{agent, bindings as all, control_plane, object, refused, smallest};
use crate::api::Rest;
use crate::case::{Case, shared};
use crate::identity::bench::node as make_node;
use crate::scene::Scene;

const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/\
                          credentialbindings.workload-identity.dev";

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(every_field_comes_back),
        shared!(schema_and_types_have_the_same_fields),
        shared!(what_the_types_do_not_know_is_refused),
        shared!(the_columns_are_those_of_the_guide),
    ]
}

async fn every_field_comes_back(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("policies-fields", &[]).await?;
    let api = bindings::api(control_plane(scene).await?, namespace);
    let write = async |name: &str, spec: &CredentialBindingSpec| -> Result<()> {
        let object = serde_json::from_value(object(name, spec))?;
        api.create(&PostParams::default(), &object).await?;
        let found = api.get(name).await?;
        ensure!(found.spec == *spec, "{name}: {:?}", found.spec);
        Ok(())
    };
    write("full", &full_spec()).await?;
    write("small", &smallest()).await?;
    for (index, spec) in variants().iter().enumerate() {
        write(&format!("variant-{index}"), spec).await?;
    }
    let statuses = [full_status()?, CredentialBindingStatus::default()];
    for status in statuses {
        let patch = Patch::Merge(json!({ "status": status }));
        let written: CredentialBinding = api
            .patch_status("full", &PatchParams::default(), &patch)
            .await?;
        ensure!(written.status.as_ref() == Some(&status), "{written:?}");
        let clear = Patch::Merge(json!({ "status": null }));
        api.patch_status("full", &PatchParams::default(), &clear)
            .await?;
    }
    Ok(())
}

/// Every field, also those that nothing writes yet.
fn full_spec() -> CredentialBindingSpec {
    let mut spec = smallest();
    spec.project = Some("team-a".to_owned());
    spec.exchange = Exchange {
        kind: ExchangeKind::TokenExchange,
        auth_url: Some("https://policies.example.test/auth".to_owned()),
        token_url: Some("https://policies.example.test/token".to_owned()),
        service: Some("policies.example.test".to_owned()),
        username: Some("team+puller".to_owned()),
        account: accounts().into_iter().next(),
    };
    spec.consumers.push("another".to_owned());
    spec.proxy = Some(ProxyDelivery {
        key_sha256: vec!["0".repeat(64), "1".repeat(64)],
        previous_key_until: Some("2026-12-01T10:00:00Z".parse().unwrap_or_default()),
        kind: ProxyKind::Oci,
        insecure: true,
        upstream_proxy: Some("http://proxy.example.test:3128".to_owned()),
    });
    spec
}

/// An account at every cloud, with everything that is optional.
fn accounts() -> Vec<CloudAccount> {
    vec![
        CloudAccount::Aws {
            role_arn: "arn:aws:iam::123456789012:role/argocd".to_owned(),
        },
        CloudAccount::Gcp {
            service_account: "argocd@policies.iam.gserviceaccount.com".to_owned(),
            workload_identity_provider: Some("projects/1/providers/2".to_owned()),
        },
        CloudAccount::Azure {
            client_id: "client".to_owned(),
            tenant_id: "tenant".to_owned(),
        },
    ]
}

/// Every value of every enumeration.
fn variants() -> Vec<CredentialBindingSpec> {
    let mut variants = Vec::new();
    let mut add = |change: &dyn Fn(&mut CredentialBindingSpec)| {
        let mut spec = smallest();
        change(&mut spec);
        variants.push(spec);
    };
    add(&|spec| spec.consumers.clear());
    add(&|spec| spec.target.kind = TargetKind::Cluster);
    for provider in [
        Provider::Spiffe,
        Provider::Aws,
        Provider::Oidc,
        Provider::Gcp,
        Provider::Azure,
    ] {
        add(&|spec| spec.provider = provider);
    }
    for kind in [
        CredentialKind::ServiceAccountToken,
        CredentialKind::SpiffeJWT,
        CredentialKind::SpiffeCertificate,
    ] {
        add(&|spec| spec.identity.credential = kind);
    }
    for kind in [
        ExchangeKind::Quay,
        ExchangeKind::Passthrough,
        ExchangeKind::Distribution,
        ExchangeKind::TokenExchange,
        ExchangeKind::Ecr,
        ExchangeKind::EcrPublic,
        ExchangeKind::Gar,
        ExchangeKind::Acr,
        ExchangeKind::None,
    ] {
        add(&|spec| spec.exchange = Exchange::of(kind));
    }
    for account in accounts() {
        add(&|spec| spec.exchange.account = Some(account.clone()));
    }
    for delivery in [Delivery::DockerConfig, Delivery::Proxy, Delivery::Exec] {
        add(&|spec| spec.delivery = delivery);
    }
    variants
}

fn full_status() -> Result<CredentialBindingStatus> {
    let time: Timestamp = "2030-01-02T03:04:05Z".parse()?;
    let condition = |status: &str| Condition {
        kind: format!("Is{status}"),
        status: status.to_owned(),
        reason: "as-expected".to_owned(),
        message: "a sentence".to_owned(),
        last_transition_time: time,
        observed_generation: 7,
    };
    let node = |name: &str, state| NodeStatus {
        name: name.to_owned(),
        observed_generation: i64::MAX,
        state,
        expires_at: Some(time),
        last_rotation: Some(time),
        rotations: 12,
        error: Some(NodeError {
            code: "exchange-rejected".to_owned(),
            message: "no".to_owned(),
        }),
    };
    let bare = NodeStatus {
        expires_at: None,
        last_rotation: None,
        error: None,
        ..node("d", NodeState::Pending)
    };
    Ok(CredentialBindingStatus {
        conditions: vec![condition("True"), condition("False"), condition("Unknown")],
        nodes: vec![
            node("a", NodeState::Ready),
            node("b", NodeState::Pending),
            node("c", NodeState::Degraded),
            bare,
        ],
        expires_at: Some(time),
    })
}

/// A field that one of them lacks would be lost without a word.
async fn schema_and_types_have_the_same_fields(scene: &Scene) -> Result<()> {
    let definition = scene.rest()?.read(DEFINITION).await?;
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let full = json!({ "spec": full_spec(), "status": full_status()? });
    let of_account = accounts().into_iter().map(|account| json!(account));
    let mut in_schema = BTreeSet::new();
    for part in ["spec", "status"] {
        let part_schema = &schema["properties"][part];
        fields_of_schema(part, part_schema, &mut in_schema);
    }
    let mut in_types = BTreeSet::new();
    for part in ["spec", "status"] {
        fields_of_value(part, &full[part], &mut in_types);
    }
    for account in of_account {
        fields_of_value("spec.exchange.account", &account, &mut in_types);
    }
    ensure!(
        in_schema == in_types,
        "only in the schema: {:?}, only in the types: {:?}",
        in_schema.difference(&in_types),
        in_types.difference(&in_schema)
    );
    Ok(())
}

fn fields_of_schema(place: &str, schema: &Value, found: &mut BTreeSet<String>) {
    if schema["type"] == "array" {
        return fields_of_schema(place, &schema["items"], found);
    }
    match schema["properties"].as_object() {
        Some(properties) => {
            for (name, schema) in properties {
                fields_of_schema(&format!("{place}.{name}"), schema, found);
            }
        }
        None => drop(found.insert(place.to_owned())),
    }
}

fn fields_of_value(place: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                fields_of_value(&format!("{place}.{name}"), value, found);
            }
        }
        Value::Array(elements) => {
            for value in elements {
                fields_of_value(place, value, found);
            }
        }
        _ => drop(found.insert(place.to_owned())),
    }
}

async fn what_the_types_do_not_know_is_refused(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("policies-unknown", &[]).await?;
    let ours = Rest::new(control_plane(scene).await?);
    let path = all(namespace);
    let valid = object("valid", &full_spec());
    ours.create(&path, &valid).await?;

    // Every enumeration of the spec, and every field that has to be there.
    for place in [
        "/spec/target/type",
        "/spec/provider",
        "/spec/identity/credential",
        "/spec/exchange/type",
        "/spec/delivery",
    ] {
        for value in [json!("Unknown"), json!(""), json!(1), Value::Null] {
            let mut object = valid.clone();
            object["metadata"]["name"] = json!("unknown");
            *object.pointer_mut(place).context("no such field")? = value;
            let made = ours.create(&path, &object).await;
            refused(made, (422, "spec."), &(place, &object["spec"]))?;
        }
    }
    for (parent, name) in [
        ("", "spec"),
        ("/spec", "target"),
        ("/spec", "provider"),
        ("/spec", "identity"),
        ("/spec", "exchange"),
        ("/spec", "delivery"),
        ("/spec", "consumers"),
        ("/spec/target", "address"),
        ("/spec/identity", "subject"),
        ("/spec/identity", "audience"),
        ("/spec/identity", "serviceAccount"),
    ] {
        let mut object = valid.clone();
        object["metadata"]["name"] = json!("incomplete");
        let parent = object.pointer_mut(parent).and_then(Value::as_object_mut);
        parent.context("no such field")?.remove(name);
        let made = ours.create(&path, &object).await;
        refused(made, (422, "Required value"), &name)?;
    }

    for account in [
        json!({}),
        json!({ "aws": {} }),
        json!({ "gcp": { "workloadIdentityProvider": "a" } }),
        json!({ "azure": { "clientId": "a" } }),
        json!({ "aws": { "roleArn": "a" }, "gcp": { "serviceAccount": "a" } }),
    ] {
        let mut object = valid.clone();
        object["metadata"]["name"] = json!("account");
        object["spec"]["exchange"]["account"] = account;
        let made = ours.create(&path, &object).await;
        refused(made, (422, "spec."), &object["spec"]["exchange"])?;
    }

    let path = format!("{path}/valid/status");
    let node = |change: Value| {
        let mut node = json!({ "name": "a", "state": "Ready" });
        for (name, value) in change.as_object().into_iter().flatten() {
            node[name] = value.clone();
        }
        json!({ "nodes": [node] })
    };
    for status in [
        node(json!({ "state": "Fine" })),
        node(json!({ "state": "" })),
        node(json!({ "name": "" })),
        node(json!({ "name": "a".repeat(254) })),
        node(json!({ "rotations": "3" })),
        node(json!({ "expiresAt": "soon" })),
        node(json!({ "error": { "code": "x" } })),
        json!({ "nodes": [{ "state": "Ready" }] }),
        // One entry for each name.
        json!({ "nodes": [{ "name": "a", "state": "Ready" }, { "name": "a", "state": "Ready" }] }),
        json!({ "expiresAt": "soon" }),
        json!({ "conditions": [{ "type": "Ready", "status": "Maybe", "reason": "x",
            "lastTransitionTime": "2030-01-02T03:04:05Z" }] }),
    ] {
        let patch = json!({ "status": status });
        refused(ours.merge(&path, &patch).await, (422, "status."), &patch)?;
    }
    Ok(())
}

async fn the_columns_are_those_of_the_guide(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("policies-columns", &[]).await?;
    let ours = control_plane(scene).await?;
    let path = all(namespace);
    let rest = Rest::new(ours.clone());
    rest.create(&path, &object("charts", &smallest())).await?;
    let status = json!({ "status": {
        "conditions": [
            { "type": "Degraded", "status": "False", "reason": "as-expected",
                "lastTransitionTime": "2030-01-02T03:04:05Z" },
            { "type": "Ready", "status": "True", "reason": "ready",
                "lastTransitionTime": "2030-01-02T03:04:05Z" },
        ],
    }});
    let charts = format!("{path}/charts/status");
    rest.merge(&charts, &status).await?;
    // What expires is on a node, and its agent says when.
    let name = "policies-columns-a";
    make_node(&scene.rest()?, name).await?;
    let status = json!({ "status": { "nodes": [
        { "name": name, "state": "Ready", "expiresAt": "2030-01-02T03:04:05Z" },
    ]}});
    let agent = Rest::new(agent(scene, name).await?);
    agent.merge(&charts, &status).await?;

    // As kubectl asks for what it prints.
    let request = http::Request::get(&path)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())?;
    let table: Value = ours.request(request).await?;
    let columns = table["columnDefinitions"].as_array().context("no table")?;
    // Those of another priority are shown by `-o wide` only.
    let shown: Vec<String> = columns
        .iter()
        .filter(|column| column["priority"] == 0)
        .filter_map(|column| column["name"].as_str().map(str::to_uppercase))
        .collect();
    let expected = "NAME PROVIDER TARGET IDENTITY DELIVERY READY EXPIRES AGE";
    ensure!(shown.join(" ") == expected, "{shown:?}");
    let guide = workspace().join("docs/providers/quay.md");
    let guide = fs::read_to_string(guide).context("read the guide")?;
    let heading = guide.lines().find(|line| line.starts_with("NAME "));
    let heading = heading.context("the guide shows no bindings")?;
    ensure!(heading.split_whitespace().eq(&shown), "{heading}");

    let cells = table["rows"][0]["cells"].as_array().context("no row")?;
    let (age, cells) = cells.split_last().context("no cells")?;
    let spec = smallest();
    let expected = [
        "charts",
        "spiffe",
        &spec.target.address,
        &spec.identity.subject,
        "docker-config",
        "True",
        "2030-01-02T03:04:05Z",
    ];
    ensure!(cells.iter().eq(&expected), "{cells:?}");
    ensure!(age.as_str().is_some_and(|age| age.ends_with('s')), "{age}");

    let definition = rest_of(scene).await?;
    let names = &definition["spec"]["names"];
    ensure!(names["shortNames"] == json!(["cb"]), "{names}");
    Ok(())
}

async fn rest_of(scene: &Scene) -> Result<Value> {
    scene.rest()?.read(DEFINITION).await
}
