//! Where the nodes have the SPIFFE CSI driver: a second control plane that is
//! told so, for namespaces with a label of their own.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use control_plane_core::annotations::{SPIFFE_CSI, SPIFFE_SOCKET_PATH};
use harness::binaries::workspace;
use harness::control_plane::documents;
use harness::ports;
use harness::process::{Process, wait_until};
use serde_json::{Value, json};

use super::bench::Bench;
use super::pods::{annotate, mount, set_env, with_guides_volumes};
use crate::api::codes;
use crate::case::{Case, shared};
use crate::scene::Scene;
use crate::snapshot;
use crate::webhook::Webhook;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(the_workload_api_is_mounted),
        shared!(without_the_driver_it_is_not_mounted),
    ]
}

/// In place of the project's own label.
const OPT_IN: (&str, &str) = ("trial/spiffe", "enabled");
/// Namespace of the second installation, and of what it serves.
const NAMESPACE: &str = "spiffe-installation";
const READY: Duration = Duration::from_secs(60);

/// A control plane that runs with `--spiffe-csi-driver`. Ends when dropped.
struct WithDriver {
    _process: Process,
    webhook: Webhook,
}

impl WithDriver {
    async fn start(scene: &Scene) -> Result<Self> {
        scene.namespace(NAMESPACE, &[]).await?;
        let folder = scene.folder.join(NAMESPACE);
        let tls = folder.join("tls");
        fs::create_dir_all(&tls).with_context(|| format!("create {}", tls.display()))?;
        let certificate = scene.around.targets.authority.issue(&["localhost"])?;
        fs::write(tls.join("tls.crt"), &certificate.certificate).context("write tls.crt")?;
        fs::write(tls.join("tls.key"), &certificate.key).context("write tls.key")?;

        let control_plane = &scene.around.control_plane;
        let kubeconfig = control_plane.kubeconfig(NAMESPACE, control_plane.admin_token())?;
        let (admission, metrics) = (ports::free()?, ports::free()?);
        let listen = |port: u16| format!("127.0.0.1:{port}");
        let mut command = Command::new(scene.binaries.control_plane());
        command
            .args(["serve", "--spiffe-csi-driver"])
            .args(["--namespace", NAMESPACE])
            .args(["--argocd-namespaces", "spiffe,spiffe-plain"])
            .args(["--trust-domain", "spiffe.test"])
            .arg("--tls-dir")
            .arg(&tls)
            .args(["--admission-address", &listen(admission)])
            .args(["--identity-address", &listen(ports::free()?)])
            .args(["--issuer-address", &listen(ports::free()?)])
            .args(["--metrics-address", &listen(metrics)])
            .env("KUBECONFIG", &kubeconfig);
        let mut process = Process::start("argocd-identity", &mut command, &folder)?;
        let ready = format!("http://127.0.0.1:{metrics}/readyz");
        let ready = ready.as_str();
        process
            .ready(READY, || async move {
                reqwest::get(ready).await?.error_for_status()?;
                Ok(())
            })
            .await?;
        let url = format!("https://localhost:{admission}");
        let configuration = configuration(&url, scene.around.targets.authority.pem())?;
        let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
        scene.rest()?.create(path, &configuration).await?;
        Ok(Self {
            _process: process,
            webhook: Webhook::new(url, scene.around.targets.authority.pem())?,
        })
    }
}

