//! A kubelet of a few lines: it asks and tells, on real sockets.

use std::path::Path;

use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};

use super::super::RegistrationClient;
use super::*;

struct Kubelet {
    folder: tempfile::TempDir,
    state: watch::Receiver<State>,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Kubelet {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(folder: tempfile::TempDir) -> Self {
        let registration = Registration {
            directory: folder.path().to_owned(),
            csi_socket_on_host: "/host/csi.sock".into(),
        };
        let (sender, state) = watch::channel(State::Waiting);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(registration.run(sender, async {
            let _ = stopped.await;
        }));
        Self {
            folder,
            state,
            stop: Some(stop),
            task,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder
            .path()
            .join("csi.workload-identity.dev@registration.sock")
    }

    /// Waits until there is a socket other than `before`.
    async fn discover(&self, before: Option<u64>) -> (RegistrationClient<Channel>, u64) {
        let deadline = Instant::now() + Duration::from_secs(600);
        loop {
            let found = inode(&self.socket()).filter(|found| Some(*found) != before);
            let connected = async {
                let endpoint = format!("unix://{}", self.socket().display());
                Endpoint::try_from(endpoint).unwrap().connect().await.ok()
            };
            if let Some(found) = found
                && let Some(channel) = connected.await
            {
                return (RegistrationClient::new(channel), found);
            }
            assert!(Instant::now() < deadline, "no socket");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until(&mut self, expected: State) {
        let reached = self.state.wait_for(|state| *state == expected);
        let reached = tokio::time::timeout(Duration::from_secs(600), reached).await;
        reached.expect("the state is reached").unwrap();
    }

    async fn stop(mut self) -> tempfile::TempDir {
        let _ = self.stop.take().unwrap().send(());
        self.task.await.unwrap();
        self.folder
    }
}

/// Time of the socket and its inode, which is used again at once.
fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::symlink_metadata(path).ok()?;
    Some(found.ino() ^ ((found.mtime_nsec() as u64) << 20) ^ ((found.mtime() as u64) << 50))
}

async fn notify(client: &mut RegistrationClient<Channel>, error: Option<&str>) {
    let status = RegistrationStatus {
        plugin_registered: error.is_none(),
        error: error.unwrap_or_default().to_owned(),
    };
    client.notify_registration_status(status).await.unwrap();
}

#[tokio::test]
async fn kubelet_learns_who_the_driver_is_and_where() {
    let mut kubelet = Kubelet::start();
    let (mut client, _) = kubelet.discover(None).await;
    let info = client.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(
        info,
        PluginInfo {
            r#type: "CSIPlugin".into(),
            name: "csi.workload-identity.dev".into(),
            endpoint: "/host/csi.sock".into(),
            supported_versions: vec!["1.0.0".into()],
        }
    );
    assert_eq!(
        *kubelet.state.borrow(),
        State::Waiting,
        "asked is not taken"
    );
    notify(&mut client, None).await;
    kubelet.until(State::Registered).await;
    assert_eq!(kubelet.state.borrow().missing(), None);
    let socket = kubelet.socket();
    let _folder = kubelet.stop().await;
    assert!(!socket.exists(), "a graceful end deregisters");
}

#[tokio::test]
async fn a_stale_socket_gives_way() {
    let kubelet = Kubelet::start();
    kubelet.discover(None).await;
    let stale = inode(&kubelet.socket());
    // kill -9: nobody cleans up.
    let kept = kubelet.folder.path().join("kept");
    std::fs::rename(kubelet.socket(), &kept).unwrap();
    let socket = kubelet.socket();
    let folder = kubelet.stop().await;
    std::fs::rename(&kept, &socket).unwrap();

    let registration = Registration {
        directory: folder.path().to_owned(),
        csi_socket_on_host: String::new(),
    };
    registration.remove_stale().unwrap();
    assert!(!socket.exists(), "before the driver serves");
    registration.remove_stale().unwrap();
    let kubelet = Kubelet::start_in(folder);
    kubelet.discover(stale).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_repeated_in_kubelets_words_and_tried_again() {
    let mut kubelet = Kubelet::start();
    let mut before = None;
    let mut waits = Vec::new();
    for _ in 0..7 {
        let (mut client, socket) = kubelet.discover(before).await;
        let start = Instant::now();
        notify(&mut client, Some("a driver of this name is registered")).await;
        let words = "a driver of this name is registered".to_owned();
        kubelet.until(State::Refused(words)).await;
        let missing = kubelet.state.borrow().missing().unwrap();
        assert!(
            missing.starts_with("registration-refused") && missing.contains("of this name"),
            "{missing}"
        );
        kubelet.until(State::Waiting).await;
        waits.push(start.elapsed().as_secs());
        before = Some(socket);
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 120, 120]);
    let (mut client, socket) = kubelet.discover(before).await;
    notify(&mut client, None).await;
    kubelet.until(State::Registered).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(inode(&kubelet.socket()), Some(socket), "it stays");
}

#[tokio::test(start_paused = true)]
async fn kubelet_may_change_its_mind_on_the_same_socket() {
    let mut kubelet = Kubelet::start();
    let (mut client, socket) = kubelet.discover(None).await;
    notify(&mut client, Some("no")).await;
    kubelet.until(State::Refused("no".into())).await;
    sleep(Duration::from_secs(2)).await;
    notify(&mut client, None).await;
    kubelet.until(State::Registered).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(inode(&kubelet.socket()), Some(socket));
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_that_does_not_come_and_a_lost_socket_get_a_new_one() {
    let mut kubelet = Kubelet::start();
    let (_client, first) = kubelet.discover(None).await;
    let start = Instant::now();
    let (mut client, second) = kubelet.discover(Some(first)).await;
    assert!((60..62).contains(&start.elapsed().as_secs()));
    notify(&mut client, None).await;
    kubelet.until(State::Registered).await;
    std::fs::remove_file(kubelet.socket()).unwrap();
    kubelet.until(State::Waiting).await;
    kubelet.discover(Some(second)).await;
}

#[tokio::test(start_paused = true)]
async fn another_agent_on_the_node_is_left_alone_until_it_goes() {
    let mut kubelet = Kubelet::start();
    let (mut client, _) = kubelet.discover(None).await;
    notify(&mut client, None).await;
    let (_listener, other) = socket::bind(&kubelet.socket(), FLAG).unwrap();
    let others = inode(&kubelet.socket());
    kubelet.until(State::Displaced).await;
    assert!(kubelet.state.borrow().missing().is_some());
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(inode(&kubelet.socket()), others);
    drop(other);
    kubelet.until(State::Waiting).await;
    kubelet.discover(others).await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_cannot_be_used_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder
        .path()
        .join("csi.workload-identity.dev@registration.sock");
    std::fs::create_dir(&socket).unwrap();
    let mut kubelet = Kubelet::start_in(folder);
    let state = kubelet.state.clone();
    let refused = kubelet.state.wait_for(|it| matches!(it, State::Refused(_)));
    let refused = refused.await.unwrap().clone();
    assert!(
        refused.missing().unwrap().contains("--registration-dir"),
        "{refused:?}"
    );
    std::fs::remove_dir(&socket).unwrap();
    kubelet.discover(None).await;
    assert_eq!(*state.borrow(), State::Waiting);
}

/// The header that grpc-go makes of a path which it was given without a scheme: everything but letters, digits
/// and `-_.~!$&'()*+,;=:[]@` is encoded. A server that cannot parse it answers PROTOCOL_ERROR.
#[test]
fn what_kubelet_sends_as_authority_can_be_parsed() {
    let parse = |name: &str| {
        let path = format!("/var/lib/kubelet/plugins_registry/{name}");
        tonic::codegen::http::uri::Authority::try_from(path.replace('/', "%2F"))
    };
    assert!(parse("csi.workload-identity.dev@registration.sock").is_ok());
    assert!(
        parse("csi.workload-identity.dev-reg.sock").is_err(),
        "the usual name would do"
    );
}
