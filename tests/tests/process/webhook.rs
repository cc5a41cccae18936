//! The admission webhook without an API server before it: requests flow in as
//! JSON or as any bytes, answers flow out.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use serde_json::{Value, json};

/// Path for pods that the label of their namespace opts in.
pub(crate) const PODS_NAMESPACE: &str = "/mutate/pods/namespace";
/// Path for pods with an annotation.
pub(crate) const PODS: &str = "/mutate/pods";
/// Path for Deployments, StatefulSets and ArgoCD resources.
pub(crate) const WORKLOADS: &str = "/mutate/workloads";
/// Path for Secrets.
pub(crate) const SECRETS: &str = "/mutate/secrets";
/// Every path.
pub(crate) const PATHS: [&str; 4] = [PODS_NAMESPACE, PODS, WORKLOADS, SECRETS];

/// What an HTTP request got.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The `response` of an AdmissionReview.
    pub(crate) fn review(&self) -> Result<Value> {
        let shown = || String::from_utf8_lossy(&self.body).into_owned();
        ensure!(self.status.is_success(), "{}: {}", self.status, shown());
        let mut review: Value = serde_json::from_slice(&self.body).with_context(shown)?;
        ensure!(
            review["apiVersion"] == "admission.k8s.io/v1" && review["kind"] == "AdmissionReview",
            "{review}"
        );
        Ok(review["response"].take())
    }
}

/// A client of the webhook.
#[derive(Clone)]
pub(crate) struct Webhook {
    http: reqwest::Client,
    url: String,
}

impl Webhook {
    pub(crate) fn new(url: String, authority: &str) -> Result<Self> {
        let authority = reqwest::Certificate::from_pem(authority.as_bytes())
            .context("the authority's certificate")?;
        let http = reqwest::Client::builder()
            .tls_certs_only([authority])
            .no_proxy()
            .build()
            .context("make an HTTP client")?;
        Ok(Self { http, url })
    }

    /// A request that the caller completes.
    pub(crate) fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.url))
    }

    /// A request with another method.
    pub(crate) fn method(&self, method: &str, path: &str) -> Result<reqwest::RequestBuilder> {
        let method = method.parse().context("not a method")?;
        Ok(self.http.request(method, format!("{}{path}", self.url)))
    }

    /// Sends any bytes as JSON.
    pub(crate) async fn send(&self, path: &str, body: impl Into<reqwest::Body>) -> Result<Reply> {
        let request = self
            .post(path)
            .header("content-type", "application/json")
            .body(body);
        reply(request).await
    }

    /// Asks about an object and returns the AdmissionReview's `response`,
    /// which has to carry the request's uid.
    pub(crate) async fn ask(&self, path: &str, request: &Value) -> Result<Value> {
        let reply = self.send(path, body(request)).await?;
        let response = reply.review()?;
        ensure!(response["uid"] == request["uid"], "{response}");
        Ok(response)
    }
}

/// Sends a request and reads its whole answer.
pub(crate) async fn reply(request: reqwest::RequestBuilder) -> Result<Reply> {
    let response = request.send().await.context("send the request")?;
    Ok(Reply {
        status: response.status(),
        body: response.bytes().await.context("read the answer")?.into(),
    })
}

/// The AdmissionReview around a request.
pub(crate) fn body(request: &Value) -> Vec<u8> {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": request,
    })
    .to_string()
    .into_bytes()
}

/// What an API server would ask about the creation of `object`, or about its
/// update from `old`. `kind` is `group/version/Kind`, or `version/Kind`.
pub(crate) fn request(kind: &str, object: &Value, old: Option<&Value>) -> Value {
    let mut parts = kind.rsplit('/');
    let kind = parts.next().unwrap_or_default();
    let version = parts.next().unwrap_or_default();
    let group = parts.next().unwrap_or_default();
    json!({
        "uid": "5e2f2b5a-0c6e-4a2b-9b0a-6f1d1c7f1d10",
        "kind": { "group": group, "version": version, "kind": kind },
        "name": object["metadata"]["name"],
        "namespace": object["metadata"]["namespace"],
        "operation": if old.is_some() { "UPDATE" } else { "CREATE" },
        "userInfo": { "username": "trial" },
        "object": object,
        "oldObject": old,
        "dryRun": false,
    })
}

/// The patch of a `response`, if there is one.
pub(crate) fn patch(response: &Value) -> Result<Option<json_patch::Patch>> {
    let Some(text) = response["patch"].as_str() else {
        return Ok(None);
    };
    ensure!(response["patchType"] == "JSONPatch", "{response}");
    let bytes = STANDARD.decode(text).context("the patch is not base64")?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .context("the patch is not RFC 6902")
}

/// `object` with the patch of a `response`.
pub(crate) fn patched(object: &Value, response: &Value) -> Result<Value> {
    let mut object = object.clone();
    if let Some(patch) = patch(response)? {
        json_patch::patch(&mut object, &patch).context("the patch does not apply")?;
    }
    Ok(object)
}
