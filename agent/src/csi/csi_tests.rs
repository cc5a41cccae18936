//! The service is called as kubelet calls it; mounts are real.

use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
use crate::store::Program;

/// What kubelet sends for a pod of service account `sa` in namespace `argocd`.
pub(crate) fn publish_request(target: &Path) -> NodePublishVolumeRequest {
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
    NodePublishVolumeRequest {
        volume_id: "csi-1".into(),
        target_path: target.display().to_string(),
        volume_capability: Some(VolumeCapability::mount()),
        readonly: true,
        secrets: HashMap::new(),
        volume_context: context
            .iter()
            .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), (*value).to_owned()))
            .collect(),
    }
}

/// A driver on a socket, whose engine only counts.
struct Driver {
    folder: tempfile::TempDir,
    settings: Settings,
    _bound: socket::Bound,
    channel: Channel,
    published: mpsc::UnboundedReceiver<PathBuf>,
}

impl Driver {
    async fn start() -> Self {
        let program = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        Self::with(Program::load(program.path()).unwrap()).await
    }

    async fn with(program: Program) -> Self {
        // Not below /tmp or /dev/shm, which may be a tmpfs themselves.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let settings = Settings {
            node: "node-a".into(),
            kubelet_dir: folder.path().to_owned(),
            program: Arc::new(program),
        };
        let socket = folder.path().join("csi.sock");
        let (listener, bound) = socket::bind(&socket, SOCKET_FLAG).unwrap();
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
        let serve = serve(listener, settings.clone(), handle, std::future::pending());
        tokio::spawn(serve);
        let channel = Endpoint::try_from(format!("unix://{}", socket.display()))
            .unwrap()
            .connect()
            .await
            .unwrap();
        Self {
            folder,
            settings,
            _bound: bound,
            channel,
            published,
        }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("pods/uid/volumes/v/mount")
    }

    async fn publish(&self) -> Result<(), tonic::Status> {
        let mut node = NodeClient::new(self.channel.clone());
        let request = publish_request(&self.target());
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

/// How many mounts lie at `target`.
fn layers(target: &Path) -> usize {
    let shown = format!(" {} ", target.display());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(&shown)).count()
}

#[track_caller]
fn is_complete(volume: &Path) {
    for path in [
        "docker",
        "clusters",
        "bin/exec-auth",
        "bin/k8s-spiffe-workload-jwt-exec-auth",
    ] {
        assert!(volume.join(path).exists(), "{path}");
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

/// This one and those below need root.
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
    assert_eq!(
        mount::mounted(&target).unwrap(),
        Mounted::Ours(View::ArgoCd)
    );
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
    is_complete(&target);
    assert_eq!(
        mount::volumes_below(driver.folder.path()).unwrap(),
        [(target.clone(), View::ArgoCd)]
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
    assert_eq!(mount::volumes_below(driver.folder.path()).unwrap(), []);
    std::fs::remove_file(&target).unwrap();
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("foreign"), "x").unwrap();
    assert_eq!(driver.unpublish().await.unwrap_err().code(), Code::Internal);
    assert!(target.join("foreign").exists());
}

#[tokio::test]
async fn what_a_failed_publish_made_goes_and_what_was_there_stays() {
    let broken = Driver::with(Program::that_cannot_be_installed()).await;
    let target = broken.target();
    let error = broken.publish().await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(error.message().starts_with("store-failed"), "{error}");
    assert_eq!((layers(&target), target.exists()), (0, false));
    assert!(target.parent().unwrap().exists(), "kubelet's");

    // Left by a try that was killed before it mounted.
    std::fs::create_dir(&target).unwrap();
    broken.publish().await.unwrap_err();
    assert_eq!((layers(&target), target.exists()), (0, false));

    // A running pod's volume.
    std::fs::create_dir(&target).unwrap();
    mount::mount(&target, View::ArgoCd, 1 << 20).unwrap();
    std::fs::write(target.join("credential"), "x").unwrap();
    broken.publish().await.unwrap_err();
    assert_eq!(layers(&target), 1);
    assert!(target.join("credential").exists());
    broken.unpublish().await.unwrap();
    assert_eq!((layers(&target), target.exists()), (0, false));
}

#[tokio::test]
async fn the_proxys_view_is_an_empty_volume_of_its_own() {
    let driver = Driver::start().await;
    let target = driver.target();
    let publish = |view: Option<&'static str>| {
        let mut request = publish_request(&target);
        let view = view.map(|view| ("view".to_owned(), view.to_owned()));
        request.volume_context.extend(view);
        let mut node = NodeClient::new(driver.channel.clone());
        async move { node.node_publish_volume(request).await.map(drop) }
    };
    let error = publish(Some("other")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(!target.exists(), "nothing is made");

    publish(Some("proxy")).await.unwrap();
    publish(Some("proxy")).await.unwrap();
    assert_eq!(layers(&target), 1);
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
    let found = std::fs::metadata(&target).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o755);
    let found = rustix::fs::statvfs(&target).unwrap();
    assert_eq!(found.f_blocks * found.f_frsize, PROXY_VOLUME);

    // A restart, of an agent that makes larger ones: it is told from the mount.
    driver.unpublish().await.unwrap();
    std::fs::create_dir(&target).unwrap();
    mount::mount(&target, View::Proxy, 1 << 20).unwrap();
    let left = mount::volumes_below(driver.folder.path()).unwrap();
    assert_eq!(left, [(target.clone(), View::Proxy)]);
    upgrade(&left, &driver.settings);
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
    let found = rustix::fs::statvfs(&target).unwrap();
    assert_eq!(found.f_blocks * found.f_frsize, PROXY_VOLUME);

    // It never becomes the other view.
    std::fs::write(target.join("prod.json"), "x").unwrap();
    let error = publish(None).await.unwrap_err();
    assert!(error.message().contains("another view"), "{error}");
    assert_eq!(
        (layers(&target), std::fs::read_dir(&target).unwrap().count()),
        (1, 1)
    );
}

