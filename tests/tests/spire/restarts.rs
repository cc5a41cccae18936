//! SPIRE's agent goes away and comes back, under an agent that keeps running.

use std::time::{Duration, Instant};

use harness::spire::{Fault, Scope, Spire};
use shared::errors::Code;

use crate::scene::{AUDIENCE, Api, Scene, certificate, claims, project_id, token};

#[tokio::test]
async fn identities_come_back_with_the_socket() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        let before = scene.token("web").await.unwrap();
        scene.ask(&certificate("web")).await.unwrap();
        for killed in [false, true] {
            if killed {
                scene.spire.kill();
            } else {
                scene.spire.stop();
            }
            let question = token("web", AUDIENCE);
            scene.refused(&question, Code::SpireAgentAbsent).await;
            scene.spire.resume().unwrap();
            let start = Instant::now();
            let after = claims(scene.served(&question).await);
            assert_eq!(after["sub"], project_id("web"), "{api:?}");
            assert_ne!(after["jti"], before["jti"], "SPIRE's cache is gone");
            scene.served(&certificate("web")).await;
            let elapsed = start.elapsed();
            assert!(elapsed < Duration::from_secs(10), "{api:?} {elapsed:?}");
        }
    }
}

#[tokio::test]
async fn an_agent_that_starts_before_spire_finds_it() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        scene.spire.stop();
        let early = scene.another_agent();
        let question = token("web", AUDIENCE);
        let code = early.refusal(&question).await;
        assert_eq!(code, Code::SpireAgentAbsent, "{api:?}");
        scene.spire.resume().unwrap();
        let claims = early.token("web").await.unwrap();
        assert_eq!(claims["sub"], project_id("web"));
        let subscribed = |spire: &Spire| spire.arrived(api.jwt_bundles()) >= 1;
        scene.spire.until("bundles", subscribed).await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_spire_breaks_off_is_an_error_of_spire() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        scene.token("web").await.unwrap();
        let scope = Scope::SpiffeId(project_id("web"));
        scene.spire.fail(scope.clone(), Fault::Hang);
        let arrived = scene.spire.arrived(api.jwt());
        let hung = {
            let scene = scene.clone();
            tokio::spawn(async move { scene.ask(&token("web", "other.test")).await })
        };
        let came = |spire: &Spire| spire.arrived(api.jwt()) > arrived;
        scene.spire.until("the call", came).await.unwrap();
        scene.spire.stop();
        let code = hung.await.unwrap().unwrap_err().code();
        let expected = [Code::SpireUnavailable, Code::SpireAgentAbsent];
        assert!(expected.contains(&code), "{api:?}: {code}");
        scene.spire.heal(&scope);
        scene.spire.resume().unwrap();
        scene.served(&token("web", "other.test")).await;
    }
}
