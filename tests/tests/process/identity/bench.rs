//! A request that is granted, and what it takes: a node of the trial's own with
//! an agent's pod and a consumer's pod on it, their tokens, and a Secret.
//!
//! Nobody runs those pods: they stay Pending, as a pod is when kubelet publishes
//! its volumes. So trials may do with them what they like.

use anyhow::{Context as _, Result, ensure};
use harness::admission;
use harness::installation::NAMESPACE;
use harness::scene::ARGOCD;
use harness::targets::secret;
use kube::Client;
use reqwest::StatusCode;
use reqwest::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap};
use serde_json::{Value, json};
use shared::errors::Code;
use shared::identity_api::{ApiError, IdentityResponse, PATH};
use shared::layout::TOKEN_AUDIENCE;

use crate::api::Rest;
use crate::scene::Scene;

/// The agents' service account.
pub(crate) const AGENT: &str = "argocd-identity-agent";
/// A consumer of registry credentials.
pub(crate) const REPO_SERVER: &str = "argocd-repo-server";
/// A consumer of cluster credentials.
pub(crate) const SERVER: &str = "argocd-server";
/// The shortest life that the API server gives a token.
const SECONDS: i64 = 600;

/// One request to the identity API.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// The agent's token.
    pub(crate) agent: String,
    pub(crate) namespace: String,
    pub(crate) binding: String,
    /// The pod's token.
    pub(crate) pod: String,
}

impl Ask {
    pub(crate) fn body(&self) -> Value {
        json!({
            "namespace": self.namespace,
            "binding": self.binding,
            "podToken": self.pod,
        })
    }
}

/// What the identity API said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    /// The identity, which no cache may keep.
    pub(crate) fn granted(&self) -> Result<IdentityResponse> {
        ensure!(self.status == StatusCode::OK, "{self:?}");
        let cache = self.headers.get(CACHE_CONTROL);
        ensure!(cache.is_some_and(|value| value == "no-store"), "{self:?}");
        serde_json::from_str(&self.body).with_context(|| self.body.clone())
    }

    /// The message of a refusal with this status and code. No token is in it.
    pub(crate) fn refused(&self, status: u16, code: Code) -> Result<String> {
        ensure!(!self.body.contains("eyJ"), "{self:?}");
        let error: ApiError =
            serde_json::from_str(&self.body).with_context(|| format!("{self:?}"))?;
        ensure!(
            self.status == status && error.code == code.as_str(),
            "{status} {code} was expected: {self:?}"
        );
        ensure!(error.message.contains(code.remedy()), "{self:?}");
        Ok(error.message)
    }
}

/// A client of the identity API that trusts the suite's authority alone.
#[derive(Clone)]
pub(crate) struct IdentityApi {
    http: reqwest::Client,
    url: String,
}

impl IdentityApi {
    pub(crate) fn new(scene: &Scene) -> Result<Self> {
        Ok(Self {
            http: http(scene)?,
            url: scene.installation.plan.identity_url(),
        })
    }

