//! The guide to SPIFFE identities and robot federation at Quay.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use harness::chart::Chart;
use harness::hosts;
use harness::quay::{Endpoint, Quay, Robot};
use harness::scene::ARGOCD;
use harness::targets::identity;
use serde_json::{Value, json};
use shared::errors::Code;

use crate::case::{Case, shared};
use crate::desk::{self, Desk, document, vacant};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(one_project).with_argocd(),
        shared!(several_projects).with_argocd(),
        shared!(troubleshooting).with_argocd(),
    ]
}

const SECRETS: &str = include_str!("quay.yaml");
const APPLICATION: &str = include_str!("quay-application.yaml");

/// The registry, under the name that the guide gives it.
async fn registry(scene: &Scene, name: &str) -> Result<Quay> {
    let (host, address) = hosts::QUAY;
    let address = vacant(address).await?;
    let targets = &scene.around.targets;
    targets.named(&scene.peers, name, host, address).await
}

/// Lets a robot of the guide trust a project, as the guide's step 5 does.
fn federate(scene: &Scene, quay: &Quay, robot: &str, project: &str) {
    let subject = identity(&format!("argocd-project-{project}"));
    let folder = format!("{}/", robot.split('+').next().unwrap_or_default());
    let issuer = scene.around.plan.issuer_url();
    quay.add_robot(Robot::federated(robot, issuer, subject, &[&folder]));
}

fn chart(name: &str) -> Chart<'_> {
    Chart {
        name,
        version: "1.0.0",
        message: "from the guide",
    }
}

/// "Configuration steps".
async fn one_project(scene: &Scene) -> Result<()> {
    let mut desk = Desk::open(scene).await?;
    let quay = registry(scene, "guide-one").await?;
    federate(scene, &quay, "myorg+argocd", "default");
    let targets = &scene.around.targets;
    targets.push(&scene.peers, &quay, "myorg/charts", &chart("my-chart"))?;
    scene.namespace("my-app", &[]).await?;

    desk.apply(APPLICATION, &["argocd-project-default"]).await?;
    desk.apply(SECRETS, &["my-oci-repo"]).await?;
    let binding = desk.ready("my-oci-repo").await?;
    let subject = "/ns/argocd/sa/argocd-project-default";
    ensure!(binding.spec.identity.subject.ends_with(subject));
    let application = serde_json::to_value(document(APPLICATION, "my-app")?)?;
    desk.application(application).await?;
    let robots = served(&quay);
    ensure!(robots == ["myorg+argocd".to_owned()].into(), "{robots:?}");

    // "Zero static credentials": what the guide's Secret has, and the way to the credential proxy.
    let path = format!("/api/v1/namespaces/{ARGOCD}/secrets/my-oci-repo");
    let stored = scene.rest()?.read(&path).await?;
    let keys = stored["data"].as_object().context("no data")?.keys();
    let written: BTreeSet<_> = keys.cloned().collect();
    let guide = serde_json::to_value(document(SECRETS, "my-oci-repo")?)?;
    let keys = guide["stringData"].as_object().context("no data")?.keys();
    let mut expected: BTreeSet<_> = keys.cloned().collect();
    expected.extend(["enableOCI".to_owned(), "proxy".to_owned()]);
    ensure!(written == expected, "{written:?}");
    desk.close().await
}

/// "Multi-project setup".
async fn several_projects(scene: &Scene) -> Result<()> {
    let mut desk = Desk::open(scene).await?;
    let quay = registry(scene, "guide-several").await?;
    scene.namespace("guide-several", &[]).await?;
    let teams = [
        ("production", "prod", "prod-registry"),
        ("staging", "staging", "staging-registry"),
    ];
    for (project, folder, secret) in teams {
        federate(scene, &quay, &format!("{folder}+argocd"), project);
        let (targets, path) = (&scene.around.targets, format!("{folder}/charts"));
        targets.push(&scene.peers, &quay, &path, &chart(project))?;
        desk.project(project).await?;
        desk.apply(SECRETS, &[secret]).await?;
        desk.ready(secret).await?;
    }
    for (project, folder, _) in teams {
        let name = format!("guide-{project}");
        desk.application(application(&name, project, folder, project))
            .await?;
    }
    // What belongs to one project cannot be pulled as another.
    let before = quay.requests().len();
    let stranger = application("guide-stranger", "staging", "prod", "production");
    let error = desk.refused(stranger).await?;
    ensure!(!error.contains("eyJ"), "{error}");
    let requests = quay.requests().split_off(before);
    let read = requests.iter().find(|it| {
        it.endpoint == Endpoint::Content && it.status < 400 && it.path.starts_with("/v2/prod/")
    });
    ensure!(read.is_none(), "{read:?}");
    let expected = ["prod+argocd", "staging+argocd"].map(str::to_owned);
    ensure!(served(&quay) == expected.into(), "{:?}", served(&quay));
    desk.close().await
}

/// An Application of a project with a chart from a folder of the registry.
fn application(name: &str, project: &str, folder: &str, chart: &str) -> Value {
    let repository = format!("{}/{folder}/charts", hosts::QUAY.0);
    desk::application(name, project, &repository, chart, "guide-several")
}

/// "Troubleshooting", from the robot on; what goes wrong before it is SPIRE's.
async fn troubleshooting(scene: &Scene) -> Result<()> {
    let mut desk = Desk::open(scene).await?;
    let quay = registry(scene, "guide-trouble").await?;
    let targets = &scene.around.targets;
    targets.push(&scene.peers, &quay, "myorg/charts", &chart("my-chart"))?;
    scene.namespace("guide-trouble", &[]).await?;

    // "Token does not match robot": the federation has another subject.
    federate(scene, &quay, "myorg+argocd", "another");
    desk.apply(SECRETS, &["my-oci-repo"]).await?;
    let words = desk
        .degraded("my-oci-repo", Code::RobotSubjectMismatch)
        .await?;
    ensure!(words.contains("Token does not match robot"), "{words}");

    // The issuer in the federation is not the token's.
    let subject = identity("argocd-project-default");
    let other = "https://other.example.test";
    quay.add_robot(Robot::federated(
        "myorg+argocd",
        other,
        subject.clone(),
        &[],
    ));
    desk.degraded("my-oci-repo", Code::IssuerNotConfigured)
        .await?;

    // "401 Unauthorized at manifest endpoint": the robot may read nothing.
    let issuer = scene.around.plan.issuer_url();
    quay.add_robot(Robot::federated("myorg+argocd", issuer, subject, &[]));
    desk.ready("my-oci-repo").await?;
    let mut manifest = application("guide-trouble", "default", "myorg", "my-chart");
    manifest["spec"]["destination"]["namespace"] = json!("guide-trouble");
    let error = desk.refused(manifest.clone()).await?;
    ensure!(error.contains("403"), "{error}");

    // The robot gets its access, and nothing else changes.
    federate(scene, &quay, "myorg+argocd", "default");
    manifest["metadata"]["name"] = json!("guide-trouble-2");
    desk.application(manifest).await?;
    desk.close().await
}

/// The robots that content was served to.
fn served(quay: &Quay) -> BTreeSet<String> {
    let requests = quay.requests().into_iter();
    requests
        .filter(|it| it.endpoint == Endpoint::Content && it.status < 400)
        .filter_map(|it| it.robot)
        .filter(|robot| !robot.ends_with("+publisher"))
        .collect()
}
