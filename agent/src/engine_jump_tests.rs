//! The wall clock jumps, and the monotonic clock does not.

use super::*;

/// The machine sleeps, or its clock is set, by this many seconds.
fn jump(seconds: i64) {
    STARTED.set(STARTED.get() + seconds);
}

impl Agent {
    fn calls(&self) -> i64 {
        self.source.0.lock().unwrap().calls
    }

    fn has_expired(&self) -> bool {
        let now = self.clock.now().wall;
        self.delivered().is_some_and(|expiry| expiry <= now)
    }
}

#[tokio::test(start_paused = true)]
async fn what_expired_while_the_machine_slept_is_removed_and_renewed_at_the_first_turn() {
    let mut agent = Agent::with_credential().await;
    agent.set(Mode::Hang);
    let calls = agent.calls();
    jump(8 * 3600);
    assert!(agent.has_expired(), "nobody has looked yet");
    let woken = Instant::now();
    agent
        .until("removed", |agent, _| agent.delivered().is_none())
        .await;
    // The agent's own timers stood still as well: the next one is as far as it ever is.
    assert!(woken.elapsed() <= HEARTBEAT + Duration::from_millis(100));
    assert_eq!(agent.calls(), calls + 1, "it is renewed in the same turn");

    // Whatever kubelet asks meanwhile is a turn, too.
    agent.set(Mode::Serve);
    agent
        .until("renewed", |agent, _| agent.delivered().is_some())
        .await;
    jump(8 * 3600);
    assert!(agent.has_expired());
    agent.set(Mode::Refuse(Code::IssuerUnavailable));
    agent.publish().await;
    assert_eq!(agent.delivered(), None, "before the pod starts");
    agent.set(Mode::Serve);
    agent
        .until("renewed again", |agent, report| {
            agent.delivered().is_some() && report.unwrap().state == NodeState::Ready
        })
        .await;
    assert!(!agent.has_expired());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_lengthens_no_credential() {
    let mut agent = Agent::with_credential().await;
    let obtained = Instant::now();
    jump(-3600);
    agent.set(Mode::Refuse(Code::IssuerUnavailable));
    let calls = agent.calls();
    agent
        .until("removed", |agent, _| agent.delivered().is_none())
        .await;
    let life = obtained.elapsed();
    assert!(life <= Duration::from_secs(61), "{life:?} of its 60 s");
    assert!(agent.calls() > calls, "it was to be renewed before that");
    agent.set(Mode::Serve);
    agent
        .until("renewed", |agent, _| agent.delivered().is_some())
        .await;
}

#[tokio::test(start_paused = true)]
async fn renewals_go_on_after_a_clock_was_set_back() {
    let agent = Agent::with_credential().await;
    let first = agent.delivered();
    jump(-3600);
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_ne!(
        agent.delivered(),
        first,
        "the newer one expires earlier by this clock"
    );
    let calls = agent.calls();
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(agent.delivered().unwrap() > agent.clock.now().wall);
    }
    let renewals = agent.calls() - calls;
    assert!((2..=3).contains(&renewals), "{renewals}");
}
