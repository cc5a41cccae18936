//! From SPIRE into a consumer's volume: the engine with SPIRE as its source, and a real tmpfs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::acquire::Acquirer;
use agent::demand::{Binding, BindingRef, Bindings, Consumer, View};
use agent::engine::{Clock, Engine, Handle, channel};
use agent::exchange::http::{Settings, Upstream};
use agent::report::Reports;
use harness::spire::{Fault, Scope, Spire};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use shared::allow_list::AllowList;
use shared::binding::{
    CredentialBindingSpec, CredentialKind, Delivery, Exchange, ExchangeKind, Identity, NodeStatus,
    Provider, Target, TargetKind,
};
use shared::exec_credential::ExecCredential;
use tokio::sync::watch;

use crate::scene::{Api, Scene, id, project_id};

/// An agent whose one pod is a consumer of a cluster for each of some projects.
struct Node {
    _handle: Handle,
    _bindings: watch::Sender<Option<Arc<Bindings>>>,
    reports: watch::Receiver<Reports>,
    volume: tempfile::TempDir,
}

impl Node {
    async fn start(scene: &Scene, projects: &[&str]) -> Self {
        let volume = tempfile::tempdir_in("/dev/shm").unwrap();
        let upstream = Upstream::new(Settings::new(AllowList::default()), None).unwrap();
        let acquirer = Acquirer::new(scene.sources(), upstream);
        let (reports, reported) = watch::channel(Reports::default());
        let (bindings, current) = watch::channel(None);
        let (handle, events) = channel();
        let allowed = AllowList::default();
        let engine = Engine::new("node-a".into(), Clock::system(), acquirer, allowed, reports);
        tokio::spawn(engine.run(events, current));
        let map: Bindings = projects.iter().map(|it| cluster(it)).collect();
        bindings.send_replace(Some(Arc::new(map)));
        handle.publish(consumer(volume.path().to_owned())).await;
        Self {
            _handle: handle,
            _bindings: bindings,
            reports: reported,
            volume,
        }
    }

    /// The claims of what is in the volume for a project, if there is anything.
    fn delivered(&self, project: &str) -> Option<Value> {
        let file = self.volume.path().join(format!("clusters/{project}.json"));
        let status = ExecCredential::parse(&std::fs::read(file).ok()?)
            .unwrap()
            .status;
        let token = status.token.expose_secret();
        Some(jsonwebtoken::dangerous::insecure_decode_claims(token).unwrap())
    }

    async fn until(
        &mut self,
        project: &str,
        what: &str,
        condition: impl Fn(&Self, &NodeStatus) -> bool,
    ) {
        let deadline = Duration::from_secs(30);
        let mut reports = self.reports.clone();
        let reached = reports.wait_for(|reports| {
            let status = reports.nodes.get(&reference(project));
            status.is_some_and(|status| condition(self, status))
        });
        if tokio::time::timeout(deadline, reached).await.is_err() {
            panic!("not in time: {what}; {:?}", *self.reports.borrow());
        }
    }
}

fn reference(project: &str) -> BindingRef {
    BindingRef {
        namespace: "argocd".into(),
        name: project.into(),
    }
}

/// A project's cluster, whose credential is the JWT-SVID itself.
fn cluster(project: &str) -> (BindingRef, Binding) {
    let spec = CredentialBindingSpec {
        target: Target {
            kind: TargetKind::Cluster,
            address: format!("https://{project}.test:6443"),
        },
        project: Some(project.into()),
        provider: Provider::Spiffe,
        identity: Identity {
            subject: project_id(project),
            audience: "spoke".into(),
            service_account: format!("argocd-project-{project}"),
            credential: CredentialKind::SpiffeJWT,
        },
        exchange: Exchange::of(ExchangeKind::None),
        delivery: Delivery::Exec,
        consumers: vec!["controller".into()],
        proxy: None,
    };
    let binding = Binding {
        created_at: Timestamp::UNIX_EPOCH,
        generation: 1,
        spec,
        reported_here: false,
    };
    (reference(project), binding)
}

fn consumer(volume: PathBuf) -> Consumer {
    Consumer {
        pod_uid: "uid".into(),
        pod: "controller-0".into(),
        namespace: "argocd".into(),
        service_account: "controller".into(),
        volume,
        view: View::ArgoCd,
        token: "a pod's token".into(),
        token_expires_at: Timestamp::MAX,
    }
}

fn code(status: &NodeStatus) -> &str {
    status.error.as_ref().map_or("", |error| &error.code)
}

