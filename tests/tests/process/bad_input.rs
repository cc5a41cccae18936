//! What no API server would send, straight to the webhook over TLS: every
//! answer is an AdmissionReview with the request's uid, or an HTTP error.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use control_plane_core::annotations::INJECT;
use control_plane_core::secret::SECRET_TYPE;
use futures::stream;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::case::{Case, shared};
use crate::scene::Scene;
use crate::webhook::{
    PATHS, PODS_NAMESPACE, SECRETS, WORKLOADS, Webhook, body, patch, reply, request,
};

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        shared!(what_is_no_review_is_refused),
        shared!(the_uid_survives_a_broken_body),
        shared!(large_objects),
        shared!(content_types_methods_and_paths),
        shared!(a_body_that_never_ends),
        shared!(kinds_and_shapes_that_nothing_is_decided_about),
        shared!(empty_secrets_and_null_objects),
        shared!(random_bytes),
    ]
}

const KIBIBYTE: usize = 1024;
const MEBIBYTE: usize = 1024 * KIBIBYTE;

/// The server still answers, and no task of it has panicked.
async fn ensure_healthy(scene: &Scene) -> Result<()> {
    let installation = &scene.installation;
    for probe in ["healthz", "readyz"] {
        let url = format!("{}/{probe}", installation.plan.metrics_url());
        reqwest::get(url).await?.error_for_status()?;
    }
    let response = scene.webhook()?.ask(PODS_NAMESPACE, &pod_request()).await?;
    ensure!(patch(&response)?.is_some(), "{response}");
    let log = installation.control_plane.log();
    let log = fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    match log.lines().find(|line| line.contains("panicked")) {
        Some(line) => bail!("the control plane's log says: {line}"),
        None => Ok(()),
    }
}

/// A pod that is injected.
fn pod() -> Value {
    json!({
        "metadata": {
            "namespace": "argocd",
            "labels": { "app.kubernetes.io/name": "argocd-repo-server" },
        },
        "spec": {
            "serviceAccountName": "argocd-repo-server",
            "containers": [{ "name": "argocd-repo-server" }],
        },
    })
}

fn pod_request() -> Value {
    request("v1/Pod", &pod(), None)
}

