//! What comes back is looked at before it is used: claims, signature, chain, clock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent::identity::{IdentityRequest, Svid};
use harness::spire::{Entry, Fault, Forgery, KeyType, Scope};
use jiff::SignedDuration;
use jsonwebtoken::{Algorithm, decode_header};
use secrecy::ExposeSecret as _;
use shared::errors::{Code, Named};

use crate::scene::{AUDIENCE, Api, ISSUER, Scene, certificate, id, project_id, token};

/// Another audience is another question to the agent, which remembers answers for a moment.
fn another_token() -> IdentityRequest {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    token("web", &format!("quay-{turn}.test"))
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        scene.ask(&another_token()).await.unwrap();
        for (forgery, code) in [
            (Forgery::Signature, Code::IdentitySignatureInvalid),
            (Forgery::UnknownKey, Code::IdentitySignatureInvalid),
            (Forgery::Audience("x.test".into()), Code::IdentityMismatch),
            (Forgery::Subject(id("catch-all")), Code::SpiffeIdNotIssued),
        ] {
            scene.spire.forge(Some(forgery.clone()));
            let error = scene.ask(&another_token()).await.unwrap_err();
            assert_eq!(error.code(), code, "{api:?} {forgery:?}: {error}");
            assert!(!error.to_string().contains("eyJ"), "{error}");
        }
        scene.spire.forge(None);
        scene.ask(&another_token()).await.unwrap();
    }
}

#[tokio::test]
async fn forged_certificates_are_refused() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        scene.ask(&certificate("web")).await.unwrap();
        for (forgery, code) in [
            (Forgery::Signature, Code::IdentitySignatureInvalid),
            (Forgery::PrivateKey, Code::IdentityMismatch),
            (Forgery::Subject(id("another")), Code::SpiffeIdNotIssued),
            (Forgery::Expired, Code::ClockSkew),
        ] {
            scene.spire.forge(Some(forgery.clone()));
            scene.refused(&certificate("web"), code).await;
        }
        scene.spire.forge(None);
        scene.served(&certificate("web")).await;
    }
}

#[tokio::test]
async fn only_the_installations_issuer_is_accepted() {
    for api in Api::BOTH {
        let scene = Scene::with_issuer(api, Some(ISSUER));
        scene.register("web");
        for issuer in [
            None,
            Some("https://other.example.test"),
            Some("https://issuer.example.test/"),
        ] {
            scene.spire.set_issuer(issuer);
            let error = scene.ask(&another_token()).await.unwrap_err();
            assert_eq!(error.code(), Code::IdentityIssuerMismatch, "{error}");
            let named = Named::from(&error).to_string();
            assert!(named.contains(ISSUER), "{named}");
        }
        scene.spire.set_issuer(Some(ISSUER));
        scene.ask(&another_token()).await.unwrap();
        // Certificates have no issuer of this kind.
        scene.ask(&certificate("web")).await.unwrap();
        // An agent without one takes any.
        let any = scene.another_agent();
        for issuer in [None, Some("https://other.example.test")] {
            scene.spire.set_issuer(issuer);
            any.ask(&another_token()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn clocks_may_differ_by_five_minutes_and_no_more() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        for (minutes, accepted) in [(5, true), (-5, true), (6, false), (-59, true), (-61, false)] {
            let offset = SignedDuration::from_mins(minutes);
            scene.spire.set_clock_offset(offset);
            if accepted {
                scene.ask(&another_token()).await.unwrap();
                scene.served(&certificate("web")).await;
            } else {
                let code = scene.refusal(&another_token()).await;
                assert_eq!(code, Code::ClockSkew, "{api:?} {minutes}");
                scene.refused(&certificate("web"), Code::ClockSkew).await;
            }
        }
        // SPIRE's own lifetime, of a SPIRE that is as much behind: over on arrival.
        scene.spire.remove(&project_id("web"));
        scene.spire.add(scene.entry("web"));
        scene.spire.set_clock_offset(SignedDuration::from_mins(-5));
        let code = scene.refusal(&another_token()).await;
        assert_eq!(code, Code::ClockSkew, "{api:?}");
    }
}

#[tokio::test]
async fn both_types_of_keys_are_accepted_and_new_keys_are_learnt() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        for (key_type, algorithm) in [
            (KeyType::Rsa2048, Algorithm::RS256),
            (KeyType::EcP256, Algorithm::ES256),
        ] {
            scene.spire.rotate_jwt_key(key_type).unwrap();
            // The bundle may come after the token.
            let svid = scene.ask(&another_token()).await.unwrap();
            let Svid::Token(svid) = svid else {
                panic!("{svid:?}");
            };
            let header = decode_header(svid.token.expose_secret()).unwrap();
            assert_eq!(header.alg, algorithm, "{api:?}");
        }
        // While the bundles are silent, a new key is no key.
        let silent = Scope::Method(api.jwt_bundles());
        scene.spire.fail(silent.clone(), Fault::Silence);
        scene.spire.rotate_jwt_key(KeyType::EcP256).unwrap();
        let code = scene.refusal(&another_token()).await;
        assert_eq!(code, Code::IdentitySignatureInvalid, "{api:?}");
        scene.spire.heal(&silent);
        scene.served(&token("web", AUDIENCE)).await;
    }
}

#[tokio::test]
async fn other_trust_domains_sign_nothing_here() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        scene.spire.federate("other.test").unwrap();
        scene.ask(&another_token()).await.unwrap();
        scene.ask(&certificate("web")).await.unwrap();
        // An entry of another trust domain, whose SVIDs this trust domain's keys would sign.
        let foreign = "spiffe://other.test/ns/argocd/sa/argocd-project-web";
        let selectors = scene.entry("web").selectors;
        let mut entry = Entry::new(foreign, &[]).jwt_ttl(Duration::from_secs(3600));
        entry.selectors = selectors;
        scene.spire.add(entry);
        let mut question = another_token();
        question.subject = foreign.into();
        let code = scene.refusal(&question).await;
        assert_eq!(code, Code::IdentitySignatureInvalid, "{api:?}");
        let mut question = certificate("web");
        question.subject = foreign.into();
        let code = scene.refusal(&question).await;
        assert_eq!(code, Code::IdentitySignatureInvalid, "{api:?}");
    }
}
