//! exec-auth in the containers of Argo CD, called as client-go and as the
//! guides' configuration call it.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use harness::argocd::Component;
use harness::quay;
use harness::sandboxed_container::SandboxedContainer;
use harness::targets::identity;
use jiff::Timestamp;
use shared::errors::Code;
use shared::exec_credential::ExecCredential;
use shared::layout;

use super::files::{self, ExecToken};
use super::tenant::{Tenant, volume};
use super::{LIFE, cluster};
use crate::case::{Case, shared};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![shared!(exec_auth_prints_what_is_asked_for).with_argocd()]
}

const SECRET: &str = "exec-auth-spoke";
const AUDIENCE: &str = "exec-auth";

/// The plugin under both names.
const COMMANDS: [&str; 2] = [
    "/binaries/exec-auth",
    "/binaries/k8s-spiffe-workload-jwt-exec-auth",
];
/// Where Argo CD's controller and server have an emptyDir.
const WRITABLE: &str = "/home/argocd";

/// Arguments, environment, and what has to be printed for them.
type Call<'a> = (
    &'a [&'a str],
    &'a [(&'a str, &'a str)],
    Result<&'a str, Code>,
);

async fn exec_auth_prints_what_is_asked_for(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "exec-auth", LIFE).await?;
    // Nobody connects to it: it is enough that it may be bound.
    let server = format!("https://{}:6443", quay::HOST);
    let values = cluster(scene, &server, AUDIENCE)?;
    tenant.create(SECRET, "cluster", &values).await?;
    tenant.ready(SECRET).await?;

    let by_name = ["--cluster", SECRET];
    let v1 = ["--cluster", SECRET, "--api-version", "v1"];
    let absent = ["--cluster", "absent", "--timeout", "100ms"];
    let outside = ["--cluster", "../docker/config", "--timeout", "100ms"];
    let v2 = ["--cluster", SECRET, "--api-version", "v2"];
    let old = [
        "--cluster",
        "old",
        "--timeout",
        "100ms",
        "--directory",
        WRITABLE,
    ];
    let info = r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{"interactive":false}}"#;
    let calls: [Call<'_>; 10] = [
        (&by_name, &[], Ok("v1beta1")),
        (&v1, &[], Ok("v1")),
        (&by_name, &[("KUBERNETES_EXEC_INFO", info)], Ok("v1")),
        // The guides' configuration names the audience and the version.
        (&[], &[("SPIFFE_JWT_AUDIENCE", AUDIENCE)], Ok("v1beta1")),
        (
            &[],
            &[
                ("SPIFFE_JWT_AUDIENCE", AUDIENCE),
                ("EXEC_CREDENTIAL_VERSION", "v1"),
            ],
            Ok("v1"),
        ),
        (&absent, &[], Err(Code::CredentialMissing)),
        (&outside, &[], Err(Code::CredentialUnreadable)),
        (&v2, &[], Err(Code::VersionMismatch)),
        (&[], &[], Err(Code::CredentialAmbiguous)),
        (&old, &[], Err(Code::CredentialExpired)),
    ];
    for component in [Component::ApplicationController, Component::Server] {
        let container = scene.argocd()?.container(component)?;
        let expired = ExecCredential::new("not.a-jwt.x".into(), Timestamp::UNIX_EPOCH);
        let old = container.root()?.join(&WRITABLE[1..]).join("old.json");
        fs::write(&old, expired.render()?).with_context(|| format!("write {}", old.display()))?;

        let file = volume(scene, component)?.join(layout::cluster_file(SECRET)?);
        for command in COMMANDS {
            for (arguments, environment, expected) in &calls {
                let what = format!("{command} {arguments:?} {environment:?} in {component:?}");
                let mut call = container.exec(command)?;
                call.args(*arguments).envs(environment.iter().copied());
                // It may be renewed while this runs.
                let before = files::exec_token(&fs::read(&file)?)?;
                let output = run(&mut call).with_context(|| what.clone())?;
                let after = files::exec_token(&fs::read(&file)?)?;
                let outcome = check(&output, *expected, [&before, &after]);
                outcome.context(what)?;
            }
        }
        fs::remove_file(&old).with_context(|| format!("remove {}", old.display()))?;
        ensure_read_only(container)?;
    }
    tenant.delete(SECRET).await
}

fn run(command: &mut Command) -> Result<Output> {
    command.output().context("start it")
}

fn check(output: &Output, expected: Result<&str, Code>, written: [&ExecToken; 2]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    match expected {
        Ok(version) => {
            ensure!(output.status.success() && said.is_empty(), "{said}");
            let token = files::exec_token(&output.stdout)?;
            ensure!(
                token.api_version == format!("client.authentication.k8s.io/{version}"),
                "{}",
                token.api_version
            );
            ensure!(
                token.subject == identity("argocd-application-controller"),
                "{}",
                token.subject
            );
            let is_written =
                |it: &&ExecToken| (&it.token, it.published) == (&token.token, token.published);
            ensure!(
                written.iter().any(is_written),
                "it is not the one in the file"
            );
            ensure!(Timestamp::now() < token.published + Duration::from_secs(1));
            Ok(())
        }
        Err(code) => {
            ensure!(!output.status.success(), "it did not fail");
            ensure!(output.stdout.is_empty(), "it failed, and printed something");
            let named = said.starts_with(&format!("exec-auth: {code}: "));
            ensure!(named && !said.contains("eyJ"), "{said}");
            Ok(())
        }
    }
}

/// Argo CD cannot change what it is given.
fn ensure_read_only(container: &SandboxedContainer) -> Result<()> {
    for path in [
        format!("{}/{}", layout::CREDENTIALS_PATH, layout::CLUSTERS_DIR),
        layout::BINARIES_PATH.to_owned(),
    ] {
        let file = format!("{path}/own");
        if run(container.exec("/usr/bin/touch")?.arg(&file))?
            .status
            .success()
        {
            bail!("a container can write {file}");
        }
    }
    Ok(())
}