/// The first entry of the project's own configuration, for [`OPT_IN`].
fn configuration(url: &str, authority: &str) -> Result<Value> {
    let path = workspace().join("manifests/base/webhooks.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let object = documents(&text)?.into_iter().next().context("empty")?;
    let mut object = serde_json::to_value(object).context("not JSON")?;
    let mut webhook = object["webhooks"][0].take();
    let path = webhook["clientConfig"]["service"]["path"].clone();
    let path = path.as_str().context("no path")?;
    webhook["name"] = json!("pods.spiffe.test");
    webhook["namespaceSelector"] = json!({ "matchLabels": { OPT_IN.0: OPT_IN.1 } });
    webhook["clientConfig"] = json!({
        "url": format!("{url}{path}"),
        "caBundle": STANDARD.encode(authority),
    });
    object["metadata"] = json!({ "name": "spiffe" });
    object["webhooks"] = json!([webhook]);
    Ok(object)
}

async fn the_workload_api_is_mounted(scene: &Scene) -> Result<()> {
    let with_driver = WithDriver::start(scene).await?;
    let bench = Bench::with_opt_in(scene, "spiffe", "privileged", OPT_IN).await?;
    let bench = bench.asking(with_driver.webhook.clone());
    let server = bench.stock.pod("argocd-server")?;
    let tried = wait_until("the API server to know of the webhook", READY, || async {
        let tried = bench.check(&server).await?;
        ensure!(!tried.additions.is_empty(), "not yet");
        Ok(tried)
    })
    .await?;
    snapshot::check("spiffe", "server", &tried.shown());

    let mut repo_server = bench.stock.pod("argocd-repo-server")?;
    let tried = bench.check(&repo_server).await?;
    ensure!(
        !tried.pod["spec"].to_string().contains("spiffe"),
        "{tried:?}"
    );
    annotate(&mut repo_server, &[(SPIFFE_CSI, "true")]);
    let tried = bench.check(&repo_server).await?;
    snapshot::check("spiffe", "repo-server-on-request", &tried.shown());

    let mut pod = server.clone();
    annotate(&mut pod, &[(SPIFFE_CSI, "false")]);
    let tried = bench.check(&pod).await?;
    ensure!(
        !tried.pod["spec"].to_string().contains("spiffe"),
        "{tried:?}"
    );

    let mut pod = server.clone();
    annotate(&mut pod, &[(SPIFFE_SOCKET_PATH, "/run/agent/api.sock")]);
    let tried = bench.check(&pod).await?;
    snapshot::check("spiffe", "socket-path", &tried.shown());

    // The guide's volume is used where it is.
    let tried = bench.check(&with_guides_volumes(server.clone())?).await?;
    snapshot::check("spiffe", "guide", &tried.shown());
    ensure!(tried.warnings.is_empty(), "{tried:?}");

    let mut pod = server.clone();
    let host = json!({ "name": "spiffe-workload-api", "hostPath": { "path": "/run/spire" } });
    mount(&mut pod, host, "/run/spire")?;
    let tried = bench.check(&pod).await?;
    snapshot::check("spiffe", "volume-conflict", &tried.shown());
    ensure!(codes(&tried.warnings) == ["volume-conflict"], "{tried:?}");

    let mut pod = server.clone();
    let theirs = json!({ "name": "theirs", "configMap": { "name": "theirs" } });
    mount(&mut pod, theirs, "/spiffe-workload-api")?;
    let tried = bench.check(&pod).await?;
    snapshot::check("spiffe", "mount-conflict", &tried.shown());
    ensure!(codes(&tried.warnings) == ["mount-conflict"], "{tried:?}");

    let mut pod = server;
    set_env(&mut pod, "SPIFFE_ENDPOINT_SOCKET", "unix:///tmp/agent.sock")?;
    let tried = bench.check(&pod).await?;
    snapshot::check("spiffe", "env-conflict", &tried.shown());
    ensure!(codes(&tried.warnings) == ["env-conflict"], "{tried:?}");
    Ok(())
}

async fn without_the_driver_it_is_not_mounted(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "spiffe-absent", "restricted").await?;
    let mut pod = bench.stock.pod("argocd-server")?;
    annotate(&mut pod, &[(SPIFFE_CSI, "true")]);
    let tried = bench.check(&pod).await?;
    ensure!(
        !tried.pod["spec"].to_string().contains("spiffe"),
        "{tried:?}"
    );
    ensure!(codes(&tried.warnings) == ["not-available"], "{tried:?}");
    Ok(())
}
