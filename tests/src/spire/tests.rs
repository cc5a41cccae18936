//! The stand-in's answers, by raw clients, against what SPIRE 1.15 answers in the same cases.

mod certificates;

use std::time::Duration;

use hyper_util::rt::TokioIo;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::Value;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::proto::{delegated, types, workload};
use super::*;
use certificates::{trusting, verify_client};

const PROJECT: &str = "spiffe://example.test/ns/argocd/sa/argocd-project-web";
const CATCH_ALL: &str = "spiffe://example.test/node/a";
const SELECTORS: [&str; 2] = ["k8s:ns:argocd", "k8s:sa:argocd-project-web"];

struct Scene {
    spire: Spire,
    delegate: DelegatedIdentityClient<Channel>,
    workload: SpiffeWorkloadApiClient<Channel>,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spire = Spire::start(folder.path(), "example.test").unwrap();
        spire.add(Entry::new(CATCH_ALL, &["k8s:ns:argocd"]));
        spire.add(Entry::new(PROJECT, &SELECTORS));
        Self {
            delegate: DelegatedIdentityClient::new(connect(spire.admin_socket())),
            workload: SpiffeWorkloadApiClient::new(connect(spire.workload_socket())),
            spire,
            _folder: folder,
        }
    }

    async fn tokens(&mut self, selectors: &[&str]) -> Result<Vec<types::JwtSvid>, Status> {
        let request = delegated::JwtSvidsRequest {
            audience: vec!["quay.test".into()],
            selectors: parse(selectors),
        };
        let answer = self.delegate.fetch_jwt_svids(request).await?;
        Ok(answer.into_inner().svids)
    }

    /// The project's token, wherever it is in the answer.
    async fn token(&mut self) -> String {
        let svids = self.tokens(&SELECTORS).await.unwrap();
        let project = |svid: &types::JwtSvid| svid.id.as_ref().unwrap().path.contains("project");
        svids.into_iter().find(project).unwrap().token
    }

    async fn certificates(&mut self) -> Streaming<delegated::X509SvidsResponse> {
        let request = delegated::X509SvidsRequest {
            selectors: parse(&SELECTORS),
        };
        let answer = self.delegate.subscribe_to_x509_svids(request).await;
        answer.unwrap().into_inner()
    }

    async fn own_token(&mut self, spiffe_id: &str) -> Result<Vec<workload::JwtSvid>, Status> {
        let request = workload::JwtSvidRequest {
            audience: vec!["quay.test".into()],
            spiffe_id: spiffe_id.into(),
        };
        let answer = self.workload.fetch_jwt_svid(with_header(request)).await?;
        Ok(answer.into_inner().svids)
    }

    fn issued_at(&self, token: &str) -> i64 {
        self.verify(token).unwrap()["iat"].as_i64().unwrap()
    }

    fn verify(&self, token: &str) -> jsonwebtoken::errors::Result<Value> {
        let header = decode_header(token)?;
        let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_value(self.spire.jwks()).unwrap();
        let key = jwks.find(&header.kid.unwrap()).expect("a published key");
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&["quay.test"]);
        Ok(decode(token, &DecodingKey::from_jwk(key)?, &validation)?.claims)
    }
}

/// Connects at the first call, and again after the agent's end.
fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://spire.test").connect_with_connector_lazy(connector)
}

fn parse(selectors: &[&str]) -> Vec<types::Selector> {
    let parse = |selector: &&str| {
        let (kind, value) = selector.split_once(':').unwrap();
        types::Selector {
            kind: kind.into(),
            value: value.into(),
        }
    };
    selectors.iter().map(parse).collect()
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, future).await.expect("in time")
}

fn denied(status: Status) -> String {
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    status.message().to_owned()
}

#[tokio::test]
async fn every_matching_entry_comes_back_in_any_order() {
    let mut scene = Scene::new().await;
    let first = scene.tokens(&SELECTORS).await.unwrap();
    let second = scene.tokens(&SELECTORS).await.unwrap();
    let paths = |svids: &[types::JwtSvid]| -> Vec<String> {
        let path = |svid: &types::JwtSvid| svid.id.clone().unwrap().path;
        svids.iter().map(path).collect()
    };
    let mut reversed = paths(&second);
    reversed.reverse();
    assert_eq!(paths(&first), reversed);
    assert_eq!(first[0].token, second[1].token, "cached");
    let claims = scene.verify(&first[1].token).unwrap();
    assert_eq!(claims["sub"], PROJECT);
    assert_eq!(claims["aud"], serde_json::json!(["quay.test"]));
    assert_eq!(claims["exp"], first[1].expires_at);
    assert_eq!(claims["iat"], first[1].issued_at);
    assert!(claims.get("iss").is_none() && claims["jti"].is_string());
    assert_eq!(first[1].expires_at - first[1].issued_at, 300);

    // More selectors than an entry's are a match, fewer are none.
    let svids = scene.tokens(&["k8s:ns:argocd", "k8s:sa:other"]).await;
    assert_eq!(paths(&svids.unwrap()), ["/node/a"]);
    let status = scene.tokens(&["k8s:sa:argocd-project-web"]).await;
    assert_eq!(denied(status.unwrap_err()), "no identity issued");
    scene.spire.remove(PROJECT);
    assert_eq!(scene.tokens(&SELECTORS).await.unwrap().len(), 1);

    let method = Method::DelegatedJwtSvids;
    assert_eq!(scene.spire.arrived(method), 5);
    assert_eq!(scene.spire.issued(method, PROJECT, "quay.test"), 2);
    let refused = scene.spire.count(|call| call.status != Code::Ok);
    assert_eq!(refused, 1);
}

