//! Which credential reaches which server.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use shared::allow_list::AllowList;
use shared::binding::ProxyKind;

use crate::world::{Authority, Seen, Server, World, basic, binding, get, text};

fn unauthorized(challenge: &str) -> http::Response<credential_proxy::Body> {
    let mut response = text(401, "challenge");
    let value = challenge.parse().unwrap();
    response.headers_mut().insert("www-authenticate", value);
    response
}

fn authorizations(server: &Server) -> Vec<Option<String>> {
    server
        .seen()
        .into_iter()
        .map(|it| it.authorization)
        .collect()
}

#[tokio::test]
async fn each_projects_robot_reaches_the_registry_and_no_other() {
    let authority = Authority::new();
    let server = Server::start(&authority, |seen| match &seen.authorization {
        None => unauthorized("Basic realm=\"r\""),
        Some(_) => text(200, "manifest"),
    })
    .await;
    let target = server.at("localhost");
    let world = World::start(
        &authority,
        &[binding("a", &target, "a"), binding("b", &target, "b")],
    )
    .await;
    for name in ["a", "b"] {
        for _ in 0..2 {
            let answer = world
                .get(&target, name, &format!("/v2/{name}/x/manifests/1"))
                .await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "manifest"));
        }
    }
    // A learned challenge is answered at once; the client's own never passes.
    let (a, b) = (Some(basic("a")), Some(basic("b")));
    let expected = [None, a.clone(), a.clone(), None, b.clone(), b];
    assert_eq!(authorizations(&server), expected);

    // Another project's path passes without our credential.
    let answer = world.get(&target, "a", "/v2/b/x/manifests/1").await;
    assert_eq!(answer.status, 200);
    let last = server.seen().pop().unwrap();
    assert_eq!(last.authorization.as_deref(), Some("Basic inherited"));
    assert!(!last.headers.contains_key("proxy-authorization"));
}

/// A registry with a realm of its own; the n-th token is `token-<n>`, and a
/// token is good while `good` says so.
async fn registry(authority: &Authority, good: Arc<AtomicUsize>) -> Server {
    let issued = AtomicUsize::new(0);
    Server::start(authority, move |seen: &Seen| {
        let host = seen.headers["host"].to_str().unwrap();
        if seen.path.starts_with("/token?") {
            let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
            return text(200, &format!("{{\"token\":\"token-{number}\",\"expires_in\":300}}"));
        }
        let good = format!("Bearer token-{}", good.load(Ordering::SeqCst));
        if seen.authorization.as_ref() == Some(&good) {
            return text(200, "manifest");
        }
        unauthorized(&format!(
            "Bearer realm=\"https://{host}/token\",service=\"registry\",scope=\"repository:other:push\""
        ))
    })
    .await
}

#[tokio::test]
async fn tokens_are_fetched_cached_and_renewed_once_on_401() {
    let authority = Authority::new();
    let good = Arc::new(AtomicUsize::new(1));
    let server = registry(&authority, good.clone()).await;
    let target = server.at("localhost");
    let world = World::start(&authority, &[binding("a", &target, "a")]).await;
    let pull = || world.get(&target, "a", "/v2/a/x/manifests/1");
    let paths = |server: &Server| -> Vec<(String, Option<String>)> {
        let seen = server.seen().into_iter();
        seen.map(|it| (it.path, it.authorization)).collect()
    };
    let manifest = |token: Option<&str>| {
        let authorization = token.map(|token| format!("Bearer {token}"));
        ("/v2/a/x/manifests/1".to_owned(), authorization)
    };
    let realm = || {
        let query = "service=registry&scope=repository%3Aa%2Fx%3Apull";
        (format!("/token?{query}"), Some(basic("a")))
    };

    let answer = pull().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "manifest"));
    assert_eq!(pull().await.status, 200);
    let mut expected = vec![
        manifest(None),
        realm(),
        manifest(Some("token-1")),
        manifest(Some("token-1")),
    ];
    assert_eq!(paths(&server), expected);

    good.store(2, Ordering::SeqCst);
    assert_eq!(pull().await.status, 200);
    expected.extend([
        manifest(Some("token-1")),
        realm(),
        manifest(Some("token-2")),
    ]);
    assert_eq!(paths(&server), expected);

    // A registry that refuses every token is asked twice, not for ever, and
    // its challenge is not the client's to answer.
    good.store(99, Ordering::SeqCst);
    let answer = pull().await;
    assert!(answer.body.starts_with("registry-refused"), "{answer:?}");
    assert_eq!(answer.status, 403);
    assert!(!answer.headers.contains_key("www-authenticate"));
    expected.extend([
        manifest(Some("token-2")),
        realm(),
        manifest(Some("token-3")),
    ]);
    assert_eq!(paths(&server), expected);

    // What was refused is forgotten.
    assert_eq!(pull().await.status, 403);
    expected.extend([manifest(None), realm(), manifest(Some("token-4"))]);
    assert_eq!(paths(&server), expected);
}

