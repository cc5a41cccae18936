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

use super::wire::{Updates, Wire};

/// The waits before it is opened again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Until it has to be open.
const OPEN: Duration = Duration::from_secs(35);
/// A caller waits so long for an answer of the subscription.
pub(super) const BRIEFLY: Duration = Duration::from_secs(2);

/// What the subscription brought.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The newest bundles, also after the subscription has failed.
    pub bundles: Option<Arc<JwtBundleSet>>,
    /// Whether and why it does not stand; `None` before its first answer.
    pub standing: Option<Result<(), Named>>,
}

impl Trust {
    fn settled(&self) -> bool {
        self.standing.is_some()
    }

    fn is_live(&self) -> bool {
        matches!(self.standing, Some(Ok(())))
    }
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

    /// What it has brought. Waits briefly for its first answer.
    pub async fn current(&self) -> Trust {
        let mut trust = self.trust.clone();
        let _ = tokio::time::timeout(BRIEFLY, trust.wait_for(Trust::settled)).await;
        trust.borrow().clone()
    }

    /// Opens it anew and waits briefly for bundles that are `enough`: for those
    /// who saw a key that they do not know. A stream on which nothing comes any
    /// more looks like one on which there is no news.
    pub async fn renewed(&self, enough: impl Fn(&JwtBundleSet) -> bool) -> Trust {
        let mut trust = self.trust.clone();
        self.doubt.notify_one();
        let enough = |it: &Trust| it.bundles.as_deref().is_some_and(&enough);
        let _ = tokio::time::timeout(BRIEFLY, trust.wait_for(enough)).await;
        trust.borrow().clone()
    }
}

async fn keep<W: Wire>(wire: Arc<W>, trust: watch::Sender<Trust>, doubt: Arc<Notify>) {
    let (place, mut wait) = (wire.place(), RETRY.0);
    loop {
        let ended = match tokio::time::timeout(OPEN, wire.jwt_bundles()).await {
            Ok(Ok(updates)) => follow(updates, &trust, &place, &doubt).await,
            Ok(Err(fault)) => Err(fault),
            Err(_elapsed) => Err(Named::new(
                Code::SpireUnavailable,
                format!("no stream of bundles within {OPEN:?}"),
            )),
        };
        match ended {
            Ok(()) => wait = RETRY.0,
            Err(fault) => {
                if trust.borrow().is_live() {
                    wait = RETRY.0;
                }
                tell(&trust, &place, Err(fault));
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        }
    }
}

/// Takes what comes, until somebody doubts that all has come.
async fn follow(
    mut updates: Updates<JwtBundleSet>,
    trust: &watch::Sender<Trust>,
    place: &str,
    doubt: &Notify,
) -> Result<(), Named> {
    let mut opened = false;
    loop {
        tokio::select! {
            update = updates.next() => match update {
                Some(bundles) => tell(trust, place, Ok(bundles?)),
                None => {
                    let ended = "the stream of bundles ended";
                    return Err(Named::new(Code::SpireUnavailable, ended));
                }
            },
            // Not before it has brought anything: that is the news.
            () = doubt.notified(), if opened => return Ok(()),
        }
        opened = true;
    }
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