    /// A request that the caller completes.
    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// A call with any body and, if it has one, a bearer token.
    pub(crate) fn call(&self, agent: Option<&str>, body: String) -> reqwest::RequestBuilder {
        let request = self
            .request(reqwest::Method::POST, PATH)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        match agent {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Answer> {
        answer(self.call(Some(&ask.agent), ask.body().to_string())).await
    }

    /// Asks, and expects the refusal with this status and code; returns its message.
    pub(crate) async fn refuses(&self, ask: &Ask, status: u16, code: Code) -> Result<String> {
        self.ask(ask).await?.refused(status, code)
    }
}

/// An HTTP client that trusts the suite's authority alone.
pub(crate) fn http(scene: &Scene) -> Result<reqwest::Client> {
    let authority = reqwest::Certificate::from_pem(scene.around.targets.authority.pem().as_bytes())
        .context("the authority's certificate")?;
    reqwest::Client::builder()
        .tls_certs_only([authority])
        .no_proxy()
        .build()
        .context("make an HTTP client")
}

/// Sends a request and reads its whole answer.
pub(crate) async fn answer(request: reqwest::RequestBuilder) -> Result<Answer> {
    let response = request.send().await.context("send the request")?;
    Ok(Answer {
        status: response.status(),
        headers: response.headers().clone(),
        body: response.text().await.context("read the answer")?,
    })
}

/// What a granted request takes.
pub(crate) struct Bench {
    pub(crate) admin: Client,
    pub(crate) rest: Rest,
    pub(crate) api: IdentityApi,
    /// Of the node, the two pods and the Secret.
    pub(crate) name: String,
    /// The agent's pod.
    pub(crate) agent: Value,
    /// The consumer's pod.
    pub(crate) consumer: Value,
    granted: Ask,
}

impl Bench {
    /// Makes everything under a name that no other trial uses, and makes sure
    /// that the request is granted.
    pub(crate) async fn new(scene: &Scene, name: &str) -> Result<Self> {
        let admin = scene.client()?;
        let rest = scene.rest()?;
        let name = format!("identity-{name}");
        accounts(&rest, ARGOCD).await?;
        node(&rest, &name).await?;
        let agent = pod(&rest, NAMESPACE, &name, AGENT, &name).await?;
        let consumer = pod(&rest, ARGOCD, &name, REPO_SERVER, &name).await?;
        let stored: Value =
            serde_json::from_str(&repository(&name, &[])).context("describe the Secret")?;
        rest.create(&secrets(ARGOCD), &stored).await?;
        let granted = Ask {
            agent: bound_token(&rest, &agent).await?,
            namespace: ARGOCD.to_owned(),
            binding: name.clone(),
            pod: bound_token(&rest, &consumer).await?,
        };
        let api = IdentityApi::new(scene)?;
        api.ask(&granted).await?.granted()?;
        Ok(Self {
            admin,
            rest,
            api,
            name,
            agent,
            consumer,
            granted,
        })
    }

    /// A request that is granted.
    pub(crate) fn granted(&self) -> Ask {
        self.granted.clone()
    }

    /// Makes sure that the request is still granted, so that what was refused
    /// was refused for what it differs in. Then removes what trials beside this
    /// one could see.
    pub(crate) async fn close(self) -> Result<()> {
        self.api.ask(&self.granted).await?.granted()?;
        let secret = format!("{}/{}", secrets(ARGOCD), self.name);
        self.rest.delete(&secret).await.map(drop)
    }
}

/// Makes the consumers' service accounts, unless they are there.
pub(crate) async fn accounts(rest: &Rest, namespace: &str) -> Result<()> {
    for account in [REPO_SERVER, SERVER] {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": account },
        });
        let made = rest.create(&service_accounts(namespace), &object).await;
        match made.as_ref().map_err(|error| error.downcast_ref()) {
            Err(Some(kube::Error::Api(status))) if status.is_already_exists() => {}
            _ => drop(made?),
        }
    }
    Ok(())
}

/// Makes a Node that no DaemonSet of the suite selects, for it says nothing
/// about its operating system.
pub(crate) async fn node(rest: &Rest, name: &str) -> Result<Value> {
    let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
    Ok(rest.create("/api/v1/nodes", &object).await?.object)
}

/// A pod as JSON. An empty node is none yet, and none to come.
pub(crate) fn describe(namespace: &str, name: &str, account: &str, node: &str) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "serviceAccountName": account,
            "automountServiceAccountToken": false,
            "containers": [{ "name": "main", "image": "trial.example.test/main:1" }],
        },
    });
    match node {
        "" => pod["spec"]["schedulingGates"] = json!([{ "name": "example.test/never" }]),
        node => pod["spec"]["nodeName"] = json!(node),
    }
    pod
}

