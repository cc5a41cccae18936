//! Which of the identities that SPIRE gives is taken, as entries come and go.

use std::time::{Duration, Instant};

use agent::identity::{IdentityError, Svid};
use harness::spire::{Entry, Spire};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use shared::errors::Code;

use crate::scene::{AUDIENCE, Api, Scene, certificate, claims, id, pem, project_id, token};

/// The SPIFFE ID is the only text of this form in a leaf of the stand-in.
fn leaf_has(chain: &str, spiffe_id: &str) -> bool {
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    String::from_utf8_lossy(&leaf).contains(spiffe_id)
}

#[tokio::test]
async fn of_several_identities_the_exact_one_is_taken() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        // One is the beginning of the other, and both are given for the same selectors.
        let longer = Entry {
            spiffe_id: format!("{}-2", project_id("web")),
            ..scene.entry("web")
        };
        scene.spire.add(longer);
        let mut firsts = Vec::new();
        // Each time in another order; another audience is another question.
        for turn in 0..6 {
            let audience = format!("quay-{turn}.test");
            let svid = scene.ask(&token("web", &audience)).await.unwrap();
            let claims = claims(svid);
            assert_eq!(claims["sub"], project_id("web"), "{api:?}");
            assert_eq!(claims["aud"], serde_json::json!([audience]));
            let mut calls = scene.spire.calls().into_iter();
            let call = calls.rfind(|call| call.audience == [audience.clone()]);
            firsts.push(call.unwrap().spiffe_ids[0].clone());
            let another = scene.another_agent();
            let svid = another.ask(&certificate("web")).await.unwrap();
            assert!(leaf_has(pem(&svid).0, &project_id("web")));
            assert!(!leaf_has(pem(&svid).0, &format!("{}-2", project_id("web"))));
        }
        if api == Api::Delegated {
            let others = firsts.iter().filter(|id| **id != project_id("web"));
            assert!(others.count() >= 2, "the order did change: {firsts:?}");
        }
    }
}

#[tokio::test]
async fn a_deleted_entry_ends_its_identity_although_spire_has_it_cached() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        scene.token("web").await.unwrap();
        scene.ask(&certificate("web")).await.unwrap();
        scene.spire.remove(&project_id("web"));
        let remaining = match api {
            Api::Delegated => Code::SpiffeIdNotIssued,
            // This API is asked for the SPIFFE ID.
            Api::Workload => Code::IdentityNotRegistered,
        };
        scene.refused(&token("web", AUDIENCE), remaining).await;
        let code = Code::SpiffeIdNotIssued;
        scene.refused(&certificate("web"), code).await;
        scene.spire.remove(&id("catch-all"));
        let code = Code::IdentityNotRegistered;
        scene.refused(&token("web", AUDIENCE), code).await;
    }
}

#[tokio::test]
async fn an_entry_that_is_added_later_is_served() {
    for api in Api::BOTH {
        let scene = Scene::new(api);
        scene.spire.remove(&id("catch-all"));
        let code = scene.refusal(&token("web", AUDIENCE)).await;
        assert_eq!(code, Code::IdentityNotRegistered, "{api:?}");
        scene.register("web");
        // A refusal is not remembered: the very next question has an answer.
        let start = Instant::now();
        let claims = scene.token("web").await.unwrap();
        assert_eq!(claims["sub"], project_id("web"));
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_subscription_brings_an_entry_that_is_added_while_it_waits() {
    for api in Api::BOTH {
        let scene = Scene::new(api);
        let waiting = {
            let scene = scene.clone();
            tokio::spawn(async move { scene.ask(&certificate("web")).await })
        };
        let count = move |spire: &Spire| spire.count(|call| call.method == api.x509()) == 1;
        scene.spire.until("a subscription", count).await.unwrap();
        assert!(!waiting.is_finished());
        scene.register("web");
        let svid = waiting.await.unwrap().unwrap();
        assert!(leaf_has(pem(&svid).0, &project_id("web")), "{api:?}");
        assert_eq!(scene.spire.arrived(api.x509()), 1, "no second question");
    }
}

#[tokio::test]
async fn renewed_certificates_are_given_when_they_are_asked_for() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        let first = scene.ask(&certificate("web")).await.unwrap();
        let another = |svid: &Svid| pem(svid) != pem(&first);
        let accept = |answer: Result<_, IdentityError>| match answer {
            Ok(svid) if another(&svid) => Ok(svid),
            other => Err(format!("{other:?}")),
        };
        scene.spire.renew();
        let second = scene.ask_until(&certificate("web"), accept).await;
        // And from a new authority, which the subscription's bundles have.
        scene.spire.rotate_x509_authority().unwrap();
        let accept = |answer: Result<_, IdentityError>| match answer {
            Ok(svid) if another(&svid) && pem(&svid) != pem(&second) => Ok(svid),
            Ok(svid) => Err(format!("{svid:?}")),
            Err(error) => panic!("{error}"),
        };
        scene.ask_until(&certificate("web"), accept).await;
    }
}
