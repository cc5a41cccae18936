//! Calls that are not answered and streams from which nothing comes.

use std::sync::mpsc;
use std::time::Duration;

use agent::identity::IdentityRequest;
use harness::spire::{Fault, Method, Scope, Spire};
use shared::errors::Code;
use tokio::time::Instant;

use crate::scene::{AUDIENCE, Api, Scene, certificate, token};

/// Asks, and lets the agent's time run out once SPIRE has the call. Returns the error's code and how many seconds
/// the agent has waited by its own clock.
async fn ended(agent: &Scene, method: Method, question: &IdentityRequest) -> (Code, u64) {
    let before = agent.spire.arrived(method);
    tokio::time::pause();
    // A paused clock jumps when nobody has anything to do, but not while a blocking task runs.
    let (release, held) = mpsc::channel::<()>();
    let hold = tokio::task::spawn_blocking(move || held.recv_timeout(Duration::from_secs(30)));
    let start = Instant::now();
    let arrival = async {
        let came = |spire: &Spire| spire.arrived(method) > before;
        agent.spire.until("the call", came).await.unwrap();
        drop(release);
    };
    let (code, ()) = tokio::join!(agent.refusal(question), arrival);
    let waited = start.elapsed().as_secs();
    assert_eq!(
        hold.await.unwrap(),
        Err(mpsc::RecvTimeoutError::Disconnected)
    );
    tokio::time::resume();
    (code, waited)
}

#[tokio::test]
async fn a_call_without_an_answer_ends_as_unavailable() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        for (method, fault, question) in [
            (api.jwt(), Fault::Hang, token("web", AUDIENCE)),
            (api.x509(), Fault::Hang, certificate("web")),
            // Nothing came, so nobody has said that there is no entry.
            (api.x509(), Fault::Silence, certificate("web")),
            (api.x509_bundles(), Fault::Hang, certificate("web")),
            (api.x509_bundles(), Fault::Silence, certificate("web")),
        ] {
            let agent = scene.another_agent();
            agent.ask(&token("web", "first.test")).await.unwrap();
            let scope = Scope::Method(method);
            scene.spire.fail(scope.clone(), fault);
            let (code, waited) = ended(&agent, method, &question).await;
            let what = format!("{method:?} {fault:?}, after {waited} s");
            assert_eq!(code, Code::SpireUnavailable, "{what}");
            assert!((30..=40).contains(&waited), "{what}");
            scene.spire.heal(&scope);
        }
    }
}

#[tokio::test]
async fn silent_bundles_hold_no_token_back() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        let silent = Scope::Method(api.jwt_bundles());
        for fault in [Fault::Hang, Fault::Silence] {
            scene.spire.fail(silent.clone(), fault);
            // Without bundles the socket itself is trusted; they are waited for only briefly.
            let start = Instant::now();
            scene.another_agent().token("web").await.unwrap();
            let waited = start.elapsed().as_secs();
            assert!(waited < 5, "{api:?} {waited}");
            scene.spire.heal(&silent);
        }
        // One that had them goes on with those.
        scene.token("web").await.unwrap();
        scene.spire.fail(silent.clone(), Fault::Silence);
        scene.ask(&token("web", "other.test")).await.unwrap();
    }
}