#[tokio::test]
async fn requests_that_need_the_same_token_share_one_fetch() {
    let authority = Authority::new();
    let server = registry(&authority, Arc::new(AtomicUsize::new(1))).await;
    let target = server.at("localhost");
    let world = World::start(&authority, &[binding("a", &target, "a")]).await;
    let mut pulls = Vec::new();
    let world = Arc::new(world);
    for _ in 0..40 {
        let (world, target) = (world.clone(), target.clone());
        pulls.push(tokio::spawn(async move {
            world.get(&target, "a", "/v2/a/x/manifests/1").await.status
        }));
    }
    for pull in pulls {
        assert_eq!(pull.await.unwrap(), 200);
    }
    let fetches = || {
        let seen = server.seen();
        seen.iter()
            .filter(|it| it.path.starts_with("/token"))
            .count()
    };
    assert_eq!(fetches(), 1);
    // Another scope is another token.
    let answer = world.get(&target, "a", "/v2/a/y/manifests/1").await;
    assert_eq!((answer.status, fetches()), (403, 2));
}

#[tokio::test]
async fn a_token_stays_with_the_host_that_it_is_for_when_the_secret_moves() {
    let authority = Authority::new();
    let good = Arc::new(AtomicUsize::new(1));
    let (before, after) = (
        registry(&authority, good.clone()).await,
        registry(&authority, good).await,
    );
    let (old, new) = (before.at("localhost"), after.at("localhost"));
    let world = World::start(&authority, &[binding("a", &old, "a")]).await;
    let path = "/v2/a/x/manifests/1";
    assert_eq!(world.get(&old, "a", path).await.status, 200);
    world.write(&binding("a", &new, "a"));
    let mut bindings = world.bindings.clone();
    let followed = tokio::time::timeout(
        Duration::from_secs(10),
        bindings.wait_for(|seen| {
            let found = seen.find("a");
            found.is_some_and(|it| it.target.to_string() == new)
        }),
    );
    followed.await.unwrap().unwrap();
    assert_eq!(world.get(&new, "a", path).await.status, 200);
    let first = &after.seen()[0];
    assert_eq!((first.path.as_str(), &first.authorization), (path, &None));
}

#[tokio::test]
async fn a_realm_on_another_host_needs_permission() {
    let authority = Authority::new();
    let realm = Server::start(&authority, |_| text(200, "{\"access_token\":\"t\"}")).await;
    let challenge = format!("Bearer realm=\"https://{}/auth\"", realm.at("127.0.0.1"));
    let server = Server::start(&authority, move |seen| {
        match seen.authorization.as_deref() {
            Some("Bearer t") => text(200, "manifest"),
            _ => unauthorized(&challenge),
        }
    })
    .await;
    let target = server.at("localhost");
    let mut refused = binding("a", &target, "a");
    refused.allowed_hosts = AllowList::parse("localhost;private").unwrap();
    let mut allowed = binding("b", &target, "b");
    let listed = format!("localhost;private {};private", realm.at("127.0.0.1"));
    allowed.allowed_hosts = AllowList::parse(&listed).unwrap();
    let world = World::start(&authority, &[refused, allowed]).await;

    let answer = world.get(&target, "a", "/v2/a/manifests/1").await;
    assert_eq!(answer.status, 502);
    assert!(answer.body.starts_with("realm-refused"), "{answer:?}");
    assert_eq!(realm.seen(), []);

    assert_eq!(
        world.get(&target, "b", "/v2/b/manifests/1").await.status,
        200
    );
    assert_eq!(authorizations(&realm), [Some(basic("b"))]);
}

#[tokio::test]
async fn a_redirect_is_the_clients_to_follow() {
    let authority = Authority::new();
    let other = Server::start(&authority, |_| text(200, "layer")).await;
    let location = format!("https://{}/layer", other.at("127.0.0.1"));
    let server = Server::start(&authority, move |_| {
        let mut response = text(307, "");
        let value = location.parse().unwrap();
        response.headers_mut().insert("location", value);
        response
    })
    .await;
    let target = server.at("localhost");
    let world = World::start(&authority, &[binding("a", &target, "a")]).await;
    let answer = world.get(&target, "a", "/v2/a/blobs/x").await;
    assert_eq!(answer.status, 307);
    assert_eq!(other.seen(), []);
}

#[tokio::test]
async fn git_and_helm_servers_get_the_credential_at_once() {
    let authority = Authority::new();
    let server = Server::serve(&authority, &["localhost"], "h2", |_| text(200, "refs")).await;
    let target = server.at("localhost");
    let mut git = binding("git", &target, "org/repo");
    git.kind = ProxyKind::Git;
    let world = World::start(&authority, &[git]).await;
    let path = "/org/repo.git/git-upload-pack";
    let mut post = get(&target, path);
    *post.method_mut() = http::Method::POST;
    *post.body_mut() = {
        use http_body_util::BodyExt;
        let body = http_body_util::Full::from("0000".repeat(1000));
        body.map_err(|never| match never {}).boxed()
    };
    let answer = world.ask(&target, "git", post).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "refs"));
    let seen = server.seen();
    assert_eq!(
        (seen[0].authorization.clone(), seen[0].body),
        (Some(basic("git")), 4000)
    );
}

