//! A token server that trusts identities, the real distribution registry behind it, and the credential proxy on the way:
//! the identity goes to the realm, and a token for one repository to the registry.

use std::sync::Arc;
use std::time::Duration;

use agent::demand::Route;
use agent::exchange::Credential;
use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest;
use credential_proxy::ca::Ca;
use credential_proxy::environment::Environment;
use credential_proxy::forward::Proxy;
use credential_proxy::serve::serve;
use credential_proxy::sync::{Folders, Follower};
use credential_proxy::upstream::Upstream;
use harness::peers;
use harness::registry::{Registry, TokenAuth};
use harness::token_server::{ISSUER, TokenServer};
use harness::upstreams::{Issuer, Server, Upstreams};
use rustls::pki_types::CertificateDer;
use shared::allow_list::AllowList;
use shared::binding::ExchangeKind;
use shared::errors::Code;
use shared::proxy_view::{self, KeyHash, ProxyCredential};

use crate::case::{Case, SUBJECT};

const LIFE: Duration = Duration::from_secs(600);
const SERVICE: &str = "distribution";
const LAYER: &[u8] = b"a layer of prod's chart";

/// Registry, token server and issuer.
struct Scene {
    world: Upstreams,
    issuer: Issuer,
    server: TokenServer,
    host: String,
    _front: Server,
    _registry: Registry,
}

impl Scene {
    async fn start() -> Result<Self> {
        let world = Upstreams::new()?;
        let issuer = Issuer::start(&world).await?;
        let server =
            TokenServer::new(issuer.trusted(), "registry", SERVICE, &[(SUBJECT, "prod/")])?;
        let front = world.serve(&["localhost"], server.routes()).await?;
        let host = format!("localhost:{}", front.address.port());
        let auth = TokenAuth {
            // Nobody goes there: the Secret names the realm.
            realm: "https://elsewhere.example.test/token".into(),
            service: SERVICE.into(),
            issuer: ISSUER.into(),
            jwks: server.jwks().into(),
        };
        let peers = tokio::task::spawn_blocking(peers::registry).await??;
        let registry = Registry::start(&peers, &world.folder().join("registry"), &auth).await?;
        server.front(registry.url());
        for repository in ["prod/charts", "dev/charts"] {
            push(&registry, &server, repository).await?;
        }
        Ok(Self {
            world,
            issuer,
            server,
            host,
            _front: front,
            _registry: registry,
        })
    }

    fn case(&self) -> Case {
        let mut case = Case::new(
            ExchangeKind::Distribution,
            &self.host,
            &format!("{};private", self.host),
        );
        case.spec.exchange.auth_url = Some(format!("https://{}/token", self.host));
        case.spec.exchange.service = Some(SERVICE.into());
        case
    }

    /// A client whose only way is a credential proxy with this binding's credential.
    async fn proxied(&self, case: &Case, credential: Credential) -> Result<reqwest::Client> {
        let folder = |name: &str| {
            let path = self.world.folder().join(name);
            std::fs::create_dir_all(&path).map(|()| path)
        };
        let folders = Folders {
            view: folder("view")?,
            source: folder("source")?,
            tls_data: folder("tls")?,
        };
        let mut spec = case.spec.clone();
        let delivery = spec.proxy.as_mut().context("no proxy")?;
        delivery.key_sha256 = vec![KeyHash::of(b"key").to_hex()];
        let delivery = delivery.clone();
        let route = Route::of("prod", &spec, &delivery)?;
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(5);
        let credential = match credential {
            Credential::Bearer(token) => ProxyCredential::bearer(token, expires),
            Credential::Basic(it) => ProxyCredential::basic_auth(it.username, it.secret, expires),
            Credential::Certificate { .. } => anyhow::bail!("a certificate"),
        };
        let allowed = AllowList::parse(&format!("{};private", self.host))?;
        let document = route.document(allowed, Some(credential));
        std::fs::write(
            folders.view.join("prod.json"),
            proxy_view::render(&document)?,
        )?;
        let ca = Ca::open(&folder("state")?)?;
        let pem = ca.pem().to_owned();
        let (mut follower, followed) = Follower::new(folders, &pem, String::new());
        follower.round()?;
        let root = CertificateDer::from(self.world.authority.der().to_vec());
        let upstream = Upstream::new(Environment::default(), vec![root]);
        let proxy = Proxy::new(followed, ca, upstream, Duration::from_secs(3));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (stop, stopping) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            serve(Arc::new(proxy), listener, stopping, Duration::ZERO).await;
            drop((stop, follower));
        });
        Ok(reqwest::Client::builder()
            .proxy(reqwest::Proxy::all(format!("http://prod:key@{address}"))?)
            .tls_certs_only([reqwest::Certificate::from_pem(pem.as_bytes())?])
            .build()?)
    }

    async fn pull(&self, client: &reqwest::Client, repository: &str) -> Result<(u16, Vec<u8>)> {
        let url = format!(
            "https://{}/v2/{repository}/blobs/{}",
            self.host,
            name(LAYER)
        );
        let answer = client.get(url).send().await?;
        Ok((answer.status().as_u16(), answer.bytes().await?.to_vec()))
    }
}

