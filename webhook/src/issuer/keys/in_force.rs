//! Which signature algorithm is in force.

use control_plane_core::identity::algorithm::Algorithm;
use futures::{Stream, stream};
use tokio::sync::watch;

/// The algorithm of the key in the Secret, once there is one. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct InForce(watch::Sender<Option<Algorithm>>);

impl InForce {
    /// The algorithm.
    pub fn algorithm(&self) -> Option<Algorithm> {
        *self.0.borrow()
    }

    /// Says which it is.
    pub fn set(&self, algorithm: Algorithm) {
        self.0.send_if_modified(|current| {
            let differs = *current != Some(algorithm);
            *current = Some(algorithm);
            differs
        });
    }

    /// An item each time that it has changed.
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + use<> {
        stream::unfold(self.0.subscribe(), |mut algorithm| async {
            algorithm.changed().await.ok().map(|()| ((), algorithm))
        })
    }
}