/// Makes a pod on a node.
pub(crate) async fn pod(
    rest: &Rest,
    namespace: &str,
    name: &str,
    account: &str,
    node: &str,
) -> Result<Value> {
    let object = describe(namespace, name, account, node);
    let made = rest.create(&pods(namespace), &object).await;
    Ok(made.with_context(|| format!("make pod {name}"))?.object)
}

/// Removes a pod at once, as nobody is there to end it in good order.
pub(crate) async fn remove(client: &Client, pod: &Value) -> Result<()> {
    let now = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0 });
    let json = "application/json";
    admission::send::<_, Value>(client, "DELETE", &path(pod)?, json, &now)
        .await
        .map(drop)
}

/// Path of a stored pod.
pub(crate) fn path(pod: &Value) -> Result<String> {
    let part = |name: &str| {
        let value = pod["metadata"][name].as_str();
        value.with_context(|| format!("a pod without metadata.{name}"))
    };
    Ok(format!("{}/{}", pods(part("namespace")?), part("name")?))
}

pub(crate) fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

pub(crate) fn secrets(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets")
}

pub(crate) fn service_accounts(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/serviceaccounts")
}

/// The token that kubelet would hand out for a pod: of its service account, for
/// our audience, bound to it.
pub(crate) async fn bound_token(rest: &Rest, pod: &Value) -> Result<String> {
    token_for(rest, pod, Some(TOKEN_AUDIENCE)).await
}

/// As [`bound_token`], for another audience; `None` is the API server's own.
pub(crate) async fn token_for(rest: &Rest, pod: &Value, audience: Option<&str>) -> Result<String> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let account = pod["spec"]["serviceAccountName"]
        .as_str()
        .unwrap_or("default");
    token(rest, (namespace, account), audience, Some(("Pod", pod))).await
}

/// A token of a service account, bound to an object of that kind if there is one.
pub(crate) async fn token(
    rest: &Rest,
    (namespace, account): (&str, &str),
    audience: Option<&str>,
    bound: Option<(&str, &Value)>,
) -> Result<String> {
    let request = token_request(audience, bound);
    let path = format!("{}/{account}/token", service_accounts(namespace));
    let made = rest.create(&path, &request).await?;
    let token = made.object["status"]["token"].as_str();
    Ok(token.context("the answer has no token")?.to_owned())
}

/// The request of [`token`].
pub(crate) fn token_request(audience: Option<&str>, bound: Option<(&str, &Value)>) -> Value {
    let audiences: Vec<_> = audience.into_iter().collect();
    let mut request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": { "audiences": audiences, "expirationSeconds": SECONDS },
    });
    if let Some((kind, object)) = bound {
        request["spec"]["boundObjectRef"] = json!({
            "apiVersion": "v1",
            "kind": kind,
            "name": object["metadata"]["name"],
            "uid": object["metadata"]["uid"],
        });
    }
    request
}

/// The host of a trial's registry. Nobody asks it anything: what is obtained
/// here is the identity.
pub(crate) fn registry(name: &str) -> String {
    format!("{name}.example.test")
}

/// A repository Secret with a registry of its own, so that it is in no conflict
/// with another trial's. `changes` replace values.
pub(crate) fn repository(name: &str, changes: &[(&str, &str)]) -> String {
    let host = registry(name);
    let address = format!("{host}/team/charts");
    let exchange = format!("https://{host}/oauth2/federation/robot/token");
    let mut values = vec![
        ("type", "helm"),
        ("url", address.as_str()),
        ("enableOCI", "true"),
        ("useWorkloadIdentity", "true"),
        ("workloadIdentityProvider", "spiffe"),
        ("workloadIdentityAudience", host.as_str()),
        ("workloadIdentityRegistryAuthURL", exchange.as_str()),
        ("workloadIdentityRegistryUsername", "team+puller"),
    ];
    values.retain(|(key, _)| changes.iter().all(|(changed, _)| changed != key));
    values.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
    secret(name, "repository", &values)
}
