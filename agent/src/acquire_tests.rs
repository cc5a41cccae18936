//! That no attempt waits for another that hangs.

use futures::future::join_all;
use shared::binding::CredentialKind;
use shared::registry::RegistryHost;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;
use crate::demand::tests::reference;
use crate::exchange::http::tests::settings;
use crate::exchange::{Trade, quay::Quay};
use crate::identity::{IdentityError, IdentityToken};

/// Hangs for one subject.
struct Source;

const HANGS: &str = "spiffe://td/hangs";

impl IdentitySource for Source {
    async fn identity(&self, request: &IdentityRequest) -> Result<Svid, IdentityError> {
        if request.subject == HANGS {
            std::future::pending::<()>().await;
        }
        Ok(Svid::Token(IdentityToken {
            token: "token".into(),
            expires_at: jiff::Timestamp::MAX,
        }))
    }

    fn silence(&self, credential: CredentialKind) -> Code {
        assert_eq!(credential, CredentialKind::SpiffeJWT);
        Code::SpireUnavailable
    }
}

fn acquirer(allowed: &str) -> Acquirer<Source> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Acquirer::new(Source, Upstream::new(settings(allowed), None).unwrap())
}

fn holder(name: &str) -> Holder {
    Holder {
        binding: reference(name),
        service_account: "argocd-repo-server".into(),
    }
}

async fn acquire(
    acquirer: &Acquirer<Source>,
    name: &str,
    subject: &str,
    trade: Option<Trade>,
) -> Outcome<Holder, Credential> {
    let attempt = Attempt {
        key: Key {
            namespace: "argocd".into(),
            project: None,
            credential: CredentialKind::SpiffeJWT,
            subject: subject.into(),
            service_account: "argocd-global".into(),
            audience: "quay.test".into(),
            trade,
        },
        number: 1,
        holders: vec![holder(name)],
        renew: true,
        deadline: Duration::from_secs(30),
    };
    let pods = PodTokens::from([(holder(name), "pod".into())]);
    acquirer.acquire(attempt, pods).await
}

#[tokio::test(start_paused = true)]
async fn a_hanging_identity_keeps_no_other_waiting() {
    let acquirer = acquirer("");
    let started = Instant::now();
    let hanging = join_all((0..100).map(|_| acquire(&acquirer, "h", HANGS, None)));
    let prompt = async {
        let subject = "spiffe://td/a";
        let outcomes = join_all((0..200).map(|_| acquire(&acquirer, "a", subject, None)));
        let outcomes = outcomes.await;
        assert!(
            outcomes
                .iter()
                .all(|it| matches!(it.credential, Some(Ok(_))))
        );
        assert_eq!(started.elapsed(), Duration::ZERO);
    };
    let (hanging, ()) = tokio::join!(hanging, prompt);
    for outcome in hanging {
        let error = outcome.proofs[&holder("h")].as_ref().unwrap_err();
        assert_eq!(error.code, Code::SpireUnavailable);
    }
}

#[tokio::test]
async fn a_hanging_registry_keeps_no_other_waiting() {
    // One accepts connections and never says anything, one is not there.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let quay = |listener: &TcpListener| {
        Trade::Quay(Quay {
            host: RegistryHost::parse(&listener.local_addr().unwrap().to_string()).unwrap(),
            auth_url: None,
            robot: "org+robot".into(),
        })
    };
    let (hangs, refuses) = (quay(&silent), quay(&closed));
    drop(closed);
    let acquirer = acquirer("127.0.0.1;private");
    let subject = "spiffe://td/a";
    let hanging = join_all((0..50).map(|_| acquire(&acquirer, "h", subject, Some(hangs.clone()))));
    let prompt = acquire(&acquirer, "a", subject, Some(refuses));
    let outcome = tokio::select! {
        biased;
        _ = hanging => panic!("a silent registry answered"),
        outcome = prompt => outcome,
    };
    let error = outcome.credential.unwrap().unwrap_err().error;
    assert_eq!(error.code, Code::ExchangeUnreachable, "{error}");
    assert!(error.detail.contains("refused"), "{error}");
}
