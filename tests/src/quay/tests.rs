//! The stand-in's answers, each as documented, against an issuer with real keys and TLS.

use axum::Json;
use axum::http::HeaderValue;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

use super::*;
use crate::control_plane::Authority;

const SUBJECT: &str = "spiffe://td.example.test/ns/argocd/sa/argocd-global";
const ROBOT: &str = "prod+argocd";

/// A stand-in without its registry, and an issuer that its robots trust.
struct World {
    state: Arc<State>,
    issuer: String,
    rsa: EncodingKey,
    ec: EncodingKey,
    server: Handle<SocketAddr>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.shutdown();
    }
}

impl World {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = Authority::new("test").unwrap();
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let rsa = EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap();
        let ec = EncodingKey::from_ec_der(&KeyPair::generate().unwrap().serialize_der());
        let keys = [
            ("rsa", &rsa, Algorithm::RS256),
            ("ec", &ec, Algorithm::ES256),
        ]
        .map(|(id, key, algorithm)| {
            let mut key = Jwk::from_encoding_key(key, algorithm).unwrap();
            key.common.key_id = Some(id.to_owned());
            key
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let issuer = format!("https://issuer.example.test:{port}");
        let discovery = json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") });
        let router = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(async move || Json(discovery)),
            )
            .route("/keys", get(async move || Json(json!({ "keys": keys }))));
        let leaf = authority.issue(&["issuer.example.test"]).unwrap();
        let tls = RustlsConfig::from_pem(leaf.certificate.into(), leaf.key.into())
            .await
            .unwrap();
        let server = Handle::new();
        tokio::spawn(
            axum_server::from_tcp_rustls(listener, tls)
                .unwrap()
                .handle(server.clone())
                .serve(router.into_make_service()),
        );

        let state = Arc::new(State {
            service: "quay.example.test:1".into(),
            registry: String::new(),
            robots: Mutex::default(),
            lifetimes: Mutex::default(),
            robot_key: Mutex::new(Arc::new(SigningKey::generate("robots-1").unwrap())),
            registry_key: SigningKey::generate("registry").unwrap(),
            journal: Journal::default(),
            issuers: issuer_client(authority.pem(), Ipv4Addr::LOCALHOST).unwrap(),
            upstream: client().build().unwrap(),
        });
        let world = Self {
            state,
            issuer,
            rsa,
            ec,
            server,
        };
        world.add(Robot::federated(ROBOT, &world.issuer, SUBJECT, &["prod/"]));
        world.add(Robot::publisher("prod+publisher", "secret", &["prod/"]));
        world
    }

    fn add(&self, robot: Robot) {
        lock(&self.state.robots).insert(robot.name.clone(), robot);
    }

    fn token(&self, change: impl FnOnce(&mut Header, &mut Value)) -> String {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some("rsa".into());
        let mut claims = json!({
            "iss": self.issuer,
            "sub": SUBJECT,
            "aud": "whatever: Quay does not look at it",
            "exp": Timestamp::now().as_second() + 60,
        });
        change(&mut header, &mut claims);
        let key = if header.alg == Algorithm::ES256 {
            &self.ec
        } else {
            &self.rsa
        };
        encode(&header, &claims, key).unwrap()
    }

    async fn exchange(&self, authorization: Option<String>) -> (u16, Value) {
        body(federation::token(&self.state, &headers(authorization)).await).await
    }

    async fn registry_token(&self, authorization: Option<String>, scope: &str) -> (u16, Value) {
        let query = [("scope".to_owned(), scope.to_owned())];
        body(auth::token(&self.state, &headers(authorization), &query)).await
    }
}

fn headers(authorization: Option<String>) -> HeaderMap {
    let value = authorization.map(|text| HeaderValue::from_str(&text).unwrap());
    value
        .map(|value| (AUTHORIZATION, value))
        .into_iter()
        .collect()
}

fn login(user: &str, password: &str) -> Option<String> {
    Some(format!(
        "Basic {}",
        STANDARD.encode(format!("{user}:{password}"))
    ))
}

async fn body(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 64 * 1024)
        .await
        .unwrap();
    (status, serde_json::from_slice(&bytes).unwrap())
}

fn access(token: &Value) -> Value {
    let token = token["token"].as_str().unwrap();
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(token).unwrap();
    claims["access"].clone()
}

#[tokio::test]
async fn the_callers_form_is_refused_with_401() {
    let world = World::new().await;
    let token = world.token(|_, _| {});
    for (authorization, text) in [
        (None, "No auth header"),
        (Some("Basic".to_owned()), "Invalid basic auth header"),
        (Some(format!("Bearer {token}")), "Invalid basic auth header"),
        (
            Some("Basic ???".to_owned()),
            "Could not parse basic auth header",
        ),
        (
            Some(format!("Basic {}", STANDARD.encode("no colon"))),
            "Could not parse basic auth header",
        ),
        (login("argocd", &token), "Invalid robot"),
    ] {
        assert_eq!(
            world.exchange(authorization).await,
            (401, json!({ "error": text }))
        );
    }
}

