//! What a password opens, at the stand-in's registry.

use reqwest::{Certificate, Client, StatusCode};

use super::*;

async fn pull(world: &World, password: Option<&str>, path: &str) -> (StatusCode, String) {
    let authority = Certificate::from_pem(world.upstreams.authority.pem().as_bytes()).unwrap();
    let client = Client::builder()
        .no_proxy()
        .tls_certs_only([authority])
        .resolve(REGISTRY, world._server.address)
        .build()
        .unwrap();
    let port = world._server.address.port();
    let mut request = client.get(format!("https://{REGISTRY}:{port}{path}"));
    if let Some(password) = password {
        request = request.basic_auth("AWS", Some(password));
    }
    let answer = request.send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_password_opens_the_repositories_of_its_project_until_it_expires() {
    let world = World::usual().await;
    world.role("production");
    world.role("staging");
    let password = world.password("production").await;
    let password = Some(password.as_str());
    let own = "/v2/production/charts/app/manifests/1.0.0";

    assert_eq!(pull(&world, None, "/v2/").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(
        pull(&world, Some("guess"), own).await.0,
        StatusCode::FORBIDDEN
    );
    // There is no content behind: who gets as far as that, was let through.
    assert_eq!(pull(&world, password, own).await.0, StatusCode::NOT_FOUND);
    let (status, words) = pull(&world, password, "/v2/staging/charts/app/manifests/1.0.0").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(
        words.contains("is not authorized to perform: ecr:BatchGetImage"),
        "{words}"
    );

    world.aws.expire_passwords();
    let (status, words) = pull(&world, password, own).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(
        words.contains("Your authorization token has expired"),
        "{words}"
    );
}