#[tokio::test]
async fn refusals_are_those_of_spire() {
    let mut scene = Scene::new().await;
    for (caller, text) in [
        (Caller::Unregistered, "no identity issued"),
        (
            Caller::Registered,
            "caller not configured as an authorized delegate",
        ),
    ] {
        scene.spire.set_caller(caller);
        let status = scene.tokens(&SELECTORS).await.unwrap_err();
        assert_eq!(denied(status), text);
        let request = delegated::JwtBundlesRequest {};
        let status = scene.delegate.subscribe_to_jwt_bundles(request).await;
        assert_eq!(denied(status.unwrap_err()), text);
    }
    scene.spire.set_caller(Caller::Delegate);
    for selectors in [&[][..], &[":value"], &["k8s:"]] {
        let status = scene.tokens(selectors).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{selectors:?}");
    }
    let request = delegated::JwtSvidsRequest {
        audience: Vec::new(),
        selectors: parse(&SELECTORS),
    };
    let status = scene.delegate.fetch_jwt_svids(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);

    let one = Scope::SpiffeId(CATCH_ALL.into());
    let fault = Fault::Refuse(Code::Unavailable, "could not fetch JWT-SVID");
    scene.spire.fail(one.clone(), fault);
    let status = scene.tokens(&SELECTORS).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "one fails the whole call");
    scene.spire.heal(&one);
    scene.tokens(&SELECTORS).await.unwrap();

    scene.spire.set_server_reachable(false);
    scene.tokens(&SELECTORS).await.expect("cached");
    scene.spire.renew();
    let status = scene.tokens(&SELECTORS).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn cached_tokens_age_and_are_renewed_lazily() {
    let mut scene = Scene::new().await;
    scene.spire.age_first(0.55);
    scene.spire.renew_after(1.0);
    let old = scene.token().await;
    assert_eq!(scene.token().await, old);
    let first = scene.issued_at(&old);
    scene.spire.renew_after(0.5);
    let renewed = scene.token().await;
    let age = scene.issued_at(&renewed) - first;
    assert!((165..175).contains(&age), "{age}");

    scene.spire.age_first(0.0);
    scene.spire.set_clock_offset(SignedDuration::from_mins(5));
    let token = scene.token().await;
    let ahead = scene.issued_at(&token) - scene.issued_at(&renewed);
    assert!((300..310).contains(&ahead), "{ahead}");
}

#[tokio::test]
async fn tokens_are_wrong_only_when_they_are_forged() {
    let mut scene = Scene::new().await;
    scene.spire.set_issuer(Some("https://issuer.test"));
    let token = scene.token().await;
    assert_eq!(scene.verify(&token).unwrap()["iss"], "https://issuer.test");
    for forgery in [
        Forgery::Signature,
        Forgery::Audience("other.test".into()),
        Forgery::Expired,
    ] {
        scene.spire.forge(Some(forgery.clone()));
        let token = scene.token().await;
        assert!(scene.verify(&token).is_err(), "{forgery:?}");
    }
    scene.spire.forge(Some(Forgery::Subject(CATCH_ALL.into())));
    let token = scene.token().await;
    assert_eq!(scene.verify(&token).unwrap()["sub"], CATCH_ALL);
    scene.spire.forge(Some(Forgery::UnknownKey));
    let kid = decode_header(scene.token().await).unwrap().kid.unwrap();
    assert!(!scene.spire.jwks().to_string().contains(&kid));

    scene.spire.forge(None);
    scene.spire.rotate_jwt_key(KeyType::EcP256).unwrap();
    let token = scene.token().await;
    assert_eq!(
        decode_header(&token).unwrap().alg,
        jsonwebtoken::Algorithm::ES256
    );
    scene.verify(&token).unwrap();
}

