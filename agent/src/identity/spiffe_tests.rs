//! The source with a SPIRE agent of a few lines behind the wire.

use std::sync::Mutex;

use futures::stream;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;
use crate::identity::certificate::tests::Authority;
use crate::identity::signature::tests::{bundles, forged, old_bundles, signed};
use crate::identity::tests::request;
use crate::identity::trust::BRIEFLY;

const SUBJECT: &str = "spiffe://td/a";

/// What the agent of a few lines does.
#[derive(Default)]
struct Agent {
    /// Answers of a call for tokens, the last one again and again.
    tokens: Mutex<Vec<Result<Vec<Value>, Named>>>,
    calls: Mutex<Vec<Ask>>,
    /// What the subscription to bundles gives: an error ends it.
    bundles: Mutex<Option<watch::Receiver<Result<JwtBundleSet, Named>>>>,
    /// Calls with this audience hang.
    hangs: Option<&'static str>,
    /// Tokens are not of the key that they name.
    forges: bool,
    /// Nothing comes on a stream of bundles after the first message.
    falls_silent: bool,
    certificates: Option<watch::Receiver<Vec<X509Svid>>>,
    roots: X509BundleSet,
}

#[derive(Clone, Default)]
struct Fake(Arc<Agent>);

impl Wire for Fake {
    fn place(&self) -> String {
        "socket /test".to_owned()
    }

    fn asked(&self, ask: &Ask) -> String {
        format!("SPIFFE ID {}, {}", ask.subject, self.place())
    }

    async fn tokens(&self, ask: &Ask) -> Result<Vec<SecretString>, Named> {
        self.0.calls.lock().unwrap().push(ask.clone());
        if self.0.hangs == Some(ask.audience.as_str()) {
            std::future::pending::<()>().await;
        }
        let mut answers = self.0.tokens.lock().unwrap();
        let answer = match answers.len() {
            1 => answers[0].clone(),
            _ => answers.remove(0),
        };
        let sign = if self.0.forges { forged } else { signed };
        answer.map(|all| all.iter().map(|claims| sign(claims).into()).collect())
    }

    async fn certificates(&self, _ask: &Ask) -> Result<Updates<Vec<X509Svid>>, Named> {
        match self.0.certificates.clone() {
            Some(news) => Ok(updates(news).map(Ok).boxed()),
            None => Ok(stream::pending().boxed()),
        }
    }

    async fn jwt_bundles(&self) -> Result<Updates<JwtBundleSet>, Named> {
        let Some(news) = self.0.bundles.lock().unwrap().clone() else {
            std::future::pending::<()>().await;
            return Err(Named::new(Code::SpireUnavailable, "unreachable"));
        };
        news.borrow().clone()?;
        Ok(match self.0.falls_silent {
            true => updates(news).take(1).chain(stream::pending()).boxed(),
            false => updates(news).boxed(),
        })
    }

    async fn x509_bundles(&self) -> Result<Updates<X509BundleSet>, Named> {
        Ok(stream::iter([Ok(self.0.roots.clone())]).boxed())
    }
}

/// What there is, and then each change.
fn updates<T: Clone + Send + Sync + 'static>(
    mut news: watch::Receiver<T>,
) -> impl futures::Stream<Item = T> + Send {
    news.mark_changed();
    stream::unfold(news, |mut news| async {
        news.changed().await.ok()?;
        let update = news.borrow_and_update().clone();
        Some((update, news))
    })
}

fn claims(subject: &str, life: i64) -> Value {
    let now = Timestamp::now().as_second();
    json!({"sub": subject, "aud": ["quay.test"], "iat": now, "exp": now + life})
}

fn good(claims: Vec<Value>) -> Result<Vec<Value>, Named> {
    Ok(claims)
}

fn refused(code: Code) -> Named {
    Named::new(code, "PermissionDenied: no identity issued")
}

/// An agent that answers so, and stands with SPIRE as `trust` says.
fn agent(
    tokens: Vec<Result<Vec<Value>, Named>>,
    trust: Result<JwtBundleSet, Named>,
) -> (Agent, watch::Sender<Result<JwtBundleSet, Named>>) {
    let (news, subscription) = watch::channel(trust);
    let agent = Agent {
        tokens: Mutex::new(tokens),
        bundles: Mutex::new(Some(subscription)),
        ..Agent::default()
    };
    (agent, news)
}

fn source(agent: Agent) -> (Spiffe<Fake>, Fake) {
    let wire = Fake(Arc::new(agent));
    (Spiffe::start(wire.clone(), None), wire)
}

async fn token(source: &Spiffe<Fake>, request: &IdentityRequest) -> Result<String, Named> {
    match source.identity(request).await {
        Ok(Svid::Token(token)) => Ok(token.token.expose_secret().to_owned()),
        Ok(Svid::Certificate(_)) => panic!("a certificate"),
        Err(error) => Err(Named::from(&error)),
    }
}

