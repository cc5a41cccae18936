//! Many projects at once: each is asked for once, and none waits for another.

use std::time::{Duration, Instant};

use futures::future::join_all;
use harness::spire::{Fault, Scope, Spire};
use shared::errors::Code;

use crate::scene::{AUDIENCE, Api, Scene, certificate, claims, pem, project_id, token};

const PROJECTS: usize = 200;

fn names() -> Vec<String> {
    (0..PROJECTS).map(|number| format!("p{number}")).collect()
}

#[tokio::test]
async fn two_hundred_projects_are_served_each_by_one_call() {
    for api in Api::BOTH {
        let scene = Scene::new(api);
        let names = names();
        names.iter().for_each(|name| scene.register(name));
        let all = names.iter().map(|name| async {
            let subject = scene.token(name).await.unwrap()["sub"].clone();
            assert_eq!(subject, project_id(name));
        });
        join_all(all).await;
        assert_eq!(scene.spire.arrived(api.jwt()), PROJECTS, "{api:?}");
        for name in &names {
            let issued = scene.spire.issued(api.jwt(), &project_id(name), AUDIENCE);
            assert_eq!(issued, 1, "{api:?} {name}");
        }
    }
}

#[tokio::test]
async fn two_hundred_certificates_are_each_their_own() {
    let scene = Scene::new(Api::Delegated);
    let names = names();
    names.iter().for_each(|name| scene.register(name));
    let questions: Vec<_> = names.iter().map(|name| certificate(name)).collect();
    let all = join_all(questions.iter().map(|question| scene.ask(question))).await;
    let mut keys: Vec<String> = all
        .into_iter()
        .map(|svid| pem(&svid.unwrap()).1.to_owned())
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), PROJECTS);
    assert_eq!(scene.spire.arrived(Api::Delegated.x509()), PROJECTS);
}

#[tokio::test]
async fn who_asks_the_same_at_once_shares_one_call() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        let method = Scope::Method(api.jwt());
        scene.spire.fail(method.clone(), Fault::Hang);
        let ask = || {
            let scene = scene.clone();
            tokio::spawn(async move { scene.token("web").await })
        };
        let mut asking: Vec<_> = (0..50).map(|_| ask()).collect();
        let came = |spire: &Spire| spire.arrived(api.jwt()) == 1;
        scene.spire.until("one call", came).await.unwrap();
        asking.push(ask());
        scene.spire.heal(&method);
        let answers = join_all(asking).await;
        let mut answers = answers.into_iter().map(|answer| answer.unwrap().unwrap());
        let first = answers.next().unwrap();
        assert!(answers.all(|answer| answer == first), "{api:?}");
        assert_eq!(scene.spire.arrived(api.jwt()), 1, "{api:?}");

        // Another audience and another project are other questions.
        scene.register("other");
        scene.ask(&token("web", "other.test")).await.unwrap();
        scene.token("other").await.unwrap();
        assert_eq!(scene.spire.arrived(api.jwt()), 3, "{api:?}");
    }
}

#[tokio::test]
async fn a_project_that_hangs_delays_no_other() {
    for api in Api::BOTH {
        let scene = Scene::new(api);
        // More than any limit of parallel calls that there may be.
        let hung: Vec<String> = (0..40).map(|number| format!("h{number}")).collect();
        for name in &hung {
            scene.register(name);
            let scope = Scope::SpiffeId(project_id(name));
            scene.spire.fail(scope, Fault::Hang);
        }
        scene.register("web");
        let waiting: Vec<_> = hung
            .iter()
            .map(|name| {
                let (scene, question) = (scene.clone(), token(name, AUDIENCE));
                tokio::spawn(async move { scene.ask(&question).await })
            })
            .collect();
        let came = |spire: &Spire| spire.arrived(api.jwt()) == hung.len();
        scene.spire.until("all that hang", came).await.unwrap();
        let start = Instant::now();
        scene.token("web").await.unwrap();
        if api == Api::Delegated {
            // The Workload API gives all certificates of the pod at once, or none.
            scene.ask(&certificate("web")).await.unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{api:?}");
        assert!(waiting.iter().all(|task| !task.is_finished()));
        for name in &hung {
            scene.spire.heal(&Scope::SpiffeId(project_id(name)));
        }
        for (task, name) in waiting.into_iter().zip(&hung) {
            let svid = task.await.unwrap().unwrap();
            assert_eq!(claims(svid)["sub"], project_id(name));
        }
    }
}

#[tokio::test]
async fn slow_answers_are_waited_for() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        let slow = Fault::Delay(Duration::from_secs(2));
        scene.spire.fail(Scope::Method(api.jwt()), slow);
        scene.token("web").await.unwrap();
        // Who gives up leaves the call to the next who asks.
        let question = token("web", "other.test");
        let impatient = tokio::time::timeout(Duration::from_millis(500), scene.ask(&question));
        assert!(impatient.await.is_err());
        scene.ask(&question).await.unwrap();
        assert_eq!(scene.spire.arrived(api.jwt()), 2, "{api:?}");
        // One that fails for all of them is asked again by each.
        let refuse = Fault::Refuse(tonic::Code::Unavailable, "no");
        scene.spire.fail(Scope::Method(api.jwt()), refuse);
        for _ in 0..2 {
            let code = scene.refusal(&token("web", "third.test")).await;
            assert_eq!(code, Code::SpireUnavailable);
        }
        assert_eq!(scene.spire.arrived(api.jwt()), 4, "{api:?}");
    }
}
