//! What pods get: every patch applied by the real kube-apiserver.

mod bench;
mod conflicts;
pub(crate) mod pods;
mod quota;
mod scale;
mod spiffe;

use anyhow::{Result, ensure};
use control_plane_core::annotations::{
    COMPONENT, CONTAINERS, CREDENTIALS, EXCLUDE_CONTAINERS, EXEC_AUTH, INJECT, INJECTED,
};
use serde_json::json;
use shared::layout::PROXY_CONTAINER;

use self::bench::{Bench, container};
use self::pods::{annotate, mount, of_operator, plugin, push, with_guides_volumes};
use crate::api::{codes, refusal};
use crate::case::{Case, shared};
use crate::scene::Scene;
use crate::snapshot;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        shared!(stock_pods_pass_the_restricted_standard),
        shared!(operator_pods),
        shared!(helm_chart_pods),
        shared!(plugins_and_init_containers_are_left_alone_unless_named),
        shared!(the_host_network_is_left_alone),
        shared!(the_nearest_opt_in_wins),
        shared!(annotations_leave_things_out),
    ];
    cases.extend(conflicts::cases());
    cases.extend(quota::cases());
    cases.extend(scale::cases());
    cases.extend(spiffe::cases());
    cases
}

/// Components that use credentials.
const CONSUMERS: [&str; 3] = [
    "argocd-repo-server",
    "argocd-server",
    "argocd-application-controller",
];

async fn stock_pods_pass_the_restricted_standard(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "stock", "restricted").await?;
    let mut names: Vec<&str> = bench
        .stock
        .workloads()
        .filter_map(|workload| workload["metadata"]["name"].as_str())
        .collect();
    names.sort_unstable();
    ensure!(names.len() == 7, "install.yaml has {names:?}");
    for name in names {
        let tried = bench.check(&bench.stock.pod(name)?).await?;
        snapshot::check("stock", name, &tried.shown());
        let is_injected = !tried.additions.is_empty();
        ensure!(is_injected == CONSUMERS.contains(&name), "{name}");
        ensure!(tried.warnings.is_empty(), "{name}: {:?}", tried.warnings);
    }
    // The standard is enforced here, or passing it would mean nothing.
    let mut pod = bench.stock.pod("argocd-server")?;
    let host = json!({ "name": "host", "hostPath": { "path": "/" } });
    mount(&mut pod, host, "/host")?;
    let refused = refusal(bench.create(&pod).await)?;
    ensure!(
        refused.message.contains("violates PodSecurity"),
        "{refused:?}"
    );
    Ok(())
}

async fn operator_pods(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "operator", "baseline").await?;
    for component in ["repo-server", "server", "application-controller"] {
        let name = format!("argocd-{component}");
        let pod = of_operator(bench.stock.pod(&name)?, component);
        let tried = bench.check(&pod).await?;
        snapshot::check("operator", component, &tried.shown());
    }
    // The guide's own volumes are used, and its plugin stays.
    for component in ["server", "application-controller"] {
        let name = format!("argocd-{component}");
        let pod = of_operator(bench.stock.pod(&name)?, component);
        let tried = bench.check(&with_guides_volumes(pod)?).await?;
        snapshot::check("operator", &format!("{component}-guide"), &tried.shown());
        ensure!(tried.warnings.is_empty(), "{:?}", tried.warnings);
    }
    Ok(())
}

async fn helm_chart_pods(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "helm-chart", "restricted").await?;
    let mut pod = bench.stock.pod("argocd-repo-server")?;
    pod["metadata"]["labels"]["app.kubernetes.io/instance"] = json!("argo-cd");
    pod["spec"]["containers"][0]["name"] = json!("repo-server");
    // The chart's extraContainers come after the main one, a mutator's may come before.
    let main = pod["spec"]["containers"][0].clone();
    pod["spec"]["containers"] = json!([plugin("a-plugin"), main]);
    let tried = bench.check(&pod).await?;
    snapshot::check("helm-chart", "repo-server", &tried.shown());
    Ok(())
}

