//! That a burst costs one write.

use std::sync::atomic::{AtomicUsize, Ordering};

use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::*;
use crate::demand::tests::change;

/// Counts the passes over volumes that changed files.
#[derive(Clone, Default)]
struct Writes(Arc<AtomicUsize>);

impl<S: tracing::Subscriber> Layer<S> for Writes {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target().ends_with("engine::volumes") {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_ends_together_is_written_together() {
    let writes = Writes::default();
    let subscriber = tracing_subscriber::registry().with(writes.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut agent = Agent::new();
    agent.publish().await;
    let before = writes.0.load(Ordering::Relaxed);
    let bindings = (0..50).map(|it| {
        let binding = change(cluster(1), |spec| {
            spec.target.address = format!("https://spoke-{it}.test:6443");
            spec.identity.audience = format!("spoke-{it}");
        });
        (reference(&format!("spoke-{it}")), binding)
    });
    agent
        .bindings
        .send_replace(Some(Arc::new(bindings.collect())));
    let written = |agent: &Agent| {
        let folder = std::fs::read_dir(agent.folder.path().join("clusters"));
        folder.map_or(0, Iterator::count)
    };
    agent.until("all", |agent, _| written(agent) == 50).await;
    assert_eq!(writes.0.load(Ordering::Relaxed) - before, 1);
}