async fn what_is_no_review_is_refused(scene: &Scene) -> Result<()> {
    let webhook = scene.webhook()?;
    let mut other_version: Value = serde_json::from_slice(&body(&pod_request()))?;
    other_version["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let mut other_kind: Value = serde_json::from_slice(&body(&pod_request()))?;
    other_kind["kind"] = json!("ConversionReview");
    let mut no_uid = pod_request();
    no_uid["uid"] = json!(5);
    let bodies: [Vec<u8>; 12] = [
        Vec::new(),
        b"null".into(),
        b"[]".into(),
        b"{}".into(),
        b"{".into(),
        b"<html></html>".into(),
        b"\xff\xfe\x00".into(),
        b"{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\"}".into(),
        body(&Value::Null),
        body(&no_uid),
        other_version.to_string().into(),
        other_kind.to_string().into(),
    ];
    for path in PATHS {
        for body in &bodies {
            let reply = webhook.send(path, body.clone()).await?;
            let said = String::from_utf8_lossy(&reply.body);
            let sent = String::from_utf8_lossy(body);
            ensure!(reply.status == StatusCode::BAD_REQUEST, "{sent}: {reply:?}");
            ensure!(
                said.contains("admission.k8s.io/v1 AdmissionReview"),
                "{said}"
            );
        }
    }
    ensure_healthy(scene).await
}

async fn the_uid_survives_a_broken_body(scene: &Scene) -> Result<()> {
    let webhook = scene.webhook()?;
    // As kube-apiserver writes it: the uid before the object.
    let text = |object: &str| {
        format!(
            "{{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/v1\",\"request\":\
             {{\"uid\":\"the-uid\",\"kind\":{{\"group\":\"\",\"version\":\"v1\",\"kind\":\"Pod\"}},\
             \"operation\":\"CREATE\",\"object\":{object}}}}}"
        )
    };
    let whole = text(&pod().to_string());
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let broken = [
        whole[..whole.len() - 2].to_owned(),
        whole[..whole.len() / 2 + 40].to_owned(),
        text("{\"spec\":"),
        text("{\"spec\":{},}"),
        text("\u{7}"),
        text(&deep),
        whole.replace("\"CREATE\"", "7"),
        whole.replace("\"group\":\"\"", "\"group\":[]"),
    ];
    for path in PATHS {
        for body in &broken {
            let reply = webhook.send(path, body.clone()).await?;
            let response = reply.review()?;
            ensure!(response["uid"] == "the-uid", "{response}");
            // Whatever cannot be read is none of this project's business.
            ensure!(response["allowed"] == true, "{response}");
            ensure!(patch(&response)?.is_none(), "{response}");
        }
    }
    ensure_healthy(scene).await
}

async fn large_objects(scene: &Scene) -> Result<()> {
    let webhook = scene.webhook()?;
    // etcd's largest request is smaller, so no API server stores such a thing;
    // but it asks about it first.
    let filler = "x".repeat(KIBIBYTE);
    let mut pod = pod();
    let variables: Vec<_> = (0..3 * KIBIBYTE)
        .map(|index| json!({ "name": format!("V{index}"), "value": filler }))
        .collect();
    pod["spec"]["containers"][0]["env"] = json!(variables);
    let large = request("v1/Pod", &pod, None);
    let response = webhook.ask(PODS_NAMESPACE, &large).await?;
    ensure!(patch(&response)?.is_some(), "not injected");

    let mut old = secret_object(&[("url", "aHR0cHM6Ly9hL2I=")]);
    old["data"]["filler"] = json!("eHh4".repeat(3 * MEBIBYTE / 4));
    let both = request("v1/Secret", &old, Some(&old));
    ensure!(body(&both).len() > 6 * MEBIBYTE);
    let response = webhook.ask(SECRETS, &both).await?;
    ensure!(response["allowed"] == true, "{response}");

    // 8 MiB is the last size that is read.
    let mut exact = body(&pod_request());
    exact.resize(8 * MEBIBYTE, b' ');
    let reply = webhook.send(PODS_NAMESPACE, exact.clone()).await?;
    ensure!(patch(&reply.review()?)?.is_some());
    exact.push(b' ');
    for path in PATHS {
        let status = too_large(&webhook, path, exact.clone()).await?;
        ensure!(status == StatusCode::PAYLOAD_TOO_LARGE, "{path}: {status}");
    }
    ensure_healthy(scene).await
}

/// A server may answer and close before it has read the whole body, which some
/// sends see as a broken connection: those are sent again.
async fn too_large(webhook: &Webhook, path: &str, body: Vec<u8>) -> Result<StatusCode> {
    for _ in 0..20 {
        if let Ok(reply) = webhook.send(path, body.clone()).await {
            return Ok(reply.status);
        }
    }
    bail!("no answer to a body that is too large, only closed connections")
}

async fn content_types_methods_and_paths(scene: &Scene) -> Result<()> {
    let webhook = scene.webhook()?;
    let body = body(&pod_request());
    for path in PATHS {
        for media_type in ["application/json", "Application/JSON; charset=utf-8"] {
            let post = webhook.post(path).header("content-type", media_type);
            let reply = reply(post.body(body.clone())).await?;
            ensure!(reply.review()?["allowed"] == true, "{media_type}");
        }
        for media_type in ["", "text/plain", "application/yaml", "application/jsonx"] {
            let post = webhook.post(path).header("content-type", media_type);
            let reply = reply(post.body(body.clone())).await?;
            ensure!(
                reply.status == StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "{media_type}: {reply:?}"
            );
        }
        let reply = reply(webhook.post(path).body(body.clone())).await?;
        ensure!(
            reply.status == StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{reply:?}"
        );
        let got = webhook.method("GET", path)?.send().await?.status();
        ensure!(got == StatusCode::METHOD_NOT_ALLOWED, "GET {path}: {got}");
    }
    for path in ["/", "/mutate", "/mutate/nodes", "/metrics", "/v1/identity"] {
        let reply = webhook.send(path, body.clone()).await?;
        ensure!(reply.status == StatusCode::NOT_FOUND, "{path}: {reply:?}");
    }
    ensure_healthy(scene).await
}

async fn a_body_that_never_ends(scene: &Scene) -> Result<()> {
    let webhook = scene.webhook()?;
    let begin = body(&pod_request())[..40].to_vec();
    for path in PATHS {
        let broken = std::io::Error::other("the client has gone");
        let parts = stream::iter([Ok(begin.clone()), Err(broken)]);
        let body = reqwest::Body::wrap_stream(parts);
        let outcome = webhook.send(path, body).await;
        ensure!(outcome.is_err(), "{outcome:?}");
    }
    ensure_healthy(scene).await
}

async fn kinds_and_shapes_that_nothing_is_decided_about(scene: &Scene) -> Result<()> {
    let webhook = scene.webhook()?;
    let of_path = |path: &str, kind: &str| match path {
        WORKLOADS => matches!(kind, "apps/v1/Deployment" | "argoproj.io/v1beta1/ArgoCD"),
        SECRETS => kind == "v1/Secret",
        _ => kind == "v1/Pod",
    };
    let kinds = [
        "v1/Pod",
        "v1/Secret",
        "apps/v1/Deployment",
        "argoproj.io/v1beta1/ArgoCD",
        "v1/Node",
        "apps/v1/DaemonSet",
        "argoproj.io/v1alpha1/Application",
        "example.test/v7/Pod",
        "example.test/v7/Secret",
        "example.test/v7/Deployment",
        "",
    ];
    // Each is something to change or to refuse under the kind that it is of.
    let opt_in = json!({ "annotations": { INJECT: "enabled" } });
    let bad_opt_in = json!({ "annotations": { INJECT: "on" } });
    let meant = [
        pod(),
        secret_object(&[("useWorkloadIdentity", "dHJ1ZQ==")]),
        json!({ "metadata": opt_in, "spec": {} }),
        json!({ "metadata": bad_opt_in, "spec": {} }),
    ];
    let objects = [
        json!(null),
        json!({}),
        json!([]),
        json!("text"),
        json!(7),
        json!({ "metadata": 7 }),
        json!({ "metadata": { "labels": [], "annotations": "x" } }),
        json!({ "metadata": null, "spec": null, "data": null }),
        json!({ "metadata": { "annotations": { "workload-identity.dev/inject": 1 } } }),
        json!({ "spec": { "containers": [{}], "template": [] } }),
        json!({ "spec": { "template": { "metadata": [] }, "repo": 5, "server": [] } }),
        json!({ "data": { "url": 5 } }),
    ];
    for path in PATHS {
        for kind in kinds {
            let others = meant.iter().filter(|_| !of_path(path, kind));
            for object in objects.iter().chain(others) {
                for old in [None, Some(object)] {
                    let request = request(kind, object, old);
                    let response = webhook.ask(path, &request).await?;
                    ensure!(response["allowed"] == true, "{request}: {response}");
                    ensure!(patch(&response)?.is_none(), "{request}: {response}");
                }
            }
        }
        for (member, value) in [
            ("operation", json!("DELETE")),
            ("operation", json!("CONNECT")),
            ("operation", json!("")),
            ("subResource", json!("status")),
            ("subResource", json!("ephemeralcontainers")),
        ] {
            let mut request = pod_request();
            request[member] = value;
            let response = webhook.ask(path, &request).await?;
            ensure!(patch(&response)?.is_none(), "{request}: {response}");
        }
    }
    ensure_healthy(scene).await
}

fn secret_object(data: &[(&str, &str)]) -> Value {
    let data: serde_json::Map<_, _> = data
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    json!({
        "metadata": {
            "name": "bad",
            "namespace": "argocd",
            "labels": { SECRET_TYPE: "repository" },
        },
        "data": data,
    })
}

async fn empty_secrets_and_null_objects(scene: &Scene) -> Result<()> {
    let webhook = scene.webhook()?;
    let mut no_data = secret_object(&[]);
    no_data["data"].take();
    let mut null_value = secret_object(&[]);
    null_value["data"]["useWorkloadIdentity"] = Value::Null;
    for secret in [
        secret_object(&[]),
        no_data,
        null_value,
        secret_object(&[("useWorkloadIdentity", "")]),
    ] {
        for old in [None, Some(&secret), Some(&Value::Null)] {
            let request = request("v1/Secret", &secret, old);
            let response = webhook.ask(SECRETS, &request).await?;
            ensure!(response["allowed"] == true, "{request}: {response}");
            ensure!(patch(&response)?.is_none(), "{request}: {response}");
        }
    }
    // Opted in with nothing else, and with what is no base64.
    for (value, code) in [("dHJ1ZQ==", "invalid-url"), ("%%%", "invalid-secret")] {
        let secret = secret_object(&[("useWorkloadIdentity", value)]);
        let request = request("v1/Secret", &secret, None);
        let response = webhook.ask(SECRETS, &request).await?;
        ensure!(response["allowed"] == false, "{response}");
        ensure!(response["auditAnnotations"]["denied"] == code, "{response}");
    }
    ensure_healthy(scene).await
}

/// Noise, and good bodies with noise in them; the same ones in every run.
async fn random_bytes(scene: &Scene) -> Result<()> {
    const ROUNDS: usize = 150;
    let webhook = scene.webhook()?;
    let good = body(&pod_request());
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for round in 0..ROUNDS {
        for path in PATHS {
            let bytes = if round % 2 == 0 {
                (0..noise.below(512)).map(|_| noise.byte()).collect()
            } else {
                let mut bytes = good.clone();
                for _ in 0..=noise.below(4) {
                    let at = noise.below(bytes.len());
                    bytes[at] = noise.byte();
                }
                bytes
            };
            let reply = webhook.send(path, bytes.clone()).await?;
            let is_review = reply.review().is_ok();
            ensure!(
                is_review || reply.status == StatusCode::BAD_REQUEST,
                "{:?} got {reply:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
    }
    ensure_healthy(scene).await
}

/// Marsaglia's xorshift64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or_default()
    }
}