async fn plugins_and_init_containers_are_left_alone_unless_named(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "plugins", "restricted").await?;
    let mut pod = bench.stock.pod("argocd-repo-server")?;
    push(&mut pod, "/spec/containers", plugin("one"))?;
    push(&mut pod, "/spec/containers", plugin("two"))?;
    let tried = bench.check(&pod).await?;
    for (place, value) in &tried.additions {
        let is_sidecar = value["name"] == PROXY_CONTAINER;
        let is_elsewhere = (place.starts_with("/spec/initContainers") && !is_sidecar)
            || place.starts_with("/spec/containers/1")
            || place.starts_with("/spec/containers/2");
        ensure!(!is_elsewhere, "{place} was added");
    }
    annotate(&mut pod, &[(CONTAINERS, "two, copyutil, missing")]);
    let tried = bench.check(&pod).await?;
    snapshot::check("plugins", "named", &tried.shown());
    ensure!(codes(&tried.warnings) == ["unknown-container"]);

    annotate(&mut pod, &[(EXCLUDE_CONTAINERS, "argocd-repo-server,two")]);
    let tried = bench.check(&pod).await?;
    snapshot::check("plugins", "excluded", &tried.shown());

    annotate(
        &mut pod,
        &[(EXCLUDE_CONTAINERS, "argocd-repo-server,two,copyutil")],
    );
    let tried = bench.check(&pod).await?;
    ensure!(tried.additions.is_empty(), "{:?}", tried.additions);
    Ok(())
}

async fn the_host_network_is_left_alone(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "host-network", "privileged").await?;
    for name in CONSUMERS {
        let mut pod = bench.stock.pod(name)?;
        pod["spec"]["hostNetwork"] = json!(true);
        let tried = bench.check(&pod).await?;
        ensure!(tried.additions.is_empty(), "{:?}", tried.additions);
        ensure!(
            codes(&tried.warnings) == ["host-network"],
            "{:?}",
            tried.warnings
        );
    }
    Ok(())
}

async fn the_nearest_opt_in_wins(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "opt-in", "restricted").await?;
    let with = |value: &str| {
        let mut pod = bench.stock.pod("argocd-server")?;
        annotate(&mut pod, &[(INJECT, value)]);
        anyhow::Ok(pod)
    };
    // (annotation, is the namespace opted in, is the pod injected, warnings)
    let table: [(Option<&str>, bool, bool, &[&str]); 8] = [
        (None, true, true, &[]),
        (None, false, false, &[]),
        (Some("disabled"), true, false, &[]),
        (Some("disabled"), false, false, &[]),
        (Some("enabled"), true, true, &[]),
        (Some("enabled"), false, true, &[]),
        // What cannot be read counts as not set, and is told.
        (Some("yes"), true, true, &["invalid-annotation"]),
        (Some("yes"), false, false, &["invalid-annotation"]),
    ];
    for (annotation, is_opted_in, is_injected, warnings) in table {
        let pod = match annotation {
            Some(value) => with(value)?,
            None => bench.stock.pod("argocd-server")?,
        };
        let tried = match is_opted_in {
            true => bench.check(&pod).await?,
            false => bench.check_outside(&pod).await?,
        };
        let case = format!("annotation {annotation:?}, namespace {is_opted_in}: {tried:?}");
        let label = &tried.pod["metadata"]["labels"][INJECTED];
        ensure!(label.is_null() != is_injected, "{case}");
        ensure!(tried.additions.is_empty() != is_injected, "{case}");
        ensure!(codes(&tried.warnings) == warnings, "{case}");
    }

    // A label that says disabled is no opt-in, and the annotation is nearer.
    let bench = Bench::with_opt_in(scene, "opt-out", "restricted", (INJECT, "disabled")).await?;
    let tried = bench.check(&bench.stock.pod("argocd-server")?).await?;
    ensure!(tried.additions.is_empty(), "{tried:?}");
    let tried = bench.check(&with("enabled")?).await?;
    ensure!(!tried.additions.is_empty(), "{tried:?}");

    // Who opts in something else than Argo CD is told so.
    let mut pod = bench.stock.pod("argocd-redis")?;
    annotate(&mut pod, &[(INJECT, "enabled")]);
    let tried = bench.check(&pod).await?;
    ensure!(tried.additions.is_empty(), "{tried:?}");
    ensure!(
        codes(&tried.warnings) == ["invalid-annotation"],
        "{tried:?}"
    );
    annotate(&mut pod, &[(COMPONENT, "repo-server")]);
    let tried = bench.check(&pod).await?;
    ensure!(!tried.additions.is_empty(), "{tried:?}");
    Ok(())
}

async fn annotations_leave_things_out(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "left-out", "restricted").await?;
    let mut pod = bench.stock.pod("argocd-server")?;
    annotate(&mut pod, &[(EXEC_AUTH, "none")]);
    let tried = bench.check(&pod).await?;
    let server = container(&tried.pod, "argocd-server")?.to_string();
    ensure!(!server.contains("/binaries"), "{server}");
    ensure!(server.contains("/var/run/workload-identity"), "{server}");

    let mut pod = bench.stock.pod("argocd-server")?;
    annotate(&mut pod, &[(CREDENTIALS, "false")]);
    let tried = bench.check(&pod).await?;
    ensure!(
        !tried.pod["spec"].to_string().contains("workload-identity"),
        "{tried:?}"
    );
    ensure!(tried.warnings.is_empty(), "{tried:?}");
    Ok(())
}
