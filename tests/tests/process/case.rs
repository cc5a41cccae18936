//! Trials and when they run: cases flow in, libtest-mimic's trials flow out.
//!
//! A shared case sees the scene beside others; an exclusive one has it for
//! itself and may change it; the last ones run when the scene is gone. The
//! scene's lock is what keeps them apart, so a case cannot forget it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Handle;
use tokio::sync::{RwLock, watch};

use crate::scene::{Prepared, Scene};

/// Longer than any trial takes on a busy machine, unless it says so.
const LIMIT: Duration = Duration::from_secs(180);

type Shared = for<'a> fn(&'a Scene) -> LocalBoxFuture<'a, Result<()>>;
type Exclusive = for<'a> fn(&'a mut Scene) -> LocalBoxFuture<'a, Result<()>>;
type Last = for<'a> fn(&'a Prepared) -> LocalBoxFuture<'a, Result<()>>;

/// Makes a [`Case`] that shares the scene from an `async fn(&Scene) -> Result<()>`.
macro_rules! shared {
    ($body:path) => {
        $crate::case::Case::shared(concat!(module_path!(), "::", stringify!($body)), |scene| {
            Box::pin($body(scene))
        })
    };
}

/// Makes a [`Case`] that has the scene for itself from an
/// `async fn(&mut Scene) -> Result<()>`. It has to leave the scene as it was.
macro_rules! exclusive {
    ($body:path) => {
        $crate::case::Case::exclusive(concat!(module_path!(), "::", stringify!($body)), |scene| {
            Box::pin($body(scene))
        })
    };
}

/// Makes a [`Case`] that runs without a scene, after all others, from an
/// `async fn(&Prepared) -> Result<()>`.
macro_rules! last {
    ($body:path) => {
        $crate::case::Case::last(
            concat!(module_path!(), "::", stringify!($body)),
            |prepared| Box::pin($body(prepared)),
        )
    };
}

pub(crate) use {exclusive, last, shared};

/// A trial before there is something to run it on.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    name: &'static str,
    body: Body,
    needs_argocd: bool,
    limit: Duration,
}

#[derive(Clone, Copy)]
enum Body {
    Shared(Shared),
    Exclusive(Exclusive),
    Last(Last),
}

/// The order in which cases begin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    Shared,
    Exclusive,
    Last,
}

impl Case {
    pub(crate) fn shared(path: &'static str, body: Shared) -> Self {
        Self::new(path, Body::Shared(body))
    }

    pub(crate) fn exclusive(path: &'static str, body: Exclusive) -> Self {
        Self::new(path, Body::Exclusive(body))
    }

    pub(crate) fn last(path: &'static str, body: Last) -> Self {
        Self::new(path, Body::Last(body))
    }

    fn new(path: &'static str, body: Body) -> Self {
        Self {
            // Without this crate's own name, as libtest shows tests.
            name: path.split_once("::").map_or(path, |(_, name)| name),
            body,
            needs_argocd: false,
            limit: LIMIT,
        }
    }

    /// The scene has to have Argo CD running.
    pub(crate) fn with_argocd(mut self) -> Self {
        self.needs_argocd = true;
        self
    }

    /// It may take this long.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    pub(crate) fn turn(&self) -> Turn {
        match self.body {
            Body::Shared(_) => Turn::Shared,
            Body::Exclusive(_) => Turn::Exclusive,
            Body::Last(_) => Turn::Last,
        }
    }

    pub(crate) fn is_selected(&self, arguments: &Arguments) -> bool {
        let trial = self.name_only();
        !arguments.is_filtered_out(&trial) && !arguments.is_ignored(&trial)
    }

    /// For lists and filters.
    pub(crate) fn name_only(&self) -> Trial {
        Trial::test(self.name, || Ok(()))
    }
}

/// What the trials run on.
pub(crate) struct Stage {
    prepared: Arc<Prepared>,
    /// None when no trial needs it, and when the last ones run.
    scene: Arc<RwLock<Option<Scene>>>,
    /// How many trials that use the scene have not ended.
    busy: watch::Sender<usize>,
}

impl Stage {
    /// Starts as much as `selected` needs.
    pub(crate) async fn set<'c>(
        prepared: Prepared,
        selected: impl Iterator<Item = &'c Case>,
    ) -> Result<Self> {
        let (mut users, mut needs_argocd) = (0, false);
        for case in selected.filter(|case| case.turn() != Turn::Last) {
            users += 1;
            needs_argocd |= case.needs_argocd;
        }
        let scene = match users {
            0 => None,
            _ => Some(Scene::start(&prepared, needs_argocd).await?),
        };
        Ok(Self {
            prepared: Arc::new(prepared),
            scene: Arc::new(RwLock::new(scene)),
            busy: watch::Sender::new(users),
        })
    }

    pub(crate) fn trial(&self, case: &Case, runtime: &Handle) -> Trial {
        let Case {
            name, body, limit, ..
        } = *case;
        let (prepared, scene) = (Arc::clone(&self.prepared), Arc::clone(&self.scene));
        let (busy, runtime) = (self.busy.clone(), runtime.clone());
        Trial::test(name, move || {
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
                        let mut scene = scene.write().await;
                        drop(scene.take());
                        within(limit, body(&prepared)).await
                    }
                }
            });
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
