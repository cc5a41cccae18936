//! Pulls that must fail: of what the robot may not see, and of everything once
//! the Secret is gone. Nobody else's credential is tried.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use harness::quay::Endpoint;
use harness::targets::ROBOT;

use super::IN_CLUSTER;
use crate::case::{Case, shared};
use crate::rotation::{Application, LIFE, Tenant};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(what_the_robot_may_not_pull_is_not_pulled).with_argocd(),
        shared!(nothing_is_pulled_without_the_secret).with_argocd(),
    ]
}

/// The registry's refusal in Helm's words.
const DENIED: [&str; 3] = ["unauthorized", "denied", "401"];

async fn what_the_robot_may_not_pull_is_not_pulled(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "closed", LIFE).await?;
    // Another host's robot in the same file may pull everything there.
    let other = Tenant::start(scene, "open", LIFE).await?;
    other
        .create("open-charts", "repository", &other.repository())
        .await?;
    tenant.publish(scene, "closed/charts")?;
    scene.namespace(tenant.name, &[]).await?;
    let mut values = tenant.repository();
    values.insert("url", format!("oci://{}/closed/charts", tenant.quay.host()));
    tenant
        .create("closed-charts", "repository", &values)
        .await?;
    other.ready("open-charts").await?;
    tenant.ready("closed-charts").await?;
    let (elsewhere, main) = (
        other.quay.requests().len(),
        scene.around.targets.quay.requests().len(),
    );

    let pulled = |tenant: &Tenant| tenant.quay.requests().len();
    let before = pulled(&tenant);
    let manifest = tenant.application("closed/charts", IN_CLUSTER);
    let application = Application::create(scene, &manifest).await?;
    let error = application.fails().await?;
    ensure!(is_denial(&error), "{error}");
    ensure!(!error.contains("eyJ"), "{error}");
    let requests = tenant.quay.requests().split_off(before);
    let content = requests
        .iter()
        .filter(|it| it.endpoint == Endpoint::Content);
    let read: Vec<_> = content
        .filter(|it| it.path.starts_with("/v2/closed/") && it.status < 400)
        .collect();
    ensure!(read.is_empty(), "{read:?}");
    let asked: BTreeSet<_> = requests
        .iter()
        .filter(|it| it.endpoint == Endpoint::Auth)
        .map(|it| it.robot.as_deref())
        .collect();
    ensure!(asked == [Some(ROBOT)].into(), "{asked:?}");
    let exchanges = |tenant: &Tenant| {
        let is_exchange = |it: &harness::quay::Request| it.endpoint == Endpoint::Federation;
        tenant.quay.count(is_exchange)
    };
    ensure!(
        other.quay.requests().len() - elsewhere <= exchanges(&other)
            && scene.around.targets.quay.requests().len() == main,
        "another registry was asked"
    );

    // The registry's administrator lets the robot in, and nothing else changes.
    let issuer = scene.around.plan.issuer_url();
    let subject = harness::targets::identity("argocd-global");
    let robot = harness::quay::Robot::federated(ROBOT, issuer, subject, &["closed/"]);
    tenant.quay.add_robot(robot);
    application.refresh().await?;
    application.is_good(1).await?;

    application.delete().await?;
    tenant.delete("closed-charts").await?;
    other.delete("open-charts").await
}

async fn nothing_is_pulled_without_the_secret(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "anonymous", LIFE).await?;
    tenant.publish(scene, "prod/charts")?;
    scene.namespace(tenant.name, &[]).await?;
    let secret = "anonymous-charts";
    tenant
        .create(secret, "repository", &tenant.repository())
        .await?;
    tenant.ready(secret).await?;
    let manifest = tenant.application("prod/charts", IN_CLUSTER);
    let application = Application::create(scene, &manifest).await?;
    application.is_good(0).await?;

    // The repository stays, its workload identity goes.
    let keys: Vec<(&str, Option<&str>)> = tenant
        .repository()
        .into_keys()
        .filter(|key| key.contains("orkloadIdentity"))
        .map(|key| (key, None))
        .collect();
    tenant.change(secret, &keys).await?;
    tenant.no_binding(secret).await?;
    tenant.has_no_login().await?;
    let before = tenant.quay.requests().len();
    let error = application.fails().await?;
    ensure!(is_denial(&error), "{error}");
    let requests = tenant.quay.requests().split_off(before);
    let named: Vec<_> = requests.iter().filter(|it| it.robot.is_some()).collect();
    ensure!(!requests.is_empty() && named.is_empty(), "{named:?}");

    // It comes back as it went.
    let values = tenant.repository();
    let again: Vec<(&str, Option<&str>)> = values
        .iter()
        .filter(|(key, _)| key.contains("orkloadIdentity"))
        .map(|(key, value)| (*key, Some(value.as_str())))
        .collect();
    tenant.change(secret, &again).await?;
    tenant.ready(secret).await?;
    application.refresh().await?;
    application.is_good(1).await?;

    // The whole Secret is removed.
    tenant.delete(secret).await?;
    tenant.has_no_login().await?;
    let before = tenant.quay.requests().len();
    application.fails().await?;
    let requests = tenant.quay.requests().split_off(before);
    let named: Vec<_> = requests.iter().filter(|it| it.robot.is_some()).collect();
    ensure!(named.is_empty(), "{named:?}");
    application.delete().await.context("delete it")
}

fn is_denial(error: &str) -> bool {
    let error = error.to_ascii_lowercase();
    DENIED.iter().any(|word| error.contains(word))
}
