//! Each reason why there is no identity has a name of its own, and its message says what was asked, and where.

use agent::config::SpiffeSource;
use agent::identity::{IdentityRequest, IdentitySource as _};
use harness::spire::{Caller, Fault, Scope};
use shared::binding::CredentialKind;
use shared::errors::{Code, Named};
use tonic::Code as Status;

use crate::scene::{AUDIENCE, Api, Scene, certificate, id, project_id, start, token};

/// Both kinds of identity.
fn questions(project: &str) -> [IdentityRequest; 2] {
    [token(project, AUDIENCE), certificate(project)]
}

#[tokio::test]
async fn the_agent_is_absent() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        scene.token("web").await.unwrap();
        scene.spire.stop();
        for question in questions("web") {
            scene.refused(&question, Code::SpireAgentAbsent).await;
        }
        scene.spire.resume().unwrap();
        scene.spire.kill();
        // A socket without a listener, for an agent that has had a connection and for one that has not.
        for question in questions("web") {
            scene.refused(&question, Code::SpireAgentAbsent).await;
            let code = scene.another_agent().refusal(&question).await;
            assert_eq!(code, Code::SpireAgentAbsent, "{api:?}");
        }
    }
}

#[tokio::test]
async fn the_credential_agent_is_not_registered_or_no_delegate() {
    let scene = Scene::with_project(Api::Delegated, "web");
    for (caller, code) in [
        (Caller::Unregistered, Code::SpireAgentNotRegistered),
        (Caller::Registered, Code::SpireNotADelegate),
    ] {
        scene.spire.set_caller(caller);
        for question in questions("web") {
            scene.refused(&question, code).await;
            let found = scene.another_agent().refusal(&question).await;
            assert_eq!(found, code, "{question:?}");
        }
    }
    // It is registered at last: the bundles, and with them every question, come back.
    scene.spire.set_caller(Caller::Delegate);
    for question in questions("web") {
        scene.served(&question).await;
    }
}

#[tokio::test]
async fn the_project_is_not_registered_or_under_another_name() {
    // Subscriptions wait for an entry, so both at once.
    tokio::join!(
        misregistered(Api::Delegated),
        misregistered(Api::Workload),
        async {
            let scene = Scene::new(Api::Delegated);
            scene.spire.remove(&id("catch-all"));
            let code = scene.refusal(&certificate("web")).await;
            assert_eq!(code, Code::IdentityNotRegistered);
        }
    );
}

async fn misregistered(api: Api) {
    let scene = Scene::new(api);
    let code = scene.refusal(&certificate("web")).await;
    assert_eq!(code, Code::SpiffeIdNotIssued, "{api:?}");
    let issued = match api {
        Api::Delegated => Code::SpiffeIdNotIssued,
        Api::Workload => Code::IdentityNotRegistered,
    };
    let error = scene.ask(&token("web", AUDIENCE)).await.unwrap_err();
    assert_eq!(error.code(), issued, "{error}");
    let message = Named::from(&error).to_string();
    let place = match api {
        Api::Delegated => scene.spire.admin_socket(),
        Api::Workload => scene.spire.workload_socket(),
    };
    let socket = format!("socket {}", place.display());
    let mut parts = vec!["argocd/charts-web".to_owned(), project_id("web"), socket];
    if api == Api::Delegated {
        parts.push("k8s:ns:argocd,k8s:sa:argocd-project-web".into());
        parts.push(id("catch-all"));
    }
    for part in parts {
        assert!(message.contains(&part), "{part} in {message}");
    }
    scene.spire.remove(&id("catch-all"));
    let code = scene.refusal(&token("web", AUDIENCE)).await;
    assert_eq!(code, Code::IdentityNotRegistered, "{api:?}");
}

#[tokio::test]
async fn selectors_that_spire_cannot_read() {
    let scene = Scene::with_project(Api::Delegated, "web");
    let source = SpiffeSource::Spire {
        admin_socket: scene.spire.admin_socket().to_owned(),
        selectors: "argocd:{namespace}".parse().unwrap(),
    };
    let source = start(source, None);
    for mut question in questions("web") {
        // A selector without a value.
        question.registration.namespace = String::new();
        let error = source.identity(&question).await.unwrap_err();
        assert_eq!(error.code(), Code::SelectorsRefused, "{error}");
    }
    let methods = [Api::Delegated.jwt(), Api::Delegated.x509()];
    let arrived = methods.map(|method| scene.spire.arrived(method));
    assert_eq!(arrived, [1, 1], "SPIRE's own refusal");
}

#[tokio::test]
async fn spire_cannot_at_the_moment() {
    for api in Api::BOTH {
        let scene = Scene::with_project(api, "web");
        scene.token("web").await.unwrap();
        // A new audience needs the server; a known one is in the SPIRE agent's cache.
        scene.spire.set_server_reachable(false);
        let code = scene.refusal(&token("web", "other.test")).await;
        assert_eq!(code, Code::SpireUnavailable, "{api:?}");
        scene.served(&token("web", AUDIENCE)).await;
        scene.spire.set_server_reachable(true);
        for (status, code) in [
            (Status::Unavailable, Code::SpireUnavailable),
            (Status::Internal, Code::SpireUnavailable),
            (Status::Unknown, Code::SpireUnavailable),
            (Status::DeadlineExceeded, Code::SpireUnavailable),
            (Status::ResourceExhausted, Code::SpireUnavailable),
            (Status::InvalidArgument, Code::SelectorsRefused),
        ] {
            for method in [api.jwt(), api.x509()] {
                let fault = Fault::Refuse(status, "words of a test");
                scene.spire.fail(Scope::Method(method), fault);
            }
            for question in questions("web") {
                let audience = format!("{status:?}.test");
                let question = match question.credential {
                    CredentialKind::SpiffeJWT => token("web", &audience),
                    _ => question,
                };
                scene.refused(&question, code).await;
                let error = scene.ask(&question).await.unwrap_err().to_string();
                assert!(error.contains("words of a test"), "{api:?} {error}");
            }
        }
        for method in [api.jwt(), api.x509()] {
            scene.spire.heal(&Scope::Method(method));
        }
        for question in questions("web") {
            scene.served(&question).await;
        }
    }
}

#[tokio::test]
async fn nobody_said_where_or_the_control_plane_is_the_source() {
    let nowhere = start(SpiffeSource::WorkloadApi(None), None);
    for question in questions("web") {
        let error = nowhere.identity(&question).await.unwrap_err();
        assert_eq!(error.code(), Code::WorkloadApiNotConfigured);
    }
    let control_plane = start(SpiffeSource::ControlPlane, None);
    let error = control_plane.identity(&certificate("web")).await;
    assert_eq!(error.unwrap_err().code(), Code::IdentityNotAvailable);
    // Tokens of service accounts never come from SPIRE.
    let scene = Scene::with_project(Api::Delegated, "web");
    let question = IdentityRequest {
        credential: CredentialKind::ServiceAccountToken,
        ..token("web", AUDIENCE)
    };
    let code = scene.refusal(&question).await;
    assert_eq!(
        code,
        Code::AgentTokenRejected,
        "the control plane was asked"
    );
    assert_eq!(scene.spire.arrived(Api::Delegated.jwt()), 0);
}
