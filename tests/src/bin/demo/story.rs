//! The steps, and what is told of each.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::binaries::Binaries;
use harness::bindings::{self, CredentialBinding};
use harness::chart::Chart;
use harness::packages;
use harness::peers::Peers;
use harness::process::wait_until;
use harness::scene::{ARGOCD, Surroundings};
use harness::targets::{Lives, ROBOT};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt as _};
use serde::Serialize;

use crate::{Arguments, injected, secrets};

/// Short enough that credentials rotate while one watches.
const LIVES: Lives = Lives {
    identity: Duration::from_secs(30),
    robot: Duration::from_secs(20),
};
const LIMIT: Duration = Duration::from_secs(120);
const TARGET: &str = "demo";
const CHART: Chart<'_> = Chart {
    name: "demo",
    version: "1.0.0",
    message: "hello from a private chart",
};

/// Writes one line to standard output. Nobody listening is no reason to stop.
pub(crate) fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// What the report file has.
#[derive(Debug, Serialize)]
pub(crate) struct Story {
    #[serde(skip)]
    begin: Instant,
    steps: Vec<Step>,
    credentials: Vec<Credential>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Step {
    seconds: f64,
    what: String,
}

#[derive(Debug, Serialize)]
struct Credential {
    target: String,
    identity: String,
    expires: String,
    rotations: u64,
}

impl Default for Story {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            steps: Vec::new(),
            credentials: Vec::new(),
            seconds: 0.0,
        }
    }
}

impl Story {
    fn step(&mut self, what: impl Into<String>) {
        let (seconds, what) = (self.begin.elapsed().as_secs_f64(), what.into());
        say(format_args!("[{seconds:6.1}s] {what}"));
        self.steps.push(Step { seconds, what });
    }

