//! Service account tokens bound to pods, asked for as the node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus,
};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use super::Shared;

/// Until a refused or failed renewal is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A token of the pod's service account, bound to the pod. `seconds` `None` is the API server's default.
pub(super) async fn request(
    shared: &Shared,
    pod: &Pod,
    audience: Option<&str>,
    seconds: Option<i64>,
) -> Result<TokenRequestStatus> {
    let namespace = pod.namespace().context("a pod has no namespace")?;
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref())
        .unwrap_or("default");
    let wanted = TokenRequest {
        spec: TokenRequestSpec {
            audiences: audience.map(str::to_owned).into_iter().collect(),
            expiration_seconds: seconds,
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.name_any()),
                uid: pod.uid(),
            }),
        },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(shared.kubelet.clone(), &namespace);
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &wanted)
        .await
        .with_context(|| {
            format!(
                "ask as node {} for a token of {namespace}/{account} bound to pod {}",
                shared.name,
                pod.name_any()
            )
        })?;
    answer
        .status
        .context("the answer to a TokenRequest has no token")
}

/// A token in a file, renewed at 80 % of its life. Dropping this ends the renewal.
pub struct TokenFile {
    path: PathBuf,
    _renewal: JoinSet<()>,
}

impl TokenFile {
    pub(super) async fn start(
        shared: Arc<Shared>,
        pod: &Pod,
        audience: Option<&str>,
        seconds: i64,
        path: &Path,
    ) -> Result<Self> {
        let token = request(&shared, pod, audience, Some(seconds)).await?;
        write(path, &token.token)?;
        let (pod, audience) = (pod.clone(), audience.map(str::to_owned));
        let mut renewal = JoinSet::new();
        let path = path.to_owned();
        let target = path.clone();
        renewal.spawn(async move {
            let mut due = life(&token).mul_f64(0.8);
            loop {
                tokio::time::sleep(due).await;
                let renewed = request(&shared, &pod, audience.as_deref(), Some(seconds)).await;
                due = match renewed.and_then(|token| write(&target, &token.token).map(|()| token)) {
                    Ok(token) => life(&token).mul_f64(0.8),
                    // The old one still has a fifth of its life; its reader notices when that ends.
                    Err(_) => RETRY,
                };
            }
        });
        Ok(Self {
            path,
            _renewal: renewal,
        })
    }

    /// Where the token is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn life(token: &TokenRequestStatus) -> Duration {
    let left =
        token.expiration_timestamp.0.as_second() - k8s_openapi::jiff::Timestamp::now().as_second();
    Duration::from_secs(u64::try_from(left).unwrap_or_default()).max(RETRY)
}

/// Replaces the file in one step: its reader may look at any time.
fn write(path: &Path, token: &str) -> Result<()> {
    let write = || {
        let folder = path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut file, token.as_bytes())?;
        // Containers run as users of their own.
        let readable =
            <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644);
        file.as_file().set_permissions(readable)?;
        file.persist(path)?;
        std::io::Result::Ok(())
    };
    write().with_context(|| format!("write the token {}", path.display()))
}

/// Writes a kubeconfig whose user is whoever the token in `token_file` is of.
///
/// # Errors
/// When the file cannot be written.
pub fn write_kubeconfig(path: &Path, server: &str, ca_pem: &str, token_file: &Path) -> Result<()> {
    let name = "cluster";
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{ "name": name, "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(ca_pem),
        }}],
        "users": [{ "name": name, "user": { "tokenFile": token_file } }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
    });
    std::fs::write(path, config.to_string()).with_context(|| format!("write {}", path.display()))
}
