//! The whole agent, with a kubelet of a few lines on real sockets and an API
//! server of a few lines: it has no bindings, and keeps the events.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::extract::{Path as Route, Query, State as Shared};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use shared::allow_list::AllowList;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::config::{SpiffeConfig, SpiffeSource};
use crate::csi::proto::NodeUnpublishVolumeRequest;
use crate::csi::registration::Registration;
use crate::csi::registration::proto::{InfoRequest, RegistrationStatus};
use crate::csi::tests::publish_request;
use crate::csi::{NodeClient, RegistrationClient};
use crate::demand::View;

#[derive(Clone)]
struct Api {
    listing: watch::Receiver<bool>,
    events: mpsc::UnboundedSender<Value>,
}

async fn bindings(
    Shared(mut api): Shared<Api>,
    Query(query): Query<std::collections::HashMap<String, String>>,
) -> Json<Value> {
    if query.contains_key("watch") {
        return std::future::pending().await;
    }
    let _ = api.listing.wait_for(|listing| *listing).await;
    Json(json!({
        "apiVersion": "workload-identity.dev/v1alpha1", "kind": "CredentialBindingList",
        "metadata": {"resourceVersion": "1"}, "items": [],
    }))
}

async fn event(
    Shared(api): Shared<Api>,
    Route(namespace): Route<String>,
    Json(mut event): Json<Value>,
) -> Json<Value> {
    event["metadata"]["namespace"] = namespace.into();
    api.events.send(event.clone()).unwrap();
    Json(event)
}

/// How kube's recorder tells the same event again.
async fn event_again(Shared(api): Shared<Api>, Json(change): Json<Value>) -> Json<Value> {
    api.events.send(change.clone()).unwrap();
    Json(change)
}

async fn serve_api(api: Api) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .route(
            "/apis/workload-identity.dev/v1alpha1/credentialbindings",
            get(bindings),
        )
        .route(
            "/apis/events.k8s.io/v1/namespaces/{namespace}/events",
            post(event),
        )
        .route(
            "/apis/events.k8s.io/v1/namespaces/{namespace}/events/{name}",
            patch(event_again),
        )
        .with_state(api);
    tokio::spawn(axum::serve(listener, router).into_future());
    Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap()
}

async fn connect(socket: &Path) -> Channel {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).unwrap();
        if let Ok(channel) = endpoint.connect().await {
            return channel;
        }
        assert!(tokio::time::Instant::now() < deadline, "{socket:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn readyz(address: std::net::SocketAddr) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("http://{address}/readyz"));
    let answer = answer.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Not below /tmp or /dev/shm, which may be a tmpfs themselves.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    for name in ["registration", "kubelet"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("exec-auth"), "#!/bin/sh\n").unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}

/// Unmounts what a failed test would leave.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = csi::mount::unmount(&self.0);
    }
}

