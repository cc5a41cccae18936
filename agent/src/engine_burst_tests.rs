//! That a burst is one turn of the engine, and so one write.

use futures::future::join_all;

use super::*;
use crate::demand::tests::change;

const MANY: usize = 50;

#[tokio::test(start_paused = true)]
async fn what_happens_together_is_written_together() {
    let agent = Agent::new();
    let acquirer = Acquirer::new(
        agent.source.clone(),
        Upstream::new(settings(""), None).unwrap(),
    );
    let (reports, _reported) = watch::channel(Reports::default());
    let (maps, mut bindings) = watch::channel(None);
    let (handle, mut events) = channel();
    let mut engine = Engine::new("node-a".into(), agent.clock, acquirer, allowed(), reports);

    // Kubelet publishes many volumes at once.
    let mut consumers = vec![consumer("controller"); MANY];
    for (index, consumer) in consumers.iter_mut().enumerate() {
        consumer.volume = agent.folder.path().join(index.to_string());
        std::fs::create_dir(&consumer.volume).unwrap();
    }
    let volume = consumers[0].volume.clone();
    tokio::spawn(async move {
        let publish = consumers.into_iter().map(|it| handle.publish(it));
        join_all(publish).await;
        std::future::pending::<()>().await;
    });
    assert!(engine.turn(&mut events, &mut bindings).await);
    assert_eq!(engine.consumers.len(), MANY);

    // Many bindings are new, and their attempts end at once.
    let many = (0..MANY).map(|it| {
        let binding = change(cluster(1), |spec| {
            spec.target.address = format!("https://spoke-{it}.test:6443");
            spec.identity.audience = format!("spoke-{it}");
        });
        (reference(&format!("spoke-{it}")), binding)
    });
    maps.send_replace(Some(Arc::new(many.collect())));
    let written = || {
        let folder = std::fs::read_dir(volume.join("clusters"));
        folder.map_or(0, Iterator::count)
    };
    assert!(engine.turn(&mut events, &mut bindings).await);
    assert_eq!((engine.running.len(), written()), (MANY, 0));
    assert!(engine.turn(&mut events, &mut bindings).await);
    assert_eq!((engine.running.len(), written()), (0, MANY));
}
