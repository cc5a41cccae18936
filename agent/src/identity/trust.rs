//! The JWT bundles of a SPIRE agent, kept up to date, and with them how the
//! agent stands with it: the subscription needs nothing but the permission to
//! ask, so its failure tells why every call fails, whichever project's.
//!
//! ```text
//!  unknown ──bundles──▶ live ──stream ends──▶ failed ──bundles──▶ live …
//! ```
//!
//! It starts with the process and is opened again whenever it ends; nothing
//! waits for it.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use shared::errors::{Code, Named};
use spiffe::JwtBundleSet;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::wire::{Updates, Wire};

/// The waits before it is opened again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Until it has to be open and to have brought bundles.
const OPEN: Duration = Duration::from_secs(35);
/// A caller waits so long for an answer of the subscription.
pub(super) const BRIEFLY: Duration = Duration::from_secs(2);

/// What the subscription brought.
#[derive(Debug, Default)]
struct Trust {
    /// The newest bundles, also after the subscription has failed.
    bundles: Option<Arc<JwtBundleSet>>,
    /// Whether it stands, and why not; `None` before its first answer.
    standing: Option<Result<(), Named>>,
}

/// The subscription; it ends with this.
pub struct Subscription {
    trust: watch::Receiver<Trust>,
    doubt: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscription {
    /// Subscribes at `wire`, for ever.
    pub fn start<W: Wire>(wire: Arc<W>) -> Self {
        let (sender, trust) = watch::channel(Trust::default());
        let doubt = Arc::new(Notify::new());
        let task = tokio::spawn(keep(wire, sender, Arc::clone(&doubt)));
        Self { trust, doubt, task }
    }

    /// How the agent stands with SPIRE. Waits briefly for the first answer.
    pub async fn standing(&self) -> Option<Result<(), Named>> {
        let mut trust = self.trust.clone();
        let _ = timeout(BRIEFLY, trust.wait_for(|it| it.standing.is_some())).await;
        trust.borrow().standing.clone()
    }

    /// The bundles, if there are any. Those that are not `enough`, for example
    /// because a key is not among them, are fetched anew and waited for briefly:
    /// a stream on which nothing comes any more looks like one without news.
    pub async fn bundles(
        &self,
        enough: impl Fn(&JwtBundleSet) -> bool,
    ) -> Option<Arc<JwtBundleSet>> {
        let mut trust = self.trust.clone();
        let enough = |it: &Trust| it.bundles.as_deref().is_some_and(&enough);
        if !enough(&trust.borrow()) {
            self.doubt.notify_one();
            let _ = timeout(BRIEFLY, trust.wait_for(enough)).await;
        }
        trust.borrow().bundles.clone()
    }
}

async fn keep<W: Wire>(wire: Arc<W>, trust: watch::Sender<Trust>, doubt: Arc<Notify>) {
    let (place, mut wait) = (wire.place(), RETRY.0);
    loop {
        let opened = timeout(OPEN, open(wire.as_ref())).await;
        let opened = opened.unwrap_or_else(|_elapsed| {
            let late = format!("no bundles within {OPEN:?}");
            Err(Named::new(Code::SpireUnavailable, late))
        });
        let fault = match opened {
            Ok((first, mut updates)) => {
                wait = RETRY.0;
                tell(&trust, &place, Ok(first));
                let ended = loop {
                    tokio::select! {
                        update = next(&mut updates) => match update {
                            Ok(bundles) => tell(&trust, &place, Ok(bundles)),
                            Err(fault) => break Some(fault),
                        },
                        () = doubt.notified() => break None,
                    }
                };
                let Some(fault) = ended else { continue };
                fault
            }
            Err(fault) => fault,
        };
        tell(&trust, &place, Err(fault));
        let _ = timeout(wait, doubt.notified()).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

async fn open<W: Wire>(wire: &W) -> Result<(JwtBundleSet, Updates<JwtBundleSet>), Named> {
    let mut updates = wire.jwt_bundles().await?;
    Ok((next(&mut updates).await?, updates))
}

async fn next(updates: &mut Updates<JwtBundleSet>) -> Result<JwtBundleSet, Named> {
    let ended = || Named::new(Code::SpireUnavailable, "the stream of bundles ended");
    updates.next().await.unwrap_or_else(|| Err(ended()))
}

/// Keeps and, where the standing changes, logs it.
fn tell(trust: &watch::Sender<Trust>, place: &str, news: Result<JwtBundleSet, Named>) {
    let known = trust.borrow().standing.clone();
    match (&known, &news) {
        (Some(Ok(())), Ok(_)) => {}
        (_, Ok(_)) => tracing::info!(place, "SPIRE accepts the agent; its JWT bundles are there"),
        (Some(Err(known)), Err(fault)) if known.code == fault.code => {}
        (_, Err(fault)) => tracing::warn!(place, code = %fault.code, "SPIRE: {fault}"),
    }
    trust.send_modify(|trust| match news {
        Ok(bundles) => {
            trust.bundles = Some(Arc::new(bundles));
            trust.standing = Some(Ok(()));
        }
        Err(fault) => trust.standing = Some(Err(fault)),
    });
}