fn name(content: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, content);
    let hex: String = hash
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

async fn push(registry: &Registry, server: &TokenServer, repository: &str) -> Result<()> {
    let token = server.token(repository, &["pull", "push"])?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{}/v2/{repository}/blobs/uploads/", registry.url());
    let begun = client.post(url).bearer_auth(&token).send().await?;
    let place = begun.headers()["location"].to_str()?.to_owned();
    let url = reqwest::Url::parse_with_params(&place, [("digest", name(LAYER))])?;
    let done = client
        .put(url)
        .bearer_auth(&token)
        .body(LAYER)
        .send()
        .await?;
    ensure!(done.status() == 201, "{}", done.status());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_realm_sees_the_identity_and_the_registry_a_token_for_one_repository() {
    let scene = Scene::start().await.unwrap();
    let identity = scene.issuer.token(SUBJECT, "registry", LIFE).unwrap();
    for (username, scheme) in [(None, "Bearer"), (Some("any"), "Basic")] {
        let mut case = scene.case();
        case.spec.exchange.username = username.map(Into::into);
        let fresh = case.run(&scene.world, &identity).await.unwrap();
        assert_eq!(fresh.expires_at, identity.expires_at);
        assert_eq!(scene.server.shown().pop(), Some(format!("{scheme} -")));

        let client = scene.proxied(&case, fresh.credential).await.unwrap();
        let (status, body) = scene.pull(&client, "prod/charts").await.unwrap();
        assert_eq!((status, body.as_slice()), (200, LAYER));
        let asked = format!("{scheme} repository:prod/charts:pull");
        assert_eq!(scene.server.shown().pop(), Some(asked));
        // Nothing of another project, whose path has no credential.
        let (status, _) = scene.pull(&client, "dev/charts").await.unwrap();
        assert_eq!(status, 401);
        // Of the project by its path, but not to the realm.
        let mut wide = case;
        wide.spec.target.address = format!("{}/dev", scene.host);
        let fresh = wide.run(&scene.world, &identity).await.unwrap();
        let client = scene.proxied(&wide, fresh.credential).await.unwrap();
        let (status, body) = scene.pull(&client, "dev/charts").await.unwrap();
        let words = String::from_utf8(body).unwrap();
        assert_eq!(status, 403, "{words}");
        assert!(
            words.starts_with("scope-empty") && words.contains("dev/charts"),
            "{words}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_that_does_not_know_the_identity_is_told_in_its_words() {
    let scene = Scene::start().await.unwrap();
    let elsewhere = scene.issuer.token(SUBJECT, "elsewhere", LIFE).unwrap();
    let unknown = scene
        .issuer
        .token("spiffe://example.org/x", "registry", LIFE)
        .unwrap();
    for (identity, words) in [
        (&elsewhere, "UNAUTHORIZED; invalid audience"),
        (&unknown, "UNAUTHORIZED; the subject is not known here"),
    ] {
        let error = scene
            .case()
            .run(&scene.world, identity)
            .await
            .unwrap_err()
            .error;
        assert_eq!(error.code, Code::ExchangeRejected, "{error}");
        let words = format!("registry token request failed with status 401: {words}");
        assert!(error.detail.contains(&words), "{error}");
    }
    let identity = scene.issuer.token(SUBJECT, "registry", LIFE).unwrap();
    let mut case = scene.case();
    case.spec.exchange.service = None;
    let error = case.run(&scene.world, &identity).await.unwrap_err().error;
    assert!(error.detail.contains("unknown service"), "{error}");
    case.spec.exchange.auth_url = Some("https://sso.example.test/token".into());
    let error = case.run(&scene.world, &identity).await.unwrap_err().error;
    assert_eq!(error.code, Code::HostNotAllowed);
}