    /// Plays all of it below `folder`.
    pub(crate) async fn play(mut self, folder: &Path, arguments: &Arguments) -> Result<()> {
        packages::ensure()?;
        let peers = Peers::prepare()?;
        let binaries = Binaries::build()?;
        // From here on it is what "warm" means.
        self.begin = Instant::now();
        self.step("prepared: peers and project are built");

        let around = Surroundings::start(folder, &peers, LIVES).await?;
        self.step(format!(
            "a cluster ({}), a remote cluster ({}) and a private registry ({}) answer",
            around.control_plane.url(),
            around.targets.remote.url(),
            around.targets.quay.host()
        ));
        around.targets.publish(&peers, &CHART)?;
        around.targets.admit_to_remote(TARGET).await?;
        let anonymous = anonymous_pull(&around).await?;
        self.step(format!(
            "published {}/prod/charts/{}:{}; an anonymous pull gets {anonymous}",
            around.targets.quay.host(),
            CHART.name,
            CHART.version
        ));

        let _installation = around.install(&binaries, LIVES).await?;
        self.step("argocd-workload-identity is installed; namespace argocd is labelled");

        let argocd = around.argocd(&peers).await?;
        self.step("stock Argo CD's install.yaml is applied, unchanged; its pods got:");
        for line in injected::describe(&around.client()?).await? {
            say(format_args!("            {line}"));
        }

        for (what, secret) in [
            ("repository", around.targets.repository_secret("charts")),
            ("cluster", around.targets.cluster_secret("spoke")?),
        ] {
            let lines = secrets::create(&around.client()?, &secret).await?;
            self.step(format!(
                "created the {what} Secret of the guide; it became:"
            ));
            for line in lines {
                say(format_args!("            {line}"));
            }
        }
        let bound = bindings::api(around.client()?, ARGOCD);
        for name in ["charts", "spoke"] {
            let binding = bindings::ready(&bound, name, LIMIT).await?;
            self.step(format!(
                "binding {name} is Ready as {}",
                binding.spec.identity.spiffe_id
            ));
        }

        let applications = argocd.applications();
        applications
            .apply(&around.targets.application("demo", &CHART, TARGET))
            .await?;
        let report = applications.synced_and_healthy("demo", LIMIT).await?;
        let message = deployed(&around).await?;
        self.step(format!(
            "Application demo is {} and {}; the remote cluster has \"{message}\"",
            report.sync, report.health
        ));
        let pulls = around
            .targets
            .quay
            .count(|request| request.robot.as_deref() == Some(ROBOT));
        ensure!(
            pulls > 0,
            "the registry saw no request of the robot {ROBOT}"
        );
        self.step(format!(
            "the registry saw {pulls} requests, authenticated as {ROBOT}"
        ));

        rotated(&bound, "charts").await?;
        let report = applications.hard_refresh("demo", LIMIT).await?;
        ensure!(
            report.is_good(),
            "after the rotation the Application is {report:?}"
        );
        self.step(
            "the registry credential was renewed under the running Argo CD, and it synced again",
        );

        self.credentials = credentials(&around).await?;
        self.print_table();
        self.seconds = self.begin.elapsed().as_secs_f64();
        if let Some(path) = &arguments.report {
            let json = serde_json::to_vec_pretty(&self).context("write the report")?;
            fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
        }
        say("demo: ok");
        if arguments.keep {
            let token = around.control_plane.admin_token();
            let config = around.control_plane.kubeconfig("demo", token)?;
            say(format_args!("\nexport KUBECONFIG={}\n", config.display()));
            say("Everything keeps running until Ctrl-C.");
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn print_table(&self) {
        let row = |a: &str, b: &str, c: &str, d: &str| {
            say(format_args!("{a:<38}  {b:<66}  {c:<20}  {d}"))
        };
        say("");
        row("TARGET", "IDENTITY", "EXPIRES", "ROTATIONS");
        for it in &self.credentials {
            row(
                &it.target,
                &it.identity,
                &it.expires,
                &it.rotations.to_string(),
            );
        }
        say("");
    }
}

/// Waits until the agent has replaced the first credential.
async fn rotated(bound: &Api<CredentialBinding>, name: &str) -> Result<()> {
    wait_until(&format!("a rotation of {name}"), LIMIT, || async move {
        let found = bound.get(name).await.context("read the binding")?;
        ensure!(rotations(&found) > 0, "{:?}", found.status);
        Ok(())
    })
    .await
}

/// Agents count the first credential too, which replaced nothing.
fn rotations(binding: &CredentialBinding) -> u64 {
    let nodes = binding.status.iter().flat_map(|status| &status.nodes);
    nodes.map(|node| node.rotations.saturating_sub(1)).sum()
}

/// What the registry answers to somebody without a credential.
async fn anonymous_pull(around: &Surroundings) -> Result<String> {
    let authority = reqwest::Certificate::from_pem(around.targets.authority.pem().as_bytes())
        .context("the authority's certificate")?;
    let client = reqwest::Client::builder()
        .tls_certs_only([authority])
        .no_proxy()
        .build()
        .context("make an HTTP client")?;
    let (host, chart) = (around.targets.quay.host(), CHART.name);
    let url = format!(
        "https://{host}/v2/prod/charts/{chart}/manifests/{}",
        CHART.version
    );
    let status = client
        .get(url)
        .send()
        .await
        .context("pull without a credential")?
        .status();
    ensure!(!status.is_success(), "anonymous pulls can read the chart");
    Ok(status.to_string())
}

async fn credentials(around: &Surroundings) -> Result<Vec<Credential>> {
    let found = bindings::api(around.client()?, ARGOCD)
        .list(&Default::default())
        .await
        .context("list bindings")?;
    Ok(found
        .items
        .into_iter()
        .map(|it| {
            let rotations = rotations(&it);
            let status = it.status.unwrap_or_default();
            Credential {
                target: it.spec.target.address,
                identity: it.spec.identity.spiffe_id,
                expires: status
                    .nodes
                    .iter()
                    .find_map(|node| node.expires_at)
                    .map_or_else(
                        || "-".to_owned(),
                        |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                    ),
                rotations,
            }
        })
        .collect())
}

async fn deployed(around: &Surroundings) -> Result<String> {
    let api: Api<ConfigMap> = Api::namespaced(around.targets.remote.client()?, TARGET);
    let api = &api;
    let found = wait_until("the chart's ConfigMap", LIMIT, || async move {
        api.get(CHART.name).await.context("read it")
    })
    .await?;
    let name = found.name_any();
    let message = found.data.and_then(|mut data| data.remove("message"));
    message.with_context(|| format!("ConfigMap {name} has no message"))
}
