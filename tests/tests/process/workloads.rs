//! From a workload's annotation to its pod template, and on to its pods.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use control_plane_core::annotations::{INJECT, INJECT_SOURCE, INJECTED};
use harness::control_plane::apply;
use harness::process::wait_until;
use serde_json::{Value, json};

use crate::api::{Rest, codes, refusal};
use crate::case::{Case, shared};
use crate::injection::pods::Stock;
use crate::scene::Scene;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        shared!(the_annotation_is_copied_and_goes_again),
        shared!(the_users_own_template_wins),
        shared!(the_operators_workloads_are_left_alone),
        shared!(argo_cd_resources_hand_it_to_their_components),
        shared!(bad_values_are_refused),
        shared!(the_controllers_pods_are_injected),
    ]
}

const LIMIT: Duration = Duration::from_secs(60);

/// Where the annotations of a workload's pod template are.
const TEMPLATE: &str = "/spec/template/metadata/annotations";

/// Resource and stock name of a workload of each kind.
const WORKLOADS: [(&str, &str); 2] = [
    ("deployments", "argocd-server"),
    ("statefulsets", "argocd-application-controller"),
];

/// The collection of a namespace's workloads.
fn collection(namespace: &str, resource: &str) -> String {
    format!("/apis/apps/v1/namespaces/{namespace}/{resource}")
}

/// A stock workload without replicas: nothing comes of it but its template.
fn idle(stock: &Stock, name: &str) -> Result<Value> {
    let mut workload = stock.workload(name)?.clone();
    workload["spec"]["replicas"] = json!(0);
    Ok(workload)
}

fn annotated(mut object: Value, value: &str) -> Value {
    object["metadata"]["annotations"][INJECT] = json!(value);
    object
}

/// Written over whatever the controllers wrote meanwhile.
fn unversioned(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    object
}

/// The annotations of ours in a pod template: opt-in and marker.
type Copied = (Option<String>, Option<String>);

/// Those of the template at `place`.
fn copy(object: &Value, place: &str) -> Copied {
    let annotations = object.pointer(place);
    let find = |name: &str| Some(annotations?.get(name)?.as_str()?.to_owned());
    (find(INJECT), find(INJECT_SOURCE))
}

fn ensure_copy(object: &Value, place: &str, expected: &Copied) -> Result<()> {
    let found = copy(object, place);
    let name = &object["metadata"]["name"];
    ensure!(found == *expected, "{name} has {found:?}, not {expected:?}");
    Ok(())
}

fn marked(value: &str) -> Copied {
    (Some(value.to_owned()), Some("workload".to_owned()))
}

fn users(value: &str) -> Copied {
    (Some(value.to_owned()), None)
}

const NOTHING: Copied = (None, None);

async fn the_annotation_is_copied_and_goes_again(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("workloads", &[]).await?;
    let (rest, stock) = (scene.rest()?, Stock::read(&scene.peers)?);
    for (resource, name) in WORKLOADS {
        let path = collection(namespace, resource);
        let one = format!("{path}/{name}");
        let plain = idle(&stock, name)?;
        let enabled = annotated(plain.clone(), "enabled");

        // As `kubectl create` and `kubectl replace` do.
        let created = rest.create(&path, &enabled).await?.object;
        ensure_copy(&created, TEMPLATE, &marked("enabled"))?;
        let again = rest.replace(&one, &enabled).await?.object;
        ensure_copy(&again, TEMPLATE, &marked("enabled"))?;
        ensure!(
            again["spec"]["template"] == created["spec"]["template"],
            "a replacement with the same manifest rolls the pods"
        );
        let changed = annotated(plain.clone(), "disabled");
        let changed = rest.replace(&one, &changed).await?.object;
        ensure_copy(&changed, TEMPLATE, &marked("disabled"))?;
        let gone = rest.replace(&one, &plain).await?.object;
        ensure_copy(&gone, TEMPLATE, &NOTHING)?;

        // As `kubectl edit` and `kubectl annotate` do: the copy comes back in.
        let edited = unversioned(annotated(gone, "enabled"));
        let edited = rest.replace(&one, &edited).await?.object;
        ensure_copy(&edited, TEMPLATE, &marked("enabled"))?;
        let patch = json!({ "metadata": { "annotations": { INJECT: null } } });
        let gone = rest.merge(&one, &patch).await?.object;
        ensure_copy(&gone, TEMPLATE, &NOTHING)?;
        rest.delete(&one).await?;

        // As `kubectl apply --server-side` and Argo CD do.
        let applied_one = format!("{path}/applied-{name}");
        let rename = |mut object: Value| {
            object["metadata"]["name"] = json!(format!("applied-{name}"));
            object
        };
        let enabled = rename(enabled);
        let first = rest.apply(&applied_one, &enabled).await?.object;
        ensure_copy(&first, TEMPLATE, &marked("enabled"))?;
        let second = rest.apply(&applied_one, &enabled).await?.object;
        let generation = |object: &Value| object["metadata"]["generation"].clone();
        ensure!(
            generation(&second) == generation(&first),
            "a second apply changes the object"
        );
        let gone = rest.apply(&applied_one, &rename(plain)).await?.object;
        ensure_copy(&gone, TEMPLATE, &NOTHING)?;
    }
    Ok(())
}

