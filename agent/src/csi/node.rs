//! The node service: kubelet's requests flow in, mounts are made and removed,
//! and the engine is told who is a consumer. Nothing here waits for an
//! upstream: a pod starts whether or not credentials can be had.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use shared::errors::{Code, Named};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::mount::{self, Mounted};
use super::proto::{
    NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
    NodeGetInfoResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
};
use super::publish;
use super::services::node_server::Node;
use crate::demand::View;
use crate::engine::Handle;
use crate::store::Program;

/// Serves volumes of one node.
#[derive(Debug)]
pub(super) struct NodeService {
    settings: Arc<Settings>,
    engine: Handle,
    /// Mounting is looked up first and done second: one at a time.
    mounting: Arc<Mutex<()>>,
}

/// What the node service needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's name.
    pub node: String,
    /// Kubelet's folder; volumes lie below it.
    pub kubelet_dir: PathBuf,
    /// The program to put into `bin/`.
    pub program: Arc<Program>,
}

impl NodeService {
    pub(super) fn new(settings: Settings, engine: Handle) -> Self {
        Self {
            settings: Arc::new(settings),
            engine,
            mounting: Arc::default(),
        }
    }

    /// Runs file system work off the async threads.
    async fn blocking(
        &self,
        volume_id: &str,
        target: &Path,
        work: impl FnOnce(&Settings, &Path) -> anyhow::Result<()> + Send + 'static,
    ) -> Result<(), Status> {
        let (settings, path) = (Arc::clone(&self.settings), target.to_owned());
        let one_at_a_time = Arc::clone(&self.mounting).lock_owned().await;
        // The work goes on when kubelet gives up its call, so it has to keep the
        // lock itself: the next call would mount a second time.
        let worker = tokio::task::spawn_blocking(move || {
            let _one_at_a_time = one_at_a_time;
            work(&settings, &path)
        });
        worker
            .await
            .unwrap_or_else(|panic| Err(panic.into()))
            .map_err(|error| {
                let detail = format!("volume `{volume_id}`: {error:#}");
                tracing::warn!(volume = %target.display(), "{detail}");
                Status::internal(Named::new(Code::StoreFailed, detail).to_string())
            })
    }
}

/// Makes a verified, prepared tmpfs at `target`, unless it is there already.
///
/// Kubelet takes an error for final and then never unpublishes, so whatever
/// this call made goes with it. What was there before stays.
fn publish_volume(settings: &Settings, target: &Path, view: View) -> anyhow::Result<()> {
    match mount::mounted(target).context("read the mount table")? {
        Mounted::Ours(found) if found == view => settings.bring_up_to_date(target, view),
        // A volume never changes its view, and this one may hold credentials.
        Mounted::Ours(_) => bail!("the volume at {} is of another view", target.display()),
        Mounted::Other => bail!("something else is mounted at {}", target.display()),
        Mounted::Nothing => {
            make_directory(settings, target)?;
            mount::mount(target, view, settings.volume_size(view))
                .with_context(|| format!("mount a tmpfs at {}", target.display()))
                .and_then(|()| {
                    settings
                        .bring_up_to_date(target, view)
                        .inspect_err(|_| undo("unmount", mount::unmount_top(target)))
                })
                // Empty, or not removed.
                .inspect_err(|_| undo("remove", std::fs::remove_dir(target)))
        }
    }
    .inspect_err(|_| settings.program.forget(target))
}

/// Makes the directory, which may be there from a try that was killed before it
/// mounted.
fn make_directory(settings: &Settings, target: &Path) -> anyhow::Result<()> {
    let shown = target.display();
    let parent = target.parent().context("the target has no parent")?;
    std::fs::create_dir_all(parent).with_context(|| format!("make the parent of {shown}"))?;
    // No component may have been replaced by a link to elsewhere.
    let real = parent.canonicalize().context("resolve the target")?;
    let folder = settings
        .kubelet_dir
        .canonicalize()
        .context("resolve --kubelet-dir")?;
    let below = parent.strip_prefix(&settings.kubelet_dir)?;
    ensure!(real == folder.join(below), "{shown} leads elsewhere");
    match std::fs::create_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("make {shown}"));
        }
        _ => {}
    }
    let found = std::fs::symlink_metadata(target).with_context(|| format!("look at {shown}"))?;
    ensure!(found.is_dir(), "{shown} is no directory");
    Ok(())
}

/// The error that led here is the one that kubelet hears of.
fn undo(step: &str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "cannot {step} what a failed publish made");
    }
}

/// Unmounts and removes `target`; both may have happened already.
fn unpublish_volume(settings: &Settings, target: &Path) -> anyhow::Result<()> {
    settings.program.forget(target);
    mount::unmount(target).with_context(|| format!("unmount {}", target.display()))?;
    // Never recursively: whatever is in there now is not ours.
    match std::fs::remove_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", target.display()))
        }
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let consumer = publish::consumer(&request, &self.settings.kubelet_dir)
            .inspect_err(|status| tracing::warn!("{}", status.message()))?;
        let view = consumer.view;
        self.blocking(
            &request.volume_id,
            &consumer.volume,
            move |settings, target| publish_volume(settings, target, view),
        )
        .await?;
        self.engine.publish(consumer).await;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let target = publish::target(
            &request.volume_id,
            &request.target_path,
            &self.settings.kubelet_dir,
        )?;
        // First the engine, so that nothing is written where nothing is mounted.
        self.engine.unpublish(target.clone()).await;
        self.blocking(&request.volume_id, &target, unpublish_volume)
            .await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(NodeGetCapabilitiesResponse {}))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.settings.node.clone(),
        }))
    }
}
