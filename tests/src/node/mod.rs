//! The bookkeeping of one node, in place of kubelet and scheduler: no container runs here.
//!
//! ```text
//!   Pod events ─▶ lifecycle.rs (pure: what next?) ─▶ worker.rs, one per pod
//!                                                      ├ bind, status Running, delete   API server
//!                                                      └ volumes.rs: publish, republish CSI socket
//!   Node, Lease ◀─ heartbeat.rs
//! ```
//!
//! Flows in: the pods of the cluster, CSI drivers' sockets. Flows out: pods that are bound and Running,
//! and drivers called as kubelet calls them, with tokens that the pods' own service accounts get. All but
//! the binding is done as the node's own user, so that the Node authorizer and NodeRestriction say what
//! they would say to a kubelet.

mod csi;
mod heartbeat;
mod lifecycle;
mod tokens;
mod volumes;
mod worker;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;

use crate::process::wait_until;

pub use tokens::{TokenFile, write_kubeconfig};

/// What [`Node::start`] needs.
pub struct Options {
    /// The node's name.
    pub name: String,
    /// May do everything; used as the scheduler.
    pub admin: Client,
    /// The client of user `system:node:<name>`; used as kubelet.
    pub kubelet: Client,
    /// In place of /var/lib/kubelet: the pods' volumes are below.
    pub folder: PathBuf,
    /// Unix sockets of CSI drivers by driver name. A socket need not exist yet.
    pub drivers: HashMap<String, PathBuf>,
    /// How often a volume of a driver with `requiresRepublish` is published again.
    pub republish: Duration,
}

/// A node that its cluster believes in. It stops beating when this is dropped; published volumes stay
/// until their pods are deleted or the run ends.
pub struct Node {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

pub(crate) struct Shared {
    name: String,
    admin: Client,
    kubelet: Client,
    folder: PathBuf,
    drivers: HashMap<String, PathBuf>,
    republish: Duration,
    /// Why a pod is still in ContainerCreating, by UID.
    failures: Mutex<HashMap<String, String>>,
}

impl Node {
    /// Registers the node and begins to look after the cluster's pods.
    ///
    /// # Errors
    /// When the API server refuses the Node or its Lease.
    pub async fn start(options: Options) -> Result<Self> {
        let shared = Arc::new(Shared {
            name: options.name,
            admin: options.admin,
            kubelet: options.kubelet,
            folder: options.folder,
            drivers: options.drivers,
            republish: options.republish,
            failures: Mutex::default(),
        });
        heartbeat::register(&shared).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(heartbeat::run(Arc::clone(&shared)));
        tasks.spawn(worker::run(Arc::clone(&shared)));
        Ok(Self {
            shared,
            _tasks: tasks,
        })
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The client of the node's own user.
    #[must_use]
    pub fn kubelet(&self) -> &Client {
        &self.shared.kubelet
    }

    /// Where a CSI volume of a pod is published.
    #[must_use]
    pub fn csi_target(&self, pod_uid: &str, volume: &str) -> PathBuf {
        self.shared.csi_target(pod_uid, volume)
    }

    /// The one pod that `selector` (labels) finds in `namespace`, when it is Running and not being deleted.
    ///
    /// # Errors
    /// At the limit: what was found instead, and why the pod's volumes are not there.
    pub async fn running_pod(
        &self,
        namespace: &str,
        selector: &str,
        limit: Duration,
    ) -> Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.shared.admin.clone(), namespace);
        let list = ListParams::default().labels(selector);
        let (pods, list) = (&pods, &list);
        wait_until(
            &format!("a pod {selector} in {namespace}"),
            limit,
            || async move {
                let found = pods.list(list).await.context("list pods")?;
                let mut alive = found
                    .items
                    .into_iter()
                    .filter(|pod| pod.metadata.deletion_timestamp.is_none());
                match (alive.next(), alive.next()) {
                    (Some(pod), None) if lifecycle::is_running(&pod) => Ok(pod),
                    (Some(pod), None) => {
                        let why = self.shared.failure(&pod);
                        bail!("{} is {}; {why}", pod.name_any(), lifecycle::phase(&pod))
                    }
                    (None, _) => bail!("there is none"),
                    (Some(_), Some(_)) => bail!("there is more than one"),
                }
            },
        )
        .await
    }

    /// Deletes a pod, unless that has happened already, and waits until it is gone, its volumes unpublished.
    ///
    /// # Errors
    /// When the API server refuses, or at the limit.
    pub async fn delete_pod(&self, pod: &Pod, limit: Duration) -> Result<()> {
        let name = pod.name_any();
        let namespace = pod.namespace().context("a pod has no namespace")?;
        let pods: Api<Pod> = Api::namespaced(self.shared.admin.clone(), &namespace);
        let same = DeleteParams {
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match pods.delete(&name, &same).await {
            Ok(_) => {}
            // Gone already, or another pod has the name by now (a StatefulSet's does).
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("delete pod {namespace}/{name}"));
            }
        }
        let (pods, uid) = (&pods, &pod.metadata.uid);
        let name = name.as_str();
        wait_until(&format!("the end of pod {name}"), limit, || async move {
            match pods.get_opt(name).await.context("look for the pod")? {
                Some(found) if &found.metadata.uid == uid => bail!("it is still there"),
                _ => Ok(()),
            }
        })
        .await
    }

    /// A token of the pod's service account, bound to the pod, as kubelet would ask for it.
    ///
    /// `audience` `None` is the API server's own.
    ///
    /// # Errors
    /// With the API server's refusal.
    pub async fn token(&self, pod: &Pod, audience: Option<&str>, seconds: i64) -> Result<String> {
        let token = tokens::request(&self.shared, pod, audience, Some(seconds)).await?;
        Ok(token.token)
    }

    /// Keeps a token of [`Node::token`] in a file, written anew at 80 % of its life as kubelet does.
    /// The file is left alone when the returned value is dropped.
    ///
    /// # Errors
    /// With the API server's refusal of the first token, or when it cannot be written.
    pub async fn token_file(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        seconds: i64,
        path: &Path,
    ) -> Result<TokenFile> {
        TokenFile::start(Arc::clone(&self.shared), pod, audience, seconds, path).await
    }
}

impl Shared {
    fn csi_target(&self, pod_uid: &str, volume: &str) -> PathBuf {
        self.folder
            .join("pods")
            .join(pod_uid)
            .join("volumes/kubernetes.io~csi")
            .join(volume)
            .join("mount")
    }

    fn failure(&self, pod: &Pod) -> String {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures
            .get(&pod.uid().unwrap_or_default())
            .cloned()
            .unwrap_or_else(|| "no volume has failed".to_owned())
    }

    fn set_failure(&self, uid: &str, failure: Option<String>) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            Some(failure) => failures.insert(uid.to_owned(), failure),
            None => failures.remove(uid),
        };
    }
}