async fn the_users_own_template_wins(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("own-template", &[]).await?;
    let (rest, stock) = (scene.rest()?, Stock::read(&scene.peers)?);
    for (resource, name) in WORKLOADS {
        let path = collection(namespace, resource);
        let one = format!("{path}/{name}");
        let mut own = annotated(idle(&stock, name)?, "enabled");
        own["spec"]["template"]["metadata"]["annotations"][INJECT] = json!("disabled");
        let created = rest.create(&path, &own).await?.object;
        ensure_copy(&created, TEMPLATE, &users("disabled"))?;
        // It stays when the workload's annotation goes.
        let patch = json!({ "metadata": { "annotations": { INJECT: null } } });
        let left = rest.merge(&one, &patch).await?.object;
        ensure_copy(&left, TEMPLATE, &users("disabled"))?;
        rest.delete(&one).await?;

        // Written over the webhook's copy, it becomes the user's.
        let enabled = annotated(idle(&stock, name)?, "enabled");
        let mut stored = rest.create(&path, &enabled).await?.object;
        ensure_copy(&stored, TEMPLATE, &marked("enabled"))?;
        stored["spec"]["template"]["metadata"]["annotations"][INJECT] = json!("disabled");
        let taken = rest.replace(&one, &unversioned(stored)).await?.object;
        ensure_copy(&taken, TEMPLATE, &users("disabled"))?;
    }
    Ok(())
}

/// Enough of the operator's definition to store its resources as they are.
fn argo_cd_definition() -> String {
    let version = |name: &str, is_storage: bool| {
        json!({
            "name": name,
            "served": true,
            "storage": is_storage,
            "schema": { "openAPIV3Schema": {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": true,
            }},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "argocds.argoproj.io" },
        "spec": {
            "group": "argoproj.io",
            "names": { "kind": "ArgoCD", "listKind": "ArgoCDList", "plural": "argocds", "singular": "argocd" },
            "scope": "Namespaced",
            "versions": [version("v1beta1", true), version("v1alpha1", false)],
        },
    })
    .to_string()
}

/// The resource of the OpenShift guide, as far as its pods go.
fn argo_cd(version: &str) -> Value {
    let component = json!({
        "volumes": [
            { "name": "binaries", "emptyDir": {} },
            { "name": "spiffe-workload-api", "csi": { "driver": "csi.spiffe.io", "readOnly": true } },
        ],
        "volumeMounts": [
            { "name": "binaries", "mountPath": "/binaries" },
            { "name": "spiffe-workload-api", "mountPath": "/run/spire/sockets", "readOnly": true },
        ],
    });
    json!({
        "apiVersion": format!("argoproj.io/{version}"),
        "kind": "ArgoCD",
        "metadata": { "name": "openshift-gitops" },
        "spec": {
            "controller": component,
            "server": component,
            "sso": { "provider": "dex" },
        },
    })
}

async fn argo_cd_resources_hand_it_to_their_components(scene: &Scene) -> Result<()> {
    const PLACES: [&str; 3] = [
        "/spec/repo/annotations",
        "/spec/server/annotations",
        "/spec/controller/annotations",
    ];
    let namespace = scene.namespace("argocd-resource", &[]).await?;
    let rest = scene.rest()?;
    apply(&scene.client()?, namespace, &argo_cd_definition()).await?;
    for version in ["v1beta1", "v1alpha1"] {
        let path = format!("/apis/argoproj.io/{version}/namespaces/{namespace}/argocds");
        let one = format!("{path}/openshift-gitops");
        let enabled = annotated(argo_cd(version), "enabled");
        let (rest, path, enabled) = (&rest, &path, &enabled);
        // A kind is served a moment after its definition is stored.
        let created = wait_until("the kind ArgoCD to be served", LIMIT, || async move {
            Ok(rest.create(path, enabled).await?.object)
        })
        .await?;
        for place in PLACES {
            ensure_copy(&created, place, &marked("enabled"))?;
        }
        ensure!(
            created["spec"]["sso"] == enabled["spec"]["sso"],
            "{created}"
        );

        let mut own = created;
        own["spec"]["repo"]["annotations"][INJECT] = json!("disabled");
        let taken = rest.replace(&one, &own).await?.object;
        ensure_copy(&taken, PLACES[0], &users("disabled"))?;
        ensure_copy(&taken, PLACES[1], &marked("enabled"))?;

        let patch = json!({ "metadata": { "annotations": { INJECT: null } } });
        let gone = rest.merge(&one, &patch).await?.object;
        ensure_copy(&gone, PLACES[0], &users("disabled"))?;
        ensure_copy(&gone, PLACES[1], &NOTHING)?;
        ensure_copy(&gone, PLACES[2], &NOTHING)?;
        rest.delete(&one).await?;
    }
    Ok(())
}

