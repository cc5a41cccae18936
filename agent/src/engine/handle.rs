//! How the CSI service speaks to the engine: events flow in, and kubelet's call
//! goes on when the engine has acted, or has had its time.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::demand::Consumer;

/// Kubelet is kept waiting no longer than this for the engine's part.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Events that wait for the engine.
const QUEUE: usize = 256;

/// What the CSI service tells the engine.
#[derive(Debug)]
pub enum Event {
    /// A volume was published; again, with a new token, every few seconds.
    Published {
        /// The pod.
        consumer: Consumer,
        /// Answered when the volume holds what there is for it.
        done: oneshot::Sender<()>,
    },
    /// A volume is about to be removed.
    Unpublished {
        /// Its path.
        volume: PathBuf,
        /// Answered when nothing will be written there any more.
        done: oneshot::Sender<()>,
    },
}

/// Speaks to the engine.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::Sender<Event>);

impl Handle {
    /// Tells of a consumer. Returns when its volume holds what there is for it
    /// already, after two seconds at the latest.
    pub async fn publish(&self, consumer: Consumer) {
        self.tell(|done| Event::Published { consumer, done }).await;
    }

    /// Tells that a volume goes away; returns like [`Handle::publish`].
    pub async fn unpublish(&self, volume: PathBuf) {
        self.tell(|done| Event::Unpublished { volume, done }).await;
    }

    async fn tell(&self, event: impl FnOnce(oneshot::Sender<()>) -> Event) {
        let (done, answer) = oneshot::channel();
        let told = async {
            // Errors mean that the agent is being stopped.
            let _ = self.0.send(event(done)).await;
            let _ = answer.await;
        };
        if timeout(PATIENCE, told).await.is_err() {
            tracing::warn!("the engine is busy; kubelet does not wait for it");
        }
    }
}

/// A channel to the engine, and its other end.
pub fn channel() -> (Handle, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Handle(sender), receiver)
}