#[tokio::test]
async fn bundles_have_every_trust_domain_and_every_key() {
    let mut scene = Scene::new().await;
    let request = delegated::JwtBundlesRequest {};
    let stream = scene.delegate.subscribe_to_jwt_bundles(request).await;
    let mut stream = stream.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().bundles;
    let keys = |bundle: &[u8]| {
        let document: Value = serde_json::from_slice(bundle).unwrap();
        document["keys"].as_array().unwrap().clone()
    };
    assert_eq!(first.keys().collect::<Vec<_>>(), ["spiffe://example.test"]);
    let [key] = &keys(&first["spiffe://example.test"])[..] else {
        panic!("one key");
    };
    assert_eq!((&key["kty"], key.get("alg")), (&"RSA".into(), None));
    scene.spire.rotate_jwt_key(KeyType::EcP256).unwrap();
    let second = soon(stream.message()).await.unwrap().unwrap().bundles;
    assert_eq!(keys(&second["spiffe://example.test"]).len(), 2);
    scene.spire.federate("other.test").unwrap();
    let third = soon(stream.message()).await.unwrap().unwrap().bundles;
    assert!(third.contains_key("spiffe://other.test"));

    let request = delegated::X509BundlesRequest {};
    let stream = scene.delegate.subscribe_to_x509_bundles(request).await;
    let bundles = stream.unwrap().into_inner().message().await.unwrap();
    let bundles = bundles.unwrap().ca_certificates;
    let own = scene.spire.x509_bundle().concat();
    assert_eq!(bundles["spiffe://example.test"], own);
    assert_eq!(bundles.len(), 2);
}

#[tokio::test]
async fn the_workload_api_knows_its_caller_and_filters() {
    let mut scene = Scene::new().await;
    let status = scene.own_token(PROJECT).await.unwrap_err();
    assert_eq!(denied(status), "no identity issued");
    let request = with_header(workload::X509SvidRequest {});
    let stream = scene.workload.fetch_x509_svid(request).await.unwrap();
    let status = stream.into_inner().message().await.unwrap_err();
    assert_eq!(denied(status), "no identity issued");

    scene.spire.set_workload(&SELECTORS);
    let svids = scene.own_token(PROJECT).await.unwrap();
    assert_eq!(svids.len(), 1);
    assert_eq!(scene.verify(&svids[0].svid).unwrap()["sub"], PROJECT);
    assert_eq!(scene.own_token("").await.unwrap().len(), 2);
    let status = scene.own_token("spiffe://example.test/other").await;
    assert_eq!(denied(status.unwrap_err()), "no identity issued");
    let request = workload::JwtSvidRequest {
        audience: vec!["quay.test".into()],
        spiffe_id: PROJECT.into(),
    };
    let status = scene.workload.fetch_jwt_svid(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "without the header");

    let request = with_header(workload::X509SvidRequest {});
    let stream = scene.workload.fetch_x509_svid(request).await.unwrap();
    let svids = stream.into_inner().message().await.unwrap().unwrap().svids;
    let svid = svids.iter().find(|it| it.spiffe_id == PROJECT).unwrap();
    let roots = trusting(std::slice::from_ref(&svid.bundle));
    let chain = [svid.x509_svid.clone()];
    verify_client(&roots, &chain, &svid.x509_svid_key).unwrap();
    let request = with_header(workload::JwtBundlesRequest {});
    let stream = scene.workload.fetch_jwt_bundles(request).await.unwrap();
    let bundles = stream.into_inner().message().await.unwrap().unwrap();
    assert!(bundles.bundles.contains_key("spiffe://example.test"));
    let request = with_header(workload::X509BundlesRequest {});
    let stream = scene.workload.fetch_x509_bundles(request).await.unwrap();
    let bundles = stream.into_inner().message().await.unwrap().unwrap();
    assert_eq!(bundles.bundles["spiffe://example.test"], svid.bundle);
}

#[tokio::test]
async fn an_agent_that_ends_breaks_its_streams_and_comes_back() {
    let mut scene = Scene::new().await;
    let before = scene.token().await;
    let mut stream = scene.certificates().await;
    stream.message().await.unwrap().unwrap();
    scene.spire.stop();
    assert!(!scene.spire.admin_socket().exists());
    assert!(soon(stream.message()).await.is_err());
    scene.tokens(&SELECTORS).await.expect_err("stopped");
    scene.spire.resume().unwrap();
    assert_ne!(scene.token().await, before, "nothing cached");
    scene.spire.kill();
    assert!(scene.spire.admin_socket().exists());
    scene.tokens(&SELECTORS).await.expect_err("killed");
    scene.spire.resume().unwrap();

    let hang = Scope::SpiffeId(PROJECT.into());
    scene.spire.fail(hang.clone(), Fault::Hang);
    let mut other = DelegatedIdentityClient::new(connect(scene.spire.admin_socket()));
    let request = delegated::JwtSvidsRequest {
        audience: vec!["quay.test".into()],
        selectors: parse(&SELECTORS),
    };
    let hung = tokio::spawn(async move { other.fetch_jwt_svids(request).await });
    let method = Method::DelegatedJwtSvids;
    let arrived = |spire: &Spire| spire.arrived(method) == 3;
    scene.spire.until("a call", arrived).await.unwrap();
    let svids = scene.tokens(&["k8s:ns:argocd"]).await.unwrap();
    assert_eq!(svids.len(), 1, "others are served");
    assert!(!hung.is_finished());
    scene.spire.heal(&hang);
    soon(hung).await.unwrap().unwrap();
}
