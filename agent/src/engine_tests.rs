//! The whole engine with a stateful identity source, real files on a tmpfs and
//! a clock that moves only when nothing else does.

use std::cell::Cell;
use std::sync::Mutex;

use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::json;
use shared::allow_list::AllowList;
use shared::binding::{CredentialKind, NodeState, NodeStatus};
use shared::exec_credential::ExecCredential;

use super::handle::PATIENCE;
use super::*;
use crate::demand::tests::{cluster, consumer, reference};
use crate::exchange::http::Upstream;
use crate::exchange::http::tests::settings;
use crate::identity::{IdentityError, IdentityRequest, IdentityToken, Svid};
use crate::jwt::Claims;
use crate::jwt::tests::token;

#[path = "engine_burst_tests.rs"]
mod burst;
#[path = "engine_jump_tests.rs"]
mod jump;
#[path = "engine_proxy_tests.rs"]
mod proxy;

const START: i64 = 1_800_000_000;

thread_local! {
    /// When the wall clock started: a test and its engine have a thread for themselves.
    static STARTED: Cell<i64> = const { Cell::new(START) };
}

/// What the agent's administrator allows.
fn allowed() -> AllowList {
    AllowList::parse("sts.test").unwrap()
}

#[derive(Debug, Clone)]
enum Mode {
    Serve,
    Hang,
    Refuse(Code),
}

#[derive(Debug)]
struct State {
    mode: Mode,
    life: i64,
    calls: i64,
}

/// Gives tokens of a chosen life on the test's clock.
#[derive(Clone)]
struct Source(Arc<Mutex<State>>, Clock);

impl IdentitySource for Source {
    async fn identity(&self, request: &IdentityRequest) -> Result<Svid, IdentityError> {
        let mode = {
            let mut state = self.0.lock().unwrap();
            state.calls += 1;
            state.mode.clone()
        };
        match mode {
            Mode::Hang => std::future::pending().await,
            Mode::Refuse(code) => Err(IdentityError::Refused {
                binding: request.binding.clone(),
                code,
                message: "test".into(),
            }),
            Mode::Serve => {
                let state = self.0.lock().unwrap();
                let exp = self.1.now().wall.as_second() + state.life;
                let claims = json!({"sub": request.subject, "exp": exp, "call": state.calls});
                Ok(Svid::Token(IdentityToken {
                    token: token(&claims).into(),
                    expires_at: Timestamp::from_second(exp).unwrap(),
                }))
            }
        }
    }

    fn silence(&self, _credential: CredentialKind) -> Code {
        Code::ControlPlaneUnreachable
    }
}

struct Agent {
    handle: Handle,
    bindings: watch::Sender<Option<Arc<Bindings>>>,
    reports: watch::Receiver<Reports>,
    source: Source,
    clock: Clock,
    folder: tempfile::TempDir,
    proxy: tempfile::TempDir,
}

impl Agent {
    fn new() -> Self {
        STARTED.set(START);
        let clock = Clock {
            start: Instant::now(),
            fixed_start: Some(|| Timestamp::from_second(STARTED.get()).unwrap()),
        };
        let state = State {
            mode: Mode::Serve,
            life: 60,
            calls: 0,
        };
        let source = Source(Arc::new(Mutex::new(state)), clock);
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let proxy = tempfile::tempdir_in("/dev/shm").unwrap();
        let (handle, bindings, reports) = Self::start(&source, clock, &[]);
        Self {
            handle,
            bindings,
            reports,
            source,
            clock,
            folder,
            proxy,
        }
    }

