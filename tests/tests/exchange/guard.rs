//! What the way out lets through.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use harness::upstreams::Upstreams;
use reqwest::Method;
use shared::binding::ExchangeKind;
use shared::errors::Code;

const REGISTRY: &str = "registry.example.test";
const OTHER: &str = "other.example.test";
const BOTH: &str = "registry.example.test;private,other.example.test;private";

#[tokio::test]
async fn redirects_stay_at_their_origin() {
    let world = Upstreams::new().unwrap();
    let redirect = |place: &'static str| {
        let answer = (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, place)]);
        get(move || async move { answer })
    };
    let routes = Router::new()
        .route("/here", redirect("/there"))
        .route("/there", get(|| async {}))
        .route("/away", redirect("https://other.example.test/there"))
        .route(
            "/port",
            redirect("https://registry.example.test:8443/there"),
        )
        .route("/round", redirect("/round"));
    let _server = world.serve(&[REGISTRY, OTHER], routes).await.unwrap();
    let outlet = world.outlet(ExchangeKind::Quay, REGISTRY, BOTH).unwrap();
    for (path, status) in [("here", 200), ("away", 307), ("port", 307), ("round", 307)] {
        let url = format!("https://{REGISTRY}/{path}");
        let request = outlet.request(Method::GET, &url).unwrap();
        let answer = outlet.send(request).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let world = Upstreams::new().unwrap();
    let routes = Router::new().route("/", get(|| async { vec![b'x'; 2 << 20] }));
    let _server = world.serve(&[REGISTRY], routes).await.unwrap();
    let outlet = world.outlet(ExchangeKind::Quay, REGISTRY, BOTH).unwrap();
    let request = outlet
        .request(Method::GET, &format!("https://{REGISTRY}/"))
        .unwrap();
    let error = outlet.send(request).await.unwrap_err().error;
    assert_eq!(error.code, Code::ExchangeUnreachable);
    assert!(error.detail.contains("more than"), "{error}");
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_not_trusted() {
    let world = Upstreams::new().unwrap();
    let stranger = Upstreams::new().unwrap();
    let routes = Router::new().route("/", get(|| async {}));
    let server = stranger.serve(&[REGISTRY], routes).await.unwrap();
    world.point(REGISTRY, server.address);
    let outlet = world.outlet(ExchangeKind::Quay, REGISTRY, BOTH).unwrap();
    let request = outlet
        .request(Method::GET, &format!("https://{REGISTRY}/"))
        .unwrap();
    let error = outlet.send(request).await.unwrap_err().error;
    assert_eq!(error.code, Code::ExchangeUnreachable);
    assert!(error.detail.contains("certificate"), "{error}");
}
