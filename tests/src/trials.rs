//! A tier's trials and when they run: cases flow in, libtest-mimic's trials and an exit code flow out.
//!
//! ```text
//!   main ─▶ sandbox ─▶ Scene::prepare ─▶ Scene::start ─▶ trials, some at a time ─▶ exit code
//! ```
//!
//! A shared case sees the scene beside others; an exclusive one has it for itself and may change it;
//! the last ones run beside each other when the scene is gone. The scene's lock is what keeps them
//! apart, so a case cannot forget it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{RwLock, watch};

use crate::progress;
use crate::sandbox::{Isolation, Sandbox, interrupted};

pub use crate::{exclusive, last, shared};

/// Longer than any trial takes on a busy machine, unless it says so.
const LIMIT: Duration = Duration::from_secs(180);

/// A trial that takes longer is told of: the suite's time is limited.
const SLOW: Duration = Duration::from_secs(20);

/// As shells number an end by SIGINT.
const INTERRUPTED: i32 = 130;

type Shared<S> = for<'a> fn(&'a S) -> LocalBoxFuture<'a, Result<()>>;
type Exclusive<S> = for<'a> fn(&'a mut S) -> LocalBoxFuture<'a, Result<()>>;
type Last<S> = for<'a> fn(&'a <S as Scene>::Prepared) -> LocalBoxFuture<'a, Result<()>>;

/// What the trials of a tier run on. It ends when it is dropped.
pub trait Scene: Sized + Send + Sync + 'static {
    /// What is built and installed before the scene starts, and stays when it is gone.
    type Prepared: Send + Sync + 'static;

    /// What a run of the tier has for itself, for [`Sandbox::enter`].
    const ISOLATION: Isolation;

    /// The address that [`Scene::NAMES`] lead to, for [`Sandbox::enter`].
    const ADDRESS: Ipv4Addr;

    /// Names that lead to this machine, for [`Sandbox::enter`].
    const NAMES: &'static [&'static str];

    /// Names with addresses of their own.
    const OTHERS: &'static [(&'static str, Ipv4Addr)] = &[];

    /// How many trials run at a time, unless the command line says otherwise.
    const THREADS: usize;

    /// What has to happen outside the sandbox, with the machine's network. Blocks.
    ///
    /// # Errors
    /// When something cannot be built or installed: no trial runs then.
    fn outside() -> Result<()> {
        Ok(())
    }

    /// Builds and installs; `folder` is the run's. Blocks.
    ///
    /// # Errors
    /// When something cannot be built or installed: no trial runs then.
    fn prepare(folder: &Path) -> Result<Self::Prepared>;

    /// Starts the scene, with Argo CD when a selected case asks for it.
    ///
    /// # Errors
    /// When a component does not get ready: no trial runs then.
    fn start(prepared: &Self::Prepared, with_argocd: bool) -> impl Future<Output = Result<Self>>;
}

/// Makes a [`Case`] that shares the scene from an `async fn(&Scene) -> Result<()>`.
#[macro_export]
macro_rules! shared {
    ($body:path) => {
        $crate::trials::Case::shared(concat!(module_path!(), "::", stringify!($body)), |scene| {
            Box::pin($body(scene))
        })
    };
}

/// Makes a [`Case`] that has the scene for itself from an `async fn(&mut Scene) -> Result<()>`. It has
/// to leave the scene as it was.
#[macro_export]
macro_rules! exclusive {
    ($body:path) => {
        $crate::trials::Case::exclusive(concat!(module_path!(), "::", stringify!($body)), |scene| {
            Box::pin($body(scene))
        })
    };
}

/// Makes a [`Case`] that runs without a scene, after all others, from an
/// `async fn(&Prepared) -> Result<()>`.
#[macro_export]
macro_rules! last {
    ($body:path) => {
        $crate::trials::Case::last(
            concat!(module_path!(), "::", stringify!($body)),
            |prepared| Box::pin($body(prepared)),
        )
    };
}

/// A trial before there is something to run it on.
pub struct Case<S: Scene> {
    name: &'static str,
    body: Body<S>,
    needs_argocd: bool,
    limit: Duration,
}

enum Body<S: Scene> {
    Shared(Shared<S>),
    Exclusive(Exclusive<S>),
    Last(Last<S>),
}

/// The order in which cases begin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Shared,
    Exclusive,
    Last,
}

impl<S: Scene> Case<S> {
    /// As [`shared!`]; `path` begins with the crate's name.
    #[must_use]
    pub fn shared(path: &'static str, body: Shared<S>) -> Self {
        Self::new(path, Body::Shared(body))
    }

    /// As [`exclusive!`]; `path` begins with the crate's name.
    #[must_use]
    pub fn exclusive(path: &'static str, body: Exclusive<S>) -> Self {
        Self::new(path, Body::Exclusive(body))
    }

    /// As [`last!`]; `path` begins with the crate's name.
    #[must_use]
    pub fn last(path: &'static str, body: Last<S>) -> Self {
        Self::new(path, Body::Last(body))
    }

    fn new(path: &'static str, body: Body<S>) -> Self {
        Self {
            // Without this crate's own name, as libtest shows tests.
            name: path.split_once("::").map_or(path, |(_, name)| name),
            body,
            needs_argocd: false,
            limit: LIMIT,
        }
    }

