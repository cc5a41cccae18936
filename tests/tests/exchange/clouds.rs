//! What the tests of Google Cloud and Azure share.

use std::time::Duration;

use agent::demand::Key;
use agent::docker_config::BasicCredential;
use agent::exchange::http::{Outlet, Upstream};
use agent::exchange::{Credential, Trade, exchange};
use agent::identity::{IdentityToken, Svid};
use agent::refresh::{Failure, Fresh};
use axum::http::StatusCode;
use harness::chart::Chart;
use harness::cloud::{Cloud, Prescribed, Services};
use harness::peers;
use harness::upstreams::{Issuer, Server, Upstreams};
use jiff::Timestamp;
use reqwest::Method;
use reqwest::header::WWW_AUTHENTICATE;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use shared::binding::{CredentialKind, Exchange};
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

use crate::case::Case;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// The subjects of both kinds of identities.
pub(crate) const SUBJECTS: [(CredentialKind, &str); 2] = [
    (
        CredentialKind::ServiceAccountToken,
        "system:serviceaccount:argocd:argocd-global",
    ),
    (
        CredentialKind::SpiffeJWT,
        "spiffe://example.org/ns/argocd/sa/argocd-global",
    ),
];

/// An issuer, and a registry whose cloud finds its keys.
pub(crate) struct Bench {
    pub(crate) world: Upstreams,
    pub(crate) issuer: Issuer,
    pub(crate) host: RegistryHost,
    /// The hosts of the cloud's token services.
    services: Vec<&'static str>,
    _server: Server,
}