    #[allow(clippy::type_complexity)]
    fn start(
        source: &Source,
        clock: Clock,
        left: &[(PathBuf, View)],
    ) -> (
        Handle,
        watch::Sender<Option<Arc<Bindings>>>,
        watch::Receiver<Reports>,
    ) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let upstream = Upstream::new(settings(""), None).unwrap();
        let acquirer = Acquirer::new(source.clone(), upstream);
        let (reports, reported) = watch::channel(Reports::default());
        let (maps, current) = watch::channel(None);
        let (handle, events) = channel();
        let mut engine = Engine::new("node-a".into(), clock, acquirer, allowed(), reports);
        engine.adopt(left.iter().cloned());
        tokio::spawn(engine.run(events, current));
        (handle, maps, reported)
    }

    /// The process ends; another one finds the volume.
    fn restart(&mut self) {
        let left = [
            (self.folder.path().to_owned(), View::ArgoCd),
            (self.proxy.path().to_owned(), View::Proxy),
        ];
        (self.handle, self.bindings, self.reports) = Self::start(&self.source, self.clock, &left);
    }

    fn set(&self, mode: Mode) {
        self.source.0.lock().unwrap().mode = mode;
    }

    /// One that has just delivered its first credential.
    async fn with_credential() -> Self {
        let mut agent = Self::new();
        agent.bind(1);
        agent.publish().await;
        agent
            .until("delivered", |agent, _| agent.delivered().is_some())
            .await;
        agent
    }

    fn bind(&self, generation: i64) {
        let mut binding = cluster(1);
        binding.generation = generation;
        let map = Bindings::from([(reference("spoke"), binding)]);
        self.bindings.send_replace(Some(Arc::new(map)));
    }

    /// Kubelet publishes; nobody may keep it waiting.
    async fn publish(&self) {
        let mut consumer = consumer("controller");
        consumer.volume = self.folder.path().to_owned();
        let start = Instant::now();
        self.handle.publish(consumer).await;
        assert!(start.elapsed() <= PATIENCE);
    }

    /// The expiry of the delivered token, if there is one.
    fn delivered(&self) -> Option<Timestamp> {
        let bytes = std::fs::read(self.folder.path().join("clusters/spoke.json")).ok()?;
        let status = ExecCredential::parse(&bytes).unwrap().status;
        let exp = Claims::read(status.token.expose_secret())?.expires_at()?;
        assert!(status.expiration_timestamp < exp);
        Some(exp)
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&Self, Option<&NodeStatus>) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(300);
        while Instant::now() < deadline {
            let report = self
                .reports
                .borrow()
                .nodes
                .get(&reference("spoke"))
                .cloned();
            if condition(self, report.as_ref()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not within 5 minutes: {what}; {:?}", *self.reports.borrow());
    }
}

fn code(report: Option<&NodeStatus>) -> Option<&str> {
    Some(report?.error.as_ref()?.code.as_str())
}

#[tokio::test(start_paused = true)]
async fn credentials_rotate_and_are_never_missing_or_expired() {
    let mut agent = Agent::new();
    agent.publish().await;
    let config = std::fs::read(agent.folder.path().join("docker/config.json")).unwrap();
    assert_eq!(
        config, br#"{"auths":{}}"#,
        "a valid file before anything is known"
    );
    agent.bind(1);
    agent
        .until("delivered", |agent, _| agent.delivered().is_some())
        .await;
    for second in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if second % 7 == 0 {
            agent.publish().await;
        }
        assert!(agent.delivered().unwrap() > agent.clock.now().wall);
    }
    let report = agent.reports.borrow().nodes[&reference("spoke")].clone();
    assert_eq!((report.state, report.error), (NodeState::Ready, None));
    // Every 45 to 48 s.
    assert!(
        (12..=14).contains(&report.rotations),
        "{}",
        report.rotations
    );
    assert_eq!(report.expires_at, agent.delivered());
    let calls = agent.source.0.lock().unwrap().calls;
    assert_eq!(calls, report.rotations as i64, "a publish asks nobody");
}