#[tokio::test]
async fn nothing_is_made_or_removed_behind_a_link() {
    let driver = Driver::start().await;
    let target = driver.target();
    let parent = target.parent().unwrap();
    let elsewhere = driver.folder.path().join("elsewhere");
    std::fs::create_dir_all(elsewhere.join("mount")).unwrap();
    std::fs::create_dir_all(parent.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&elsewhere, parent).unwrap();
    let error = driver.publish().await.unwrap_err();
    assert!(error.message().contains("leads elsewhere"), "{error}");
    assert!(elsewhere.join("mount").exists(), "it is not ours");
    std::fs::remove_dir(elsewhere.join("mount")).unwrap();
    driver.publish().await.unwrap_err();
    assert!(!elsewhere.join("mount").exists(), "nothing is made there");
}

#[tokio::test]
async fn whatever_a_killed_process_left_is_healed() {
    let driver = Driver::start().await;
    let target = driver.target();
    let small = 1 << 20;
    let left: [(&str, &dyn Fn(), usize); 4] = [
        ("a directory", &|| {}, 1),
        (
            "an empty mount of another size",
            &|| mount::mount(&target, View::ArgoCd, small).unwrap(),
            1,
        ),
        (
            "half a volume",
            &|| {
                mount::mount(&target, View::ArgoCd, small).unwrap();
                std::fs::create_dir(target.join("docker")).unwrap();
                std::fs::create_dir(target.join("bin")).unwrap();
                std::fs::write(target.join("bin/.new-exec-auth"), "half").unwrap();
                std::fs::write(target.join("bin/exec-auth"), "old").unwrap();
            },
            1,
        ),
        (
            "two mounts",
            &|| {
                mount::mount(&target, View::ArgoCd, small).unwrap();
                std::fs::create_dir(target.join("docker")).unwrap();
                mount::mount(&target, View::ArgoCd, small).unwrap();
            },
            2,
        ),
    ];
    for (what, leave, mounts) in left {
        std::fs::create_dir_all(&target).unwrap();
        leave();
        driver.publish().await.unwrap();
        driver.publish().await.unwrap();
        assert_eq!(layers(&target), mounts, "{what}");
        is_complete(&target);
        assert!(!target.join("bin/.new-exec-auth").exists(), "{what}");
        let program = std::fs::read(target.join("bin/exec-auth")).unwrap();
        assert_eq!(program, b"#!/bin/sh\n", "{what}");
        let found = rustix::fs::statvfs(&target).unwrap();
        assert_eq!(found.f_blocks * found.f_frsize, 16 << 20, "{what}");
        driver.unpublish().await.unwrap();
        driver.unpublish().await.unwrap();
        assert_eq!((layers(&target), target.exists()), (0, false), "{what}");
    }
    // The whole of kubelet's folder may be gone.
    std::fs::remove_dir_all(driver.folder.path().join("pods")).unwrap();
    driver.unpublish().await.unwrap();
}

/// Kubelet gives a call up; the work of it goes on, and its retry comes.
#[tokio::test]
async fn a_call_that_kubelet_gave_up_does_not_mount_a_second_time() {
    let driver = Driver::start().await;
    for _ in 0..20 {
        let calls = (0..8).map(|n| {
            let patience = std::time::Duration::from_micros(200 * n);
            tokio::time::timeout(patience, driver.publish())
        });
        futures::future::join_all(calls).await;
        driver.publish().await.unwrap();
        assert_eq!(layers(&driver.target()), 1);
        driver.unpublish().await.unwrap();
    }
}

#[tokio::test]
async fn an_upgrade_reaches_running_pods_at_once() {
    let driver = Driver::start().await;
    driver.publish().await.unwrap();
    let target = driver.target();
    let directory = std::fs::metadata(target.join("bin")).unwrap().ino();
    let flags = |target: &Path| {
        let shown = format!(" {} ", target.display());
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.contains(&shown)).unwrap();
        let noswap = line.contains(",noswap");
        assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
        noswap
    };
    let noswap = flags(&target);

    // The next process has a program for which the tmpfs is too small.
    let new = driver.folder.path().join("new");
    let content = vec![7; 20 << 20];
    std::fs::write(&new, &content).unwrap();
    let settings = Settings {
        program: Arc::new(Program::load(&new).unwrap()),
        ..driver.settings.clone()
    };
    let left = mount::volumes_below(driver.folder.path()).unwrap();
    let nowhere = driver.folder.path().join("nowhere");
    upgrade(
        &[&[(nowhere, View::ArgoCd)], left.as_slice()].concat(),
        &settings,
    );
    assert!(std::fs::read(target.join("bin/exec-auth")).unwrap() == content);
    assert_eq!(flags(&target), noswap);
    let found = std::fs::metadata(target.join("bin")).unwrap();
    assert_eq!(found.ino(), directory, "a subPath mount pins it");
    driver.unpublish().await.unwrap();
}