#[tokio::test(start_paused = true)]
async fn exactly_the_asked_identity_is_picked() {
    let mine = claims(SUBJECT, 600);
    let answer = vec![
        claims("spiffe://td/b", 600),
        claims("spiffe://td/a/b", 600),
        claims(SUBJECT, 300),
        mine.clone(),
    ];
    let (agent, _news) = agent(vec![good(answer)], Ok(bundles()));
    let (source, _) = source(agent);
    let found = token(&source, &request()).await.unwrap();
    let exp = Claims::read(&found).unwrap().expires_at().unwrap();
    assert_eq!(exp.as_second(), mine["exp"].as_i64().unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_told_apart() {
    let others = vec![claims("spiffe://td/c", 600), claims("spiffe://td/b", 600)];
    let nobody = || Err(refused(Code::IdentityNotRegistered));
    let stranger = || Err(refused(Code::SpireAgentNotRegistered));
    let check = async |answer, trust, code, detail: &str| {
        let (agent, _news) = agent(vec![answer], trust);
        let (source, _) = source(agent);
        let error = token(&source, &request()).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        for word in ["argocd/charts", SUBJECT, "socket /test", detail] {
            assert!(error.detail.contains(word), "{word}: {error}");
        }
    };
    let (not_issued, nothing) = (Code::SpiffeIdNotIssued, Code::IdentityNotRegistered);
    let issued = "issued were spiffe://td/b, spiffe://td/c";
    check(good(others), Ok(bundles()), not_issued, issued).await;
    check(good(Vec::new()), Ok(bundles()), nothing, "nothing").await;
    check(nobody(), Ok(bundles()), nothing, "no identity issued").await;
    // The same words, but the agent itself is the one who is not known.
    let own = Code::SpireAgentNotRegistered;
    check(nobody(), stranger(), own, "no identity issued").await;
    let own = || refused(Code::SpireNotADelegate);
    check(Err(own()), Err(own()), own().code, "Permission").await;
}

#[tokio::test(start_paused = true)]
async fn a_forged_token_is_refused_where_there_are_bundles() {
    let (mut wrong, _news) = agent(vec![good(vec![claims(SUBJECT, 600)])], Ok(bundles()));
    wrong.forges = true;
    let (it, _) = source(wrong);
    let error = token(&it, &request()).await.unwrap_err();
    assert_eq!(error.code, Code::IdentitySignatureInvalid, "{error}");
    // A SPIRE agent that never answers the subscription.
    let silent = Agent {
        tokens: Mutex::new(vec![good(vec![claims(SUBJECT, 600)])]),
        ..Agent::default()
    };
    let (it, _) = source(silent);
    assert!(token(&it, &request()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_waited_for_briefly() {
    let (agent, news) = agent(vec![good(vec![claims(SUBJECT, 600)])], Ok(old_bundles()));
    let (source, _) = source(agent);
    let started = Instant::now();
    let error = token(&source, &request()).await.unwrap_err();
    assert_eq!(error.code, Code::IdentitySignatureInvalid, "{error}");
    assert!(error.detail.contains("key `p256`"), "{error}");
    assert!(started.elapsed() >= BRIEFLY);
    let rotate = async {
        tokio::time::sleep(BRIEFLY / 2).await;
        let _ = news.send_replace(Ok(bundles()));
    };
    let request = request();
    let (found, ()) = tokio::join!(token(&source, &request), rotate);
    assert!(found.is_ok(), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_fell_silent_is_opened_anew() {
    let (mut agent, news) = agent(vec![good(vec![claims(SUBJECT, 600)])], Ok(old_bundles()));
    agent.falls_silent = true;
    let (source, _) = source(agent);
    source.shared.trust.standing().await;
    let _ = news.send_replace(Ok(bundles()));
    let started = Instant::now();
    let found = token(&source, &request()).await;
    assert!(found.is_ok(), "{found:?}");
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn bundles_stay_when_the_subscription_ends_and_come_again() {
    let (agent, news) = agent(vec![good(vec![claims(SUBJECT, 600)])], Ok(bundles()));
    let (source, _) = source(agent);
    let trust = &source.shared.trust;
    assert_eq!(trust.standing().await, Some(Ok(())));
    // SPIRE restarts: the stream ends, and the next ones cannot be opened.
    let absent = Named::new(Code::SpireAgentAbsent, "refused");
    let _ = news.send_replace(Err(absent.clone()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(trust.standing().await, Some(Err(absent)));
    assert!(trust.bundles(|_| true).await.is_some());
    // And comes back with a new key.
    let _ = news.send_replace(Ok(old_bundles()));
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(trust.standing().await, Some(Ok(())));
    let error = token(&source, &request()).await.unwrap_err();
    assert_eq!(error.code, Code::IdentitySignatureInvalid, "{error}");
}

#[tokio::test(start_paused = true)]
async fn no_token_is_trusted_because_spire_came_late() {
    let absent = Named::new(Code::SpireAgentAbsent, "refused");
    let (mut agent, news) = agent(vec![good(vec![claims(SUBJECT, 600)])], Err(absent));
    agent.forges = true;
    let (source, _) = source(agent);
    // Long enough for the longest wait between two subscriptions.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let _ = news.send_replace(Ok(bundles()));
    let error = token(&source, &request()).await.unwrap_err();
    assert_eq!(error.code, Code::IdentitySignatureInvalid, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_identity_keeps_no_other_waiting() {
    let (mut agent, _news) = agent(vec![good(vec![claims(SUBJECT, 600)])], Ok(bundles()));
    agent.hangs = Some("hangs.test");
    let (source, wire) = source(agent);
    let source = Arc::new(source);
    let hanging: Vec<_> = (0..100)
        .map(|project| {
            let (source, mut request) = (Arc::clone(&source), request());
            request.audience = "hangs.test".into();
            request.registration.project = Some(format!("p{project}"));
            tokio::spawn(async move { token(&source, &request).await })
        })
        .collect();
    let started = Instant::now();
    let prompt = (0..200).map(|project| {
        let (source, mut request) = (&source, request());
        request.registration.project = Some(format!("p{project}"));
        async move { token(source, &request).await }
    });
    let prompt = futures::future::join_all(prompt).await;
    assert!(prompt.iter().all(Result::is_ok), "{prompt:?}");
    assert!(started.elapsed() < BRIEFLY);
    for hanging in hanging {
        let error = hanging.await.unwrap().unwrap_err();
        assert_eq!(error.code, Code::SpireUnavailable, "{error}");
    }
    assert_eq!(started.elapsed().as_secs(), LONGEST_CALL.as_secs());
    assert_eq!(wire.0.calls.lock().unwrap().len(), 300);
}

#[tokio::test(start_paused = true)]
async fn the_same_identity_is_asked_for_once_and_told_to_each_binding() {
    let (agent, _news) = agent(
        vec![Err(refused(Code::IdentityNotRegistered))],
        Ok(bundles()),
    );
    let (source, wire) = source(agent);
    let (one, mut two) = (request(), request());
    two.binding.name = "other".into();
    let (one, two) = tokio::join!(token(&source, &one), token(&source, &two));
    assert_eq!(wire.0.calls.lock().unwrap().len(), 1);
    assert!(one.unwrap_err().detail.contains("argocd/charts"));
    assert!(two.unwrap_err().detail.contains("argocd/other"));
    // Another project's is another question, whatever its SPIFFE ID.
    let mut three = request();
    three.registration.project = Some("x".into());
    let again = request();
    let _ = tokio::join!(token(&source, &again), token(&source, &three));
    assert_eq!(wire.0.calls.lock().unwrap().len(), 3);
}

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn for_certificate() -> IdentityRequest {
    IdentityRequest {
        credential: CredentialKind::SpiffeCertificate,
        ..request()
    }
}

/// An agent that issues X.509-SVIDs, whatever is sent.
fn issuing(
    authority: &Authority,
    svids: Vec<X509Svid>,
) -> (Spiffe<Fake>, watch::Sender<Vec<X509Svid>>) {
    let (news, subscription) = watch::channel(svids);
    let (source, _) = source(Agent {
        certificates: Some(subscription),
        roots: authority.bundles(),
        ..Agent::default()
    });
    (source, news)
}

async fn certificate(source: &Spiffe<Fake>) -> Result<Timestamp, Code> {
    match source.identity(&for_certificate()).await {
        Ok(Svid::Certificate(certificate)) => Ok(certificate.expires_at),
        Ok(Svid::Token(_)) => panic!("a token"),
        Err(error) => Err(error.code()),
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_certificate_of_exactly_the_identity_is_picked() {
    let authority = Authority::new();
    let mine = authority.svid(SUBJECT, HOUR * 2);
    let (_, expected) = certificate::validity(&mine).unwrap();
    let other = authority.svid("spiffe://td/b", HOUR * 3);
    let (source, news) = issuing(
        &authority,
        vec![other.clone(), authority.svid(SUBJECT, HOUR), mine],
    );
    assert_eq!(certificate(&source).await, Ok(expected));
    news.send_replace(vec![other]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(certificate(&source).await, Err(Code::SpiffeIdNotIssued));
    let stranger = Authority::new();
    news.send_replace(vec![stranger.svid(SUBJECT, HOUR)]);
    let code = Err(Code::IdentitySignatureInvalid);
    assert_eq!(certificate(&source).await, code);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_not_there_yet_is_waited_for() {
    let authority = Authority::new();
    let (source, news) = issuing(&authority, Vec::new());
    let started = Instant::now();
    let code = Err(Code::IdentityNotRegistered);
    assert_eq!(certificate(&source).await, code);
    // And for the subscription, which might know better; it never answers here.
    assert_eq!(started.elapsed().as_secs(), 5 + BRIEFLY.as_secs());
    let register = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        news.send_replace(vec![authority.svid(SUBJECT, HOUR)]);
    };
    let (found, ()) = tokio::join!(certificate(&source), register);
    assert!(found.is_ok(), "{found:?}");
}