#[tokio::test(start_paused = true)]
async fn a_pod_starts_while_the_control_plane_hangs() {
    let mut agent = Agent::new();
    agent.set(Mode::Hang);
    agent.bind(1);
    agent.publish().await;
    agent
        .until("degraded", |_, report| {
            code(report) == Some("control-plane-unreachable")
        })
        .await;
    assert_eq!(agent.delivered(), None);
    agent.set(Mode::Serve);
    agent
        .until("ready", |agent, report| {
            agent.delivered().is_some() && report.unwrap().state == NodeState::Ready
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_reported_and_a_changed_binding_tried_at_once() {
    let mut agent = Agent::new();
    agent.set(Mode::Refuse(Code::NotAConsumer));
    agent.bind(1);
    agent.publish().await;
    agent
        .until("refused", |_, report| {
            code(report) == Some("not-a-consumer")
        })
        .await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    agent.set(Mode::Serve);
    let start = Instant::now();
    agent.bind(2);
    agent
        .until("ready", |_, report| {
            report.unwrap().state == NodeState::Ready
        })
        .await;
    assert!(start.elapsed() < Duration::from_secs(1));
    let report = agent.reports.borrow().nodes[&reference("spoke")].clone();
    assert_eq!(report.observed_generation, 2);
}

#[tokio::test(start_paused = true)]
async fn the_last_good_credential_stays_until_it_expires_also_across_a_restart() {
    let mut agent = Agent::with_credential().await;
    let expiry = agent.delivered().unwrap();
    agent.set(Mode::Refuse(Code::IssuerUnavailable));
    agent.restart();
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(agent.delivered(), Some(expiry), "nobody has published yet");
    }
    agent.bind(1);
    agent.publish().await;
    assert_eq!(agent.delivered(), Some(expiry));
    agent
        .until("expired", |agent, _| agent.delivered().is_none())
        .await;
    let late = agent.clock.now().wall.duration_since(expiry).as_secs_f64();
    assert!((0.0..0.2).contains(&late), "{late}");
    agent
        .until("degraded", |_, report| {
            report.unwrap().state == NodeState::Degraded
                && code(report) == Some("issuer-unavailable")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_any_more_is_removed() {
    let mut agent = Agent::with_credential().await;
    agent.bindings.send_replace(Some(Arc::default()));
    agent
        .until("removed", |agent, report| {
            agent.delivered().is_none() && report.is_none()
        })
        .await;

    agent.bind(1);
    agent
        .until("delivered", |agent, _| agent.delivered().is_some())
        .await;
    agent.handle.unpublish(agent.folder.path().to_owned()).await;
    std::fs::remove_file(agent.folder.path().join("clusters/spoke.json")).unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(
        agent.delivered(),
        None,
        "nothing is written after unpublish"
    );
    assert!(agent.reports.borrow().nodes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_nobody_names_is_reported_once_bindings_are_known() {
    let mut agent = Agent::new();
    let mut stranger = consumer("stranger");
    stranger.volume = agent.folder.path().to_owned();
    agent.handle.publish(stranger).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(agent.reports.borrow().empty.is_empty());
    let reported = |agent: &Agent| -> Vec<bool> {
        let reports = agent.reports.borrow();
        reports
            .empty
            .iter()
            .map(|it| it.consumers.is_some())
            .collect()
    };
    agent.bindings.send_replace(Some(Arc::default()));
    agent
        .until("reported", |agent, _| reported(agent) == [false])
        .await;
    agent.bind(1);
    agent
        .until("with those that are named", |agent, _| {
            reported(agent) == [true]
        })
        .await;
    agent.handle.unpublish(agent.folder.path().to_owned()).await;
    assert!(reported(&agent).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_an_earlier_process_left_is_given_up_after_settling() {
    let agent = Agent::new();
    let mut binding = cluster(1);
    binding.reported_here = true;
    let map = Bindings::from([(reference("spoke"), binding)]);
    agent.bindings.send_replace(Some(Arc::new(map)));
    tokio::time::sleep(SETTLING / 2).await;
    assert!(agent.reports.borrow().left.is_empty());
    tokio::time::sleep(SETTLING).await;
    assert!(agent.reports.borrow().left.contains(&reference("spoke")));
}