impl Bench {
    /// Puts a cloud into a world.
    pub(crate) async fn new(
        world: Upstreams,
        cloud: &Cloud,
        services: Services,
        (token_services, host): (&[&'static str], &str),
    ) -> Self {
        let issuer = Issuer::start(&world).await.unwrap();
        cloud.add_issuer(&Issuer::url(), Some(issuer.keys()));
        Self {
            _server: services.join(&world).await.unwrap(),
            world,
            issuer,
            host: RegistryHost::parse(host).unwrap(),
            services: token_services.to_vec(),
        }
    }

    /// The list with the token services only.
    pub(crate) fn services(&self) -> String {
        let listed = self.services.iter().map(|host| format!("{host};private"));
        listed.collect::<Vec<_>>().join(",")
    }

    /// The list with all hosts.
    pub(crate) fn allowed(&self) -> String {
        format!("{},{};private", self.services(), self.host)
    }

    /// Carries out a trade under a list.
    pub(crate) async fn ask(
        &self,
        allowed: &str,
        trade: Trade,
        token: IdentityToken,
    ) -> Result<(BasicCredential, Timestamp), Failure> {
        let upstream = self.world.upstream(allowed).unwrap();
        let (kind, _) = SUBJECTS[0];
        let fresh = carry_out(&upstream, trade, kind, token).await?;
        let expires_at = fresh.expires_at;
        Ok((basic(fresh), expires_at))
    }

    /// How a trade fails: without a part of the token, and without what a cloud's own tokens begin with.
    pub(crate) async fn refusal(&self, trade: Trade, token: IdentityToken) -> Failure {
        let shown = token.clone();
        let asked = self.ask(&self.allowed(), trade, token).await;
        let failure = asked.unwrap_err();
        let error = &failure.error;
        assert_without(&shown, &error.to_string());
        for secret in ["ya29", "entra."] {
            assert!(!error.detail.contains(secret), "{error}");
        }
        failure
    }

    /// A token that has expired.
    pub(crate) fn expired(&self, subject: &str, audience: &str) -> IdentityToken {
        let now = Timestamp::now();
        let claims = json!({
            "iss": Issuer::url(),
            "sub": subject,
            "aud": [audience],
            "iat": now.as_second() - 60,
            "exp": now.as_second() - 1,
        });
        IdentityToken {
            token: self.issuer.sign(&claims).unwrap().into(),
            expires_at: now,
        }
    }

    /// How a trade fails when `endpoint` answers each of these with status 200.
    pub(crate) async fn unreadable(
        &self,
        cloud: &Cloud,
        endpoint: &'static str,
        (trade, token): (Trade, IdentityToken),
        bodies: &[Value],
    ) -> Vec<Named> {
        let mut errors = Vec::new();
        for body in bodies {
            cloud.prescribe(endpoint, prescribed(200, body));
            let error = self.refusal(trade.clone(), token.clone()).await.error;
            assert_eq!(error.code, Code::ExchangeUnreadable, "{endpoint} {body}");
            errors.push(error);
        }
        errors
    }

    /// Lets `endpoint` be out of order in each way, and asks for the names that these have.
    pub(crate) async fn outages(
        &self,
        cloud: &Cloud,
        endpoint: &'static str,
        (trade, token): (Trade, IdentityToken),
    ) {
        for (status, code) in [
            (429, Code::ExchangeThrottled),
            (500, Code::ExchangeUnreachable),
            (503, Code::ExchangeUnreachable),
        ] {
            let answer = Prescribed {
                retry_after: Some(17),
                ..prescribed(status, &json!({"error": {"message": "later"}}))
            };
            cloud.prescribe(endpoint, answer);
            let failure = self.refusal(trade.clone(), token.clone()).await;
            assert_eq!(failure.error.code, code, "{endpoint} {status}");
            assert_eq!(failure.retry_after, Some(Duration::from_secs(17)));
        }
    }
}

/// The places in the journal that were asked, in order.
pub(crate) fn endpoints(cloud: &Cloud) -> Vec<&'static str> {
    let requests = cloud.requests();
    requests.iter().map(|request| request.endpoint).collect()
}

/// Puts the chart `demo` into a folder of the registry.
pub(crate) fn publish(cloud: &Cloud, folder: &str) {
    let chart = Chart {
        name: "demo",
        version: "1.0.0",
        message: "of a cloud",
    };
    let helm = peers::helm().unwrap();
    cloud.push(&helm, &chart, folder).unwrap();
}

/// The trade of a binding with these parameters, whose identity has `audience`.
pub(crate) fn trade(parameters: Exchange, audience: &str, host: &RegistryHost) -> Trade {
    let mut case = Case::new(parameters.kind, host.as_str(), "");
    case.spec.exchange = parameters;
    case.spec.identity.audience = audience.to_owned();
    Trade::of(&case.spec, host).unwrap().unwrap()
}

/// Carries out a trade as the agent does.
pub(crate) async fn carry_out(
    upstream: &Upstream,
    trade: Trade,
    credential: CredentialKind,
    identity: IdentityToken,
) -> Result<Fresh<Credential>, Failure> {
    let key = Key {
        namespace: "argocd".into(),
        project: None,
        credential,
        subject: "not looked at".into(),
        service_account: "argocd-global".into(),
        audience: "not looked at".into(),
        trade: Some(trade),
    };
    exchange(upstream, &key, Svid::Token(identity)).await
}

pub(crate) fn basic(fresh: Fresh<Credential>) -> BasicCredential {
    match fresh.credential {
        Credential::Basic(basic) => basic,
        other => panic!("not basic: {other:?}"),
    }
}

/// Logs in at the registry as clients do, by its challenge, and returns the status of a repository's manifest 1.0.0.
pub(crate) async fn pull(
    outlet: &Outlet,
    host: &RegistryHost,
    repository: &str,
    login: &BasicCredential,
) -> u16 {
    let url = format!("https://{host}/v2/{repository}/manifests/1.0.0");
    let manifest = || {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        outlet
            .request(Method::GET, &url)
            .unwrap()
            .header("accept", media_type)
    };
    let refused = outlet.send(manifest()).await.unwrap();
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let challenge = refused.headers[WWW_AUTHENTICATE].to_str().unwrap();
    let part = |name: &str| {
        let (_, rest) = challenge.split_once(&format!("{name}=\"")).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let realm = outlet
        .request(Method::GET, &part("realm"))
        .unwrap()
        .query(&[("service", part("service")), ("scope", part("scope"))])
        .basic_auth(&login.username, Some(login.secret.expose_secret()));
    let answer = outlet.send(realm).await.unwrap();
    if answer.status != StatusCode::OK {
        return answer.status.as_u16();
    }
    let body: Value = answer.json().unwrap();
    let token = [&body["token"], &body["access_token"]];
    let token = token.into_iter().find_map(Value::as_str).unwrap();
    let answer = outlet.send(manifest().bearer_auth(token)).await.unwrap();
    answer.status.as_u16()
}

pub(crate) fn prescribed(status: u16, body: &Value) -> Prescribed {
    Prescribed {
        status: StatusCode::from_u16(status).unwrap(),
        retry_after: None,
        body: body.to_string(),
    }
}

/// Panics where a text has a part of the token.
pub(crate) fn assert_without(token: &IdentityToken, text: &str) {
    for part in token.token.expose_secret().split('.') {
        assert!(!text.contains(part), "{text}");
    }
}
