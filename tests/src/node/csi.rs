//! The client half of the CSI Node service, over a driver's unix socket.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use agent::csi::proto::{
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeUnpublishVolumeRequest,
    NodeUnpublishVolumeResponse, VolumeCapability,
};
use anyhow::{Context, Result};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// kubelet gives a driver two minutes; these drivers are on this machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// One call of NodePublishVolume.
pub(super) struct Publish<'a> {
    pub(super) volume_id: String,
    pub(super) target: &'a Path,
    pub(super) read_only: bool,
    pub(super) context: HashMap<String, String>,
    pub(super) secrets: HashMap<String, String>,
}

pub(super) async fn publish(socket: &Path, volume: Publish<'_>) -> Result<()> {
    let request = NodePublishVolumeRequest {
        volume_id: volume.volume_id,
        target_path: text(volume.target)?,
        volume_capability: Some(VolumeCapability::mount()),
        readonly: volume.read_only,
        secrets: volume.secrets,
        volume_context: volume.context,
    };
    call::<_, NodePublishVolumeResponse>(socket, "/csi.v1.Node/NodePublishVolume", request).await?;
    Ok(())
}

pub(super) async fn unpublish(socket: &Path, volume_id: &str, target: &Path) -> Result<()> {
    let request = NodeUnpublishVolumeRequest {
        volume_id: volume_id.to_owned(),
        target_path: text(target)?,
    };
    call::<_, NodeUnpublishVolumeResponse>(socket, "/csi.v1.Node/NodeUnpublishVolume", request)
        .await?;
    Ok(())
}

async fn call<Q, A>(socket: &Path, method: &'static str, request: Q) -> Result<A>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut client = Grpc::new(connect(socket).await?);
    client
        .ready()
        .await
        .context("the CSI driver is not ready")?;
    let answer = client
        .unary(
            tonic::Request::new(request),
            PathAndQuery::from_static(method),
            ProstCodec::<Q, A>::default(),
        )
        .await
        // The status has the driver's own words; its other parts are noise.
        .map_err(|status| anyhow::anyhow!("{:?}: {}", status.code(), status.message()))?;
    Ok(answer.into_inner())
}

async fn connect(socket: &Path) -> Result<Channel> {
    Endpoint::try_from(format!("unix://{}", socket.display()))
        .context("address of the CSI driver's socket")?
        .timeout(TIMEOUT)
        .connect()
        .await
        .with_context(|| format!("connect to the CSI driver at {}", socket.display()))
}

fn text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
