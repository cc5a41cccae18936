//! What admission added to a pod: the pod against the template it was made from.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use harness::scene::ARGOCD;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

/// A line for each pod of Argo CD, and one for each addition.
pub(crate) async fn describe(client: &Client) -> Result<Vec<String>> {
    let templates = templates(client).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), ARGOCD);
    let mut lines = Vec::new();
    for pod in pods
        .list(&ListParams::default())
        .await
        .context("list pods")?
    {
        // Replaced a moment ago.
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let app = pod
            .labels()
            .get("app.kubernetes.io/name")
            .cloned()
            .unwrap_or_default();
        let template = templates
            .iter()
            .find(|(name, _)| *name == app)
            .map(|(_, spec)| spec);
        let (Some(template), Some(spec)) = (template, &pod.spec) else {
            continue;
        };
        let added = additions(template, spec);
        let summary = if added.is_empty() { "nothing" } else { "" };
        lines.push(
            format!("{}: {summary}", pod.name_any())
                .trim_end()
                .to_owned(),
        );
        lines.extend(added.into_iter().map(|line| format!("  + {line}")));
    }
    Ok(lines)
}

async fn templates(client: &Client) -> Result<Vec<(String, PodSpec)>> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), ARGOCD);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), ARGOCD);
    let all = ListParams::default();
    let deployments = deployments.list(&all).await.context("list Deployments")?;
    let sets = sets.list(&all).await.context("list StatefulSets")?;
    let of_deployments = deployments.into_iter().map(|it| {
        let name = it.name_any();
        (name, it.spec.and_then(|spec| spec.template.spec))
    });
    let of_sets = sets.into_iter().map(|it| {
        let name = it.name_any();
        (name, it.spec.and_then(|spec| spec.template.spec))
    });
    Ok(of_deployments
        .chain(of_sets)
        .filter_map(|(name, spec)| Some((name, spec?)))
        .collect())
}

fn additions(template: &PodSpec, pod: &PodSpec) -> Vec<String> {
    let known: BTreeSet<_> = template
        .volumes
        .iter()
        .flatten()
        .map(|it| &it.name)
        .collect();
    let mut lines = Vec::new();
    for volume in pod
        .volumes
        .iter()
        .flatten()
        .filter(|it| !known.contains(&it.name))
    {
        if let Some(csi) = &volume.csi {
            lines.push(format!("volume {} ({})", volume.name, csi.driver));
        }
    }
    let known: BTreeSet<_> = template
        .init_containers
        .iter()
        .flatten()
        .map(|it| &it.name)
        .collect();
    for container in pod.init_containers.iter().flatten() {
        if !known.contains(&container.name) {
            lines.push(format!("sidecar {}", container.name));
        }
    }
    for container in &pod.containers {
        let before = template
            .containers
            .iter()
            .find(|it| it.name == container.name);
        lines.extend(container_additions(before, container));
    }
    lines
}

fn container_additions(before: Option<&Container>, after: &Container) -> Vec<String> {
    let had_path = |path: &str| {
        let mounts = before
            .and_then(|it| it.volume_mounts.as_ref())
            .into_iter()
            .flatten();
        mounts.into_iter().any(|mount| mount.mount_path == path)
    };
    let had_variable = |name: &str| {
        let variables = before.and_then(|it| it.env.as_ref()).into_iter().flatten();
        variables.into_iter().any(|variable| variable.name == name)
    };
    let mounts = after.volume_mounts.iter().flatten();
    let mounts = mounts
        // Kubernetes' own addition to every pod.
        .filter(|mount| !had_path(&mount.mount_path) && !mount.name.starts_with("kube-api-access"))
        .map(|mount| match &mount.sub_path {
            Some(part) => format!(
                "{}: {} ({part} of {})",
                after.name, mount.mount_path, mount.name
            ),
            None => format!("{}: {} ({})", after.name, mount.mount_path, mount.name),
        });
    let variables = after
        .env
        .iter()
        .flatten()
        .filter(|variable| !had_variable(&variable.name));
    let variables = variables.map(|variable| {
        format!(
            "{}: {}={}",
            after.name,
            variable.name,
            variable.value.as_deref().unwrap_or("…")
        )
    });
    mounts.chain(variables).collect()
}