/// Argo CD may see a new Secret before the agent does, and remembers a failure.
#[tokio::test]
async fn a_binding_that_is_not_there_yet_is_awaited() {
    let authority = Authority::new();
    let server = Server::start(&authority, |_| text(200, "manifest")).await;
    let target = server.at("localhost");
    let world = World::start(&authority, &[binding("other", &target, "other")]).await;
    let asked = world.get(&target, "new", "/v2/new/manifests/1");
    // Polled after it; and the view is looked at twice a second only.
    let written = async { world.write(&binding("new", &target, "new")) };
    let (answer, ()) = tokio::join!(asked, written);
    assert_eq!(answer.status, 200);

    let (_, head) = world.connect(&target, "never:never-key").await;
    assert!(head.contains("proxy-binding-unknown"), "{head}");
}

#[tokio::test]
async fn the_first_credential_is_awaited_and_an_expired_one_not_used() {
    let authority = Authority::new();
    let server = Server::start(&authority, |_| text(200, "manifest")).await;
    let target = server.at("localhost");
    let whole = binding("a", &target, "a");
    let mut empty = whole.clone();
    empty.credential = None;
    let mut expired = binding("b", &target, "b");
    expired.credential.as_mut().unwrap().expires = Timestamp::UNIX_EPOCH;
    let world = World::start(&authority, &[empty.clone(), expired]).await;

    let answer = world.get(&target, "b", "/v2/b/manifests/1").await;
    assert!(
        answer.status == 503 && answer.body.starts_with("credential-expired"),
        "{answer:?}"
    );
    let answer = world.get(&target, "a", "/v2/a/manifests/1").await;
    assert!(
        answer.status == 503 && answer.body.starts_with("credential-missing"),
        "{answer:?}"
    );
    assert_eq!(server.seen(), []);

    let waiting = world.get(&target, "a", "/v2/a/manifests/1");
    let written = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.write(&whole);
    };
    let (answer, ()) = tokio::join!(waiting, written);
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn an_unknown_certificate_is_a_named_error_unless_the_binding_says_insecure() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Server::start(&other, |_| text(200, "manifest")).await;
    let target = server.at("localhost");
    let mut insecure = binding("b", &target, "b");
    insecure.insecure = true;
    let world = World::start(&authority, &[binding("a", &target, "a"), insecure]).await;
    let answer = world.get(&target, "a", "/v2/a/manifests/1").await;
    assert_eq!(answer.status, 502);
    assert!(answer.body.starts_with("upstream-untrusted"), "{answer:?}");
    assert_eq!(server.seen(), []);
    assert_eq!(
        world.get(&target, "b", "/v2/b/manifests/1").await.status,
        200
    );

    // argocd-tls-certs-cm names the CA: the proxy follows.
    fs::write(world.folders.source.join("localhost"), other.pem()).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while world.get(&target, "a", "/v2/a/manifests/1").await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let server = Server::serve(&authority, &["other.test"], "http/1.1", |_| text(200, "x")).await;
    let target = server.at("localhost");
    let world = World::start(&authority, &[binding("a", &target, "a")]).await;
    let answer = world.get(&target, "a", "/v2/a/manifests/1").await;
    assert!(
        answer.status == 502 && answer.body.starts_with("upstream-untrusted"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let config = authority.expired(&["localhost"]);
    let server = Server::with(config, |_| text(200, "x")).await;
    let target = server.at("localhost");
    let world = World::start(&authority, &[binding("a", &target, "a")]).await;
    let answer = world.get(&target, "a", "/v2/a/manifests/1").await;
    assert!(
        answer.status == 502 && answer.body.starts_with("upstream-untrusted"),
        "{answer:?}"
    );
    assert_eq!(server.seen(), []);
}

#[tokio::test]
async fn insecure_counts_for_content_and_not_for_the_realm() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = registry(&other, Arc::new(AtomicUsize::new(1))).await;
    let target = server.at("localhost");
    let mut insecure = binding("a", &target, "a");
    insecure.insecure = true;
    let ask = async |allowed: &str| {
        let mut insecure = insecure.clone();
        insecure.allowed_hosts = AllowList::parse(allowed).unwrap();
        let world = World::start(&authority, &[insecure]).await;
        world.get(&target, "a", "/v2/a/manifests/1").await
    };
    let answer = ask("localhost;private").await;
    assert!(
        answer.status == 502 && answer.body.starts_with("upstream-untrusted"),
        "{answer:?}"
    );
    assert_eq!(authorizations(&server), [None]);
    assert_eq!(ask("localhost;private;insecure").await.status, 200);
}
