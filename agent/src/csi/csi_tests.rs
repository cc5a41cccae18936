//! The service is called as kubelet calls it; mounts are real.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use tokio::sync::mpsc;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::mount::Mounted;
use super::proto::{
    GetPluginInfoRequest, NodeGetInfoRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest,
    ProbeRequest, VolumeCapability,
};
use super::*;
use crate::engine::{self, Event};

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("csi.sock");
    drop(bind(&path).unwrap());
    assert!(path.exists(), "dropping a listener leaves its socket");
    let _listener = bind(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(bind(&file).is_err());
}

/// A driver on a socket, whose engine only counts.
struct Driver {
    folder: tempfile::TempDir,
    channel: Channel,
    published: mpsc::UnboundedReceiver<PathBuf>,
}

impl Driver {
    async fn start() -> Self {
        // Not below /tmp or /dev/shm, which may be a tmpfs themselves.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let exec_auth = folder.path().join("program");
        std::fs::write(&exec_auth, "#!/bin/sh\n").unwrap();
        let settings = Settings {
            node: "node-a".into(),
            kubelet_dir: folder.path().to_owned(),
            exec_auth,
        };
        let socket = folder.path().join("csi.sock");
        let listener = bind(&socket).unwrap();
        let (handle, mut events) = engine::channel();
        let (seen, published) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    Event::Published { consumer, done } => {
                        let _ = seen.send(consumer.volume);
                        let _ = done.send(());
                    }
                    Event::Unpublished { done, .. } => drop(done.send(())),
                }
            }
        });
        tokio::spawn(serve(listener, settings, handle, std::future::pending()));
        let channel = Endpoint::try_from(format!("unix://{}", socket.display()))
            .unwrap()
            .connect()
            .await
            .unwrap();
        Self {
            folder,
            channel,
            published,
        }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("pods/uid/volumes/v/mount")
    }

    async fn publish(&self) -> Result<(), tonic::Status> {
        let tokens =
            r#"{"argocd-identity":{"token":"t","expirationTimestamp":"2030-01-01T00:00:00Z"}}"#;
        let context = [
            ("pod.name", "p"),
            ("pod.namespace", "argocd"),
            ("pod.uid", "uid"),
            ("serviceAccount.name", "sa"),
            ("ephemeral", "true"),
            ("serviceAccount.tokens", tokens),
        ];
        let request = NodePublishVolumeRequest {
            volume_id: "csi-1".into(),
            target_path: self.target().display().to_string(),
            volume_capability: Some(VolumeCapability::mount()),
            readonly: true,
            secrets: HashMap::new(),
            volume_context: context
                .iter()
                .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), (*value).to_owned()))
                .collect(),
        };
        let mut node = NodeClient::new(self.channel.clone());
        node.node_publish_volume(request).await.map(drop)
    }

    async fn unpublish(&self) -> Result<(), tonic::Status> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: "csi-1".into(),
            target_path: self.target().display().to_string(),
        };
        let mut node = NodeClient::new(self.channel.clone());
        node.node_unpublish_volume(request).await.map(drop)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = mount::unmount(&self.target());
    }
}

#[tokio::test]
async fn says_who_it_is() {
    let driver = Driver::start().await;
    let mut identity = IdentityClient::new(driver.channel.clone());
    let info = identity
        .get_plugin_info(GetPluginInfoRequest {})
        .await
        .unwrap();
    assert_eq!(info.into_inner().name, "csi.workload-identity.dev");
    let probe = identity.probe(ProbeRequest {}).await.unwrap().into_inner();
    assert!(probe.ready.unwrap().value);
    let mut node = NodeClient::new(driver.channel.clone());
    let info = node.node_get_info(NodeGetInfoRequest {}).await.unwrap();
    assert_eq!(info.into_inner().node_id, "node-a");
}

/// The one test that needs root.
#[tokio::test]
async fn publishes_and_unpublishes_as_often_as_it_is_asked() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts a tmpfs: run it as root"
    );
    let mut driver = Driver::start().await;
    let target = driver.target();
    driver.publish().await.unwrap();
    assert_eq!(driver.published.recv().await, Some(target.clone()));
    assert_eq!(mount::mounted(&target).unwrap(), Mounted::Ours);
    let found = std::fs::metadata(&target).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o755);
    assert_ne!(
        found.dev(),
        std::fs::metadata(driver.folder.path()).unwrap().dev()
    );
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let shown = target.display().to_string();
    let line = table.lines().find(|line| line.contains(&shown)).unwrap();
    for option in ["nosuid", "nodev", "size=16384k", "mode=755"] {
        assert!(line.contains(option), "{option}: {line}");
    }
    for path in [
        "docker",
        "clusters",
        "bin/exec-auth",
        "bin/k8s-spiffe-workload-jwt-exec-auth",
    ] {
        assert!(target.join(path).exists(), "{path}");
    }
    assert_eq!(
        mount::volumes_below(driver.folder.path()).unwrap(),
        std::slice::from_ref(&target)
    );

    // Again, with a new token: the same mount, with what is in it.
    std::fs::write(target.join("docker/config.json"), "{}").unwrap();
    driver.publish().await.unwrap();
    assert_eq!(std::fs::metadata(&target).unwrap().dev(), found.dev());
    assert_eq!(
        std::fs::read(target.join("docker/config.json")).unwrap(),
        b"{}"
    );

    // Also while somebody uses it.
    let user = std::fs::File::open(target.join("bin/exec-auth")).unwrap();
    driver.unpublish().await.unwrap();
    assert!(!target.exists());
    assert_eq!(mount::mounted(&target).unwrap(), Mounted::Nothing);
    drop(user);
    driver.unpublish().await.unwrap();

    // What is not ours is neither mounted over nor removed.
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/", &target).unwrap();
    assert_eq!(driver.publish().await.unwrap_err().code(), Code::Internal);
    assert_eq!(
        mount::volumes_below(driver.folder.path()).unwrap(),
        [""; 0].map(PathBuf::from)
    );
    std::fs::remove_file(&target).unwrap();
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("foreign"), "x").unwrap();
    assert_eq!(driver.unpublish().await.unwrap_err().code(), Code::Internal);
    assert!(target.join("foreign").exists());
}