#[tokio::test]
async fn what_the_robot_does_not_trust_is_refused_with_400() {
    let world = World::new().await;
    let elsewhere = |_: &mut Header, claims: &mut Value| claims["iss"] = json!("https://elsewhere");
    let cases = [
        (
            "prod+nobody",
            world.token(|_, _| {}),
            "Could not find robot with specified username",
        ),
        (
            "prod+publisher",
            world.token(|_, _| {}),
            "Robot does not have federated login configured",
        ),
        (
            ROBOT,
            world.token(|_, claims| claims["iss"] = Value::Null),
            "Token does not contain issuer",
        ),
        (
            ROBOT,
            world.token(elsewhere),
            "issuer https://elsewhere not configured for this robot",
        ),
        (
            ROBOT,
            world.token(|_, claims| claims["sub"] = json!("spiffe://x")),
            "Token does not match robot",
        ),
    ];
    for (robot, token, text) in cases {
        assert_eq!(
            world.exchange(login(robot, &token)).await,
            (400, json!({ "message": text }))
        );
    }
    let expired = world.token(|_, claims| claims["exp"] = json!(Timestamp::now().as_second() - 1));
    let mut forged = world.token(|_, _| {});
    forged.truncate(forged.len() - 8);
    forged.push_str("AAAAAAAA");
    for token in [expired, forged] {
        let (status, answer) = world.exchange(login(ROBOT, &token)).await;
        let message = answer["message"].as_str().unwrap();
        assert!(
            status == 400 && message.starts_with("Invalid token: "),
            "{status} {message}"
        );
    }
}

#[tokio::test]
async fn what_quay_cannot_process_is_500() {
    let world = World::new().await;
    let unreachable = Robot::federated("prod+far", "https://issuer.example.test:1", SUBJECT, &[]);
    world.add(unreachable);
    let far = world.token(|_, claims| claims["iss"] = json!("https://issuer.example.test:1"));
    let ec = world.token(|header, _| {
        header.alg = Algorithm::ES256;
        header.kid = Some("ec".into());
    });
    let unknown_key = world.token(|header, _| header.kid = Some("gone".into()));
    for (robot, token) in [
        (ROBOT, "not.a.jwt".to_owned()),
        (ROBOT, "nothing".to_owned()),
        (ROBOT, ec),
        (ROBOT, unknown_key),
        ("prod+far", far),
    ] {
        assert_eq!(world.exchange(login(robot, &token)).await.0, 500, "{token}");
    }
}

#[tokio::test]
async fn an_exchanged_token_pulls_what_the_robot_may_and_no_more() {
    let world = World::new().await;
    let svid = world.token(|_, _| {});
    let (status, answer) = world.exchange(login(ROBOT, &svid)).await;
    assert_eq!(status, 200);
    let password = answer["token"].as_str().unwrap().to_owned();

    let scope = "repository:prod/charts/demo:pull,push repository:staging/x:pull";
    let (status, answer) = world.registry_token(login(ROBOT, &password), scope).await;
    assert_eq!(status, 200);
    assert_eq!(
        access(&answer),
        json!([{ "type": "repository", "name": "prod/charts/demo", "actions": ["pull"] }])
    );

    // Nobody: a token, but for nothing.
    let (status, answer) = world.registry_token(None, scope).await;
    assert_eq!((status, access(&answer)), (200, json!([])));

    // The exchange left out, or a token from before a key rotation.
    let unknown = (500, json!({ "message": "Unknown service key" }));
    assert_eq!(
        world.registry_token(login(ROBOT, &svid), scope).await,
        unknown
    );
    *lock(&world.state.robot_key) = Arc::new(SigningKey::generate("robots-2").unwrap());
    assert_eq!(
        world.registry_token(login(ROBOT, &password), scope).await,
        unknown
    );
}

#[tokio::test]
async fn wrong_foreign_and_expired_passwords_are_401() {
    let world = World::new().await;
    let key = world.state.robot_key();
    let service = &world.state.service;
    let minute = Duration::from_secs(60);
    let foreign = key.robot_token(service, "prod+other", minute).unwrap();
    let expired = key.robot_token(service, ROBOT, Duration::ZERO).unwrap();
    for (robot, password) in [
        ("prod+publisher", "wrong"),
        ("prod+nobody", "secret"),
        (ROBOT, foreign.as_str()),
        (ROBOT, expired.as_str()),
    ] {
        let answer = world.registry_token(login(robot, password), "").await;
        assert_eq!(answer.0, 401, "{robot} {password}");
    }
}

#[test]
fn a_failure_hits_as_often_as_it_should() {
    let journal = Journal::default();
    let twice = Failure {
        status: Some(StatusCode::BAD_GATEWAY),
        times: Some(2),
        ..Failure::default()
    };
    journal.inject(Endpoint::Auth, twice);
    assert!(journal.take_failure(Endpoint::Federation).is_none());
    assert!(journal.take_failure(Endpoint::Auth).is_some());
    assert!(journal.take_failure(Endpoint::Auth).is_some());
    assert!(journal.take_failure(Endpoint::Auth).is_none());
    journal.inject(
        Endpoint::Auth,
        Failure {
            times: None,
            ..twice
        },
    );
    journal.heal(Endpoint::Auth);
    assert!(journal.take_failure(Endpoint::Auth).is_none());
}
