//! Whether this process holds the lease: what the election publishes flows in,
//! the right to work flows out.

use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Whether this process holds the lease now. Others may hold it a little later
/// than a claim has ended, never before.
#[derive(Debug, Clone)]
pub struct Claim(pub(super) watch::Receiver<Option<Instant>>);

impl Claim {
    /// Whether the lease is held at this moment.
    pub fn is_held(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Completes when the lease is held.
    pub async fn held(&mut self) {
        while !self.is_held() {
            self.changed().await;
        }
    }

    /// Completes when the lease is not held any more.
    pub async fn ended(&mut self) {
        loop {
            let until = *self.0.borrow_and_update();
            let Some(until) = until.filter(|until| Instant::now() < *until) else {
                return;
            };
            tokio::select! {
                () = self.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody takes part in the election any more.
            std::future::pending::<()>().await;
        }
    }
}

/// A candidate that takes part in the election, until this is dropped.
#[derive(Debug)]
pub struct Candidacy {
    pub(super) claim: Claim,
    pub(super) stop: oneshot::Sender<()>,
    pub(super) task: JoinSet<()>,
}

impl Candidacy {
    /// Tells whether the lease is held.
    pub fn claim(&self) -> Claim {
        self.claim.clone()
    }

    /// Releases the lease, if it is held. All work has to have ended before.
    pub async fn release(mut self) {
        // An error means that the task has ended.
        let _ = self.stop.send(());
        while self.task.join_next().await.is_some() {}
    }
}