async fn the_operators_workloads_are_left_alone(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("operator-owned", &[]).await?;
    let (rest, stock) = (scene.rest()?, Stock::read(&scene.peers)?);
    for (resource, name) in WORKLOADS {
        let mut workload = annotated(idle(&stock, name)?, "enabled");
        for version in ["v1beta1", "v1alpha1"] {
            workload["metadata"]["ownerReferences"] = json!([{
                "apiVersion": format!("argoproj.io/{version}"),
                "kind": "ArgoCD",
                "name": "openshift-gitops",
                "uid": "5e2f2b5a-0c6e-4a2b-9b0a-6f1d1c7f1d10",
            }]);
            // Not stored: the garbage collector would take it for an orphan.
            let path = collection(namespace, resource);
            let answer = rest.try_create(&path, &workload).await?;
            ensure_copy(&answer.object, TEMPLATE, &NOTHING)?;
            ensure!(answer.warnings.is_empty(), "{:?}", answer.warnings);
        }
    }
    Ok(())
}

async fn bad_values_are_refused(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("bad-annotation", &[]).await?;
    let (rest, stock) = (scene.rest()?, Stock::read(&scene.peers)?);
    for (resource, name) in WORKLOADS {
        let path = collection(namespace, resource);
        let one = format!("{path}/{name}");
        for value in ["true", "Enabled", "", "enabled "] {
            let bad = annotated(idle(&stock, name)?, value);
            let refused = refusal(rest.create(&path, &bad).await)?;
            ensure!(refused.code == 403, "{refused:?}");
            ensure!(
                refused.message.contains("invalid-annotation: "),
                "{refused:?}"
            );
            ensure!(
                refused.message.contains(&format!("{namespace}/{name}")),
                "{refused:?}"
            );
            ensure!(
                refused.message.contains(&format!("`{value}`")),
                "{refused:?}"
            );
        }
        rest.create(&path, &idle(&stock, name)?).await?;
        let patch = json!({ "metadata": { "annotations": { INJECT: "on" } } });
        let refused = refusal(rest.merge(&one, &patch).await)?;
        ensure!(
            refused.message.contains("invalid-annotation: "),
            "{refused:?}"
        );
        let patch = json!({ "metadata": { "annotations": { INJECT: "enabled" } } });
        let answer = rest.merge(&one, &patch).await?;
        ensure!(codes(&answer.warnings).is_empty(), "{:?}", answer.warnings);
    }
    Ok(())
}

async fn the_controllers_pods_are_injected(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("rollout", &[]).await?;
    let (rest, stock) = (scene.rest()?, Stock::read(&scene.peers)?);
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    for (resource, name) in WORKLOADS {
        let account = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": name },
        });
        rest.create(&accounts, &account).await?;
        let path = collection(namespace, resource);
        let one = format!("{path}/{name}");
        let workload = stock.workload(name)?.clone();
        rest.create(&path, &annotated(workload, "enabled")).await?;
        all_pods(&rest, namespace, name, true).await?;
        let patch = json!({ "metadata": { "annotations": { INJECT: null } } });
        rest.merge(&one, &patch).await?;
        all_pods(&rest, namespace, name, false).await?;
        rest.delete(&one).await?;
    }
    Ok(())
}

/// Waits until the workload has pods, and all of them are injected or none is.
async fn all_pods(rest: &Rest, namespace: &str, app: &str, injected: bool) -> Result<()> {
    let selector = format!("labelSelector=app.kubernetes.io/name%3D{app}");
    let path = format!("/api/v1/namespaces/{namespace}/pods?{selector}");
    let path = path.as_str();
    let what = format!("pods of {app} with injected={injected}");
    wait_until(&what, LIMIT, || async move {
        let pods = rest.read(path).await?;
        let pods = pods["items"].as_array().context("no list")?;
        ensure!(!pods.is_empty(), "there is no pod");
        for pod in pods {
            let label = &pod["metadata"]["labels"][INJECTED];
            let has_volume = pod["spec"]["volumes"]
                .to_string()
                .contains(shared::layout::CSI_DRIVER);
            ensure!(
                label.is_null() != injected && has_volume == injected,
                "{}",
                pod["metadata"]["name"]
            );
        }
        Ok(())
    })
    .await
}