    /// The scene has to have Argo CD running.
    #[must_use]
    pub fn with_argocd(mut self) -> Self {
        self.needs_argocd = true;
        self
    }

    /// It may take this long.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn turn(&self) -> Turn {
        match self.body {
            Body::Shared(_) => Turn::Shared,
            Body::Exclusive(_) => Turn::Exclusive,
            Body::Last(_) => Turn::Last,
        }
    }

    fn is_selected(&self, arguments: &Arguments) -> bool {
        let trial = self.name_only();
        !arguments.is_filtered_out(&trial) && !arguments.is_ignored(&trial)
    }

    /// For lists and filters.
    fn name_only(&self) -> Trial {
        Trial::test(self.name, || Ok(()))
    }
}

/// A tier's `main`: runs what the command line selects of `cases`, which begin in this order, the
/// exclusive ones after the shared ones and the last ones at the end. `tier` names it in errors.
///
/// Listing needs no root and prepares nothing. Call it before any thread is started.
#[must_use]
pub fn main<S: Scene>(tier: &str, cases: Vec<Case<S>>) -> ExitCode {
    match run(cases) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{tier}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run<S: Scene>(mut cases: Vec<Case<S>>) -> Result<ExitCode> {
    cases.sort_by_key(Case::turn);
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(S::THREADS);
    let selected = || cases.iter().filter(|case| case.is_selected(&arguments));
    if arguments.list || selected().count() == 0 {
        let trials = cases.iter().map(Case::name_only).collect();
        return Ok(libtest_mimic::run(&arguments, trials).exit_code());
    }

    if Sandbox::is_outside() {
        Sandbox::require_root()?;
        S::outside()?;
    }
    let sandbox = Sandbox::enter(S::ISOLATION, S::ADDRESS, S::NAMES, S::OTHERS)?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_provider| anyhow!("another crypto provider is installed already"))?;
    let prepared = S::prepare(sandbox.run_dir())?;
    let runtime = Runtime::new().context("start the runtime")?;
    runtime.spawn(async {
        if interrupted().await.is_ok() {
            // With this process the sandbox ends, and with it every component.
            std::process::exit(INTERRUPTED);
        }
    });
    let stage = runtime.block_on(Stage::set(prepared, selected()))?;
    let trials = cases
        .into_iter()
        .map(|case| stage.trial(case, runtime.handle()))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(stage);
    Ok(conclusion.exit_code())
}

/// What the trials run on, with what keeps them apart.
struct Stage<S: Scene> {
    prepared: Arc<S::Prepared>,
    /// None when no trial needs it, and when the last ones run.
    scene: Arc<RwLock<Option<S>>>,
    /// How many trials that use the scene have not ended.
    busy: watch::Sender<usize>,
}

impl<S: Scene> Stage<S> {
    /// Starts as much as `selected` needs.
    async fn set<'c>(
        prepared: S::Prepared,
        selected: impl Iterator<Item = &'c Case<S>>,
    ) -> Result<Self> {
        let (mut users, mut needs_argocd) = (0, false);
        for case in selected.filter(|case| case.turn() != Turn::Last) {
            users += 1;
            needs_argocd |= case.needs_argocd;
        }
        let scene = match users {
            0 => None,
            _ => Some(S::start(&prepared, needs_argocd).await?),
        };
        Ok(Self {
            prepared: Arc::new(prepared),
            scene: Arc::new(RwLock::new(scene)),
            busy: watch::Sender::new(users),
        })
    }

    fn trial(&self, case: Case<S>, runtime: &Handle) -> Trial {
        let Case {
            name, body, limit, ..
        } = case;
        let (prepared, scene) = (Arc::clone(&self.prepared), Arc::clone(&self.scene));
        let (busy, runtime) = (self.busy.clone(), runtime.clone());
        Trial::test(name, move || {
            let begin = Instant::now();
            let ended = runtime.block_on(async {
                match body {
                    Body::Shared(body) => {
                        let _user = User(&busy);
                        let scene = scene.read().await;
                        let scene = scene.as_ref().context("there is no scene")?;
                        within(limit, body(scene)).await
                    }
                    Body::Exclusive(body) => {
                        let _user = User(&busy);
                        let mut scene = scene.write().await;
                        let scene = scene.as_mut().context("there is no scene")?;
                        within(limit, body(scene)).await
                    }
                    Body::Last(body) => {
                        let mut users = busy.subscribe();
                        users.wait_for(|users| *users == 0).await?;
                        // Not kept: the last ones need nothing of each other's.
                        drop(scene.write().await.take());
                        within(limit, body(&prepared)).await
                    }
                }
            });
            if begin.elapsed() > SLOW {
                progress::step(format_args!(
                    "{name} took {:.0} s, its turn included",
                    begin.elapsed().as_secs_f64()
                ));
            }
            ended.map_err(|error| Failed::from(format!("{error:?}")))
        })
    }
}

/// Counts down when a trial ends, also by a panic.
struct User<'b>(&'b watch::Sender<usize>);

impl Drop for User<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|users| *users -= 1);
    }
}

async fn within(limit: Duration, body: LocalBoxFuture<'_, Result<()>>) -> Result<()> {
    tokio::time::timeout(limit, body)
        .await
        .unwrap_or_else(|_elapsed| Err(anyhow!("did not end within {limit:?}")))
}