#[tokio::test]
async fn a_project_is_served_seconds_after_it_was_registered() {
    // The agent's waits grow first, so both at once.
    tokio::join!(
        registered_late(Api::Delegated),
        registered_late(Api::Workload)
    );
}

async fn registered_late(api: Api) {
    let scene = Scene::new(api);
    scene.spire.remove(&id("catch-all"));
    let mut node = Node::start(&scene, &["web"]).await;
    let refused = |_: &Node, status: &NodeStatus| code(status) == "identity-not-registered";
    node.until("web", "the refusal", refused).await;
    // By now the agent would wait for much longer elsewhere.
    let often = |spire: &Spire| spire.arrived(api.jwt()) >= 6;
    scene.spire.until("retries", often).await.unwrap();
    scene.register("web");
    let start = Instant::now();
    let delivered = |node: &Node, _: &NodeStatus| node.delivered("web").is_some();
    node.until("web", "the token", delivered).await;
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(8), "{api:?} {elapsed:?}");
    let claims = node.delivered("web").unwrap();
    assert_eq!(claims["sub"], project_id("web"));
}

#[tokio::test]
async fn an_old_token_is_asked_for_again_until_spire_has_another() {
    let scene = Scene::new(Api::Delegated);
    // SPIRE gives what it has had for half of its life, and for a while still when the agent wants another.
    scene.spire.age_first(0.5);
    scene.spire.renew_after(0.9);
    let ttl = Duration::from_secs(16);
    scene.spire.add(scene.entry("web").jwt_ttl(ttl));
    let mut node = Node::start(&scene, &["web"]).await;
    let delivered = |node: &Node, _: &NodeStatus| node.delivered("web").is_some();
    node.until("web", "a token", delivered).await;
    let first = node.delivered("web").unwrap();
    let issued_at = |claims: &Value| claims["iat"].as_i64().unwrap();
    let newer = |node: &Node, _: &NodeStatus| {
        let now = Timestamp::now().as_second();
        let claims = node.delivered("web").expect("never without one");
        assert!(claims["exp"].as_i64().unwrap() > now, "never expired");
        issued_at(&claims) > issued_at(&first)
    };
    node.until("web", "the next token", newer).await;
    let asked = scene
        .spire
        .issued(Api::Delegated.jwt(), &project_id("web"), "spoke");
    assert!((3..40).contains(&asked), "{asked} calls");
    let second = node.delivered("web").unwrap();
    let life = second["exp"].as_i64().unwrap() - Timestamp::now().as_second();
    assert!(life >= 14, "{life}");
    // The old one, given again, was none.
    let reports = node.reports.borrow();
    assert_eq!(reports.nodes[&reference("web")].rotations, 2);
}

#[tokio::test]
async fn the_hung_identity_of_one_project_delays_no_other() {
    let scene = Scene::new(Api::Delegated);
    let names: Vec<String> = (0..20).map(|number| format!("h{number}")).collect();
    let mut projects: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &projects {
        scene.register(name);
        let scope = Scope::SpiffeId(project_id(name));
        scene.spire.fail(scope, Fault::Hang);
    }
    scene.register("web");
    projects.push("web");
    let start = Instant::now();
    let mut node = Node::start(&scene, &projects).await;
    let delivered = |node: &Node, _: &NodeStatus| node.delivered("web").is_some();
    node.until("web", "the token", delivered).await;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(names.iter().all(|name| node.delivered(name).is_none()));
}

#[tokio::test]
async fn what_is_delivered_stays_while_spire_is_away() {
    let scene = Scene::new(Api::Delegated);
    let ttl = Duration::from_secs(12);
    scene.spire.add(scene.entry("web").jwt_ttl(ttl));
    let mut node = Node::start(&scene, &["web"]).await;
    let delivered = |node: &Node, _: &NodeStatus| node.delivered("web").is_some();
    node.until("web", "a token", delivered).await;
    let first = node.delivered("web").unwrap();
    scene.spire.stop();
    let absent = |_: &Node, status: &NodeStatus| code(status) == "spire-agent-absent";
    node.until("web", "the error", absent).await;
    assert_eq!(node.delivered("web").unwrap(), first);
    scene.spire.resume().unwrap();
    let renewed = |node: &Node, status: &NodeStatus| {
        status.error.is_none() && node.delivered("web").is_some_and(|it| it != first)
    };
    node.until("web", "another token", renewed).await;
}