#[tokio::test]
async fn the_agent_registers_serves_tells_and_leaves() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (_folder, path) = folder();
    // The volume of a pod that an earlier agent served.
    let old = path.join("kubelet/pods/old/volumes/v/mount");
    std::fs::create_dir_all(&old).unwrap();
    let _unmount_old = Unmount(old.clone());
    csi::mount::mount(&old, View::ArgoCd, 1 << 20).unwrap();
    for name in ["bin", "clusters"] {
        std::fs::create_dir(old.join(name)).unwrap();
    }
    std::fs::write(old.join("bin/exec-auth"), "old").unwrap();
    std::fs::write(old.join("clusters/expired.json"), "{}").unwrap();

    // And that pod's volume for the credential proxy.
    let proxy = path.join("kubelet/pods/old/volumes/proxy/mount");
    std::fs::create_dir_all(&proxy).unwrap();
    let _unmount_proxy = Unmount(proxy.clone());
    csi::mount::mount(&proxy, View::Proxy, 1 << 20).unwrap();
    std::fs::write(proxy.join("unreadable.json"), "{}").unwrap();

    let (list, listing) = watch::channel(false);
    let (sender, mut events) = mpsc::unbounded_channel();
    let client = serve_api(Api {
        listing,
        events: sender,
    })
    .await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let config = Config {
        node_name: "node-a".into(),
        csi_socket: path.join("csi.sock"),
        registration: Some(Registration {
            directory: path.join("registration"),
            csi_socket_on_host: "/host/csi.sock".into(),
        }),
        kubelet_dir: path.join("kubelet"),
        control_plane_url: "https://control.test".parse().unwrap(),
        control_plane_ca: path.join("ca.crt"),
        token_file: path.join("token"),
        exec_auth: path.join("exec-auth"),
        allowed_hosts: AllowList::default(),
        upstream_ca: Some(path.join("absent.crt")),
        proxy: None,
        metrics_address: Some(address),
        spiffe: SpiffeConfig {
            source: SpiffeSource::ControlPlane,
            issuer: None,
        },
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let agent = tokio::spawn(run(config, client, async {
        let _ = stopped.await;
    }));

    // Kubelet finds the registration socket: by then the driver's is there.
    let socket = path.join("registration/csi.workload-identity.dev@registration.sock");
    let mut registration = RegistrationClient::new(connect(&socket).await);
    let mut node = NodeClient::new(connect(&path.join("csi.sock")).await);
    let program = std::fs::read(old.join("bin/exec-auth")).unwrap();
    assert_eq!(program, b"#!/bin/sh\n", "upgraded before anybody publishes");
    assert!(!old.join("clusters/expired.json").exists());
    assert_eq!(std::fs::read_dir(&proxy).unwrap().count(), 0, "and no bin/");
    let info = registration.get_info(InfoRequest {}).await.unwrap();
    assert_eq!(info.into_inner().endpoint, "/host/csi.sock");
    let (status, missing) = readyz(address).await;
    assert_eq!((status, missing.lines().count()), (503, 2), "{missing}");
    let status = RegistrationStatus {
        plugin_registered: true,
        error: String::new(),
    };
    let notify = registration.notify_registration_status(status);
    notify.await.unwrap();
    let (status, missing) = readyz(address).await;
    assert!(
        status == 503 && missing.contains("CredentialBindings"),
        "{missing}"
    );

    let target = path.join("kubelet/pods/uid/volumes/v/mount");
    let _unmount = Unmount(target.clone());
    node.node_publish_volume(publish_request(&target))
        .await
        .unwrap();
    assert!(target.join("bin/exec-auth").exists());
    list.send_replace(true);
    let seen = timeout(Duration::from_secs(30), events.recv()).await;
    let seen = seen.expect("an event").unwrap();
    assert_eq!(seen["reason"], "volume-empty");
    assert_eq!(seen["type"], "Normal");
    assert_eq!(seen["regarding"]["kind"], "Pod");
    assert_eq!(seen["regarding"]["uid"], "uid");
    assert_eq!(seen["metadata"]["namespace"], "argocd");
    assert_eq!(seen["reportingInstance"], "node-a");
    assert_eq!(readyz(address).await, (200, "ok".to_owned()));
    // Kubelet publishes again, and publishes to another pod: only that is news.
    node.node_publish_volume(publish_request(&target))
        .await
        .unwrap();
    let mut other = publish_request(&old);
    let uid = "csi.storage.k8s.io/pod.uid".to_owned();
    other.volume_context.insert(uid, "other".into());
    node.node_publish_volume(other).await.unwrap();
    let seen = timeout(Duration::from_secs(30), events.recv()).await;
    assert_eq!(seen.unwrap().unwrap()["regarding"]["uid"], "other");
    let again = timeout(Duration::from_secs(3), events.recv()).await;
    assert!(again.is_err(), "a republish is no news: {again:?}");

    let request = NodeUnpublishVolumeRequest {
        volume_id: "csi-1".into(),
        target_path: target.display().to_string(),
    };
    node.node_unpublish_volume(request).await.unwrap();
    assert!(!target.exists());
    // Connections that kubelet left open hold nobody up.
    stop.send(()).unwrap();
    let ended = timeout(Duration::from_secs(30), agent).await;
    ended.expect("a graceful end").unwrap().unwrap();
    assert!(!socket.exists() && !path.join("csi.sock").exists());
}
