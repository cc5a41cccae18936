//! Requests that the identity API does not understand.

use anyhow::{Result, ensure};
use harness::scene::ARGOCD;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::json;
use shared::errors::Code;
use shared::identity_api::PATH;

use super::bench::{Ask, Bench, answer, http};
use crate::case::{Case, shared};
use crate::scene::Scene;

/// What the API reads at most.
const LIMIT: usize = 64 * 1024;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(bodies_that_are_no_request),
        shared!(names_that_are_none),
        shared!(other_methods_and_paths),
    ]
}

async fn bodies_that_are_no_request(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "body").await?;
    let good = bench.granted();
    let body = good.body();
    let with = |key: &str, value| {
        let mut body = body.clone();
        body[key] = value;
        body.to_string()
    };
    let text = body.to_string();
    let spaces = |length: usize| " ".repeat(length.saturating_sub(text.len()));
    let twice = text.replacen('{', "{\"binding\": \"another\", ", 1);
    for body in [
        String::new(),
        "no JSON".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        text[..text.len() - 1].to_owned(),
        format!("{text}{text}"),
        twice,
        "[".repeat(20_000),
        with("unknown", json!(1)),
        with("namespace", json!(null)),
        with("podToken", json!({})),
        // One byte too many.
        format!("{text}{}", spaces(LIMIT + 1)),
        format!("{text}{}", spaces(3 * 1024 * 1024)),
    ] {
        let refused = answer(bench.api.call(Some(&good.agent), body)).await?;
        refused.refused(400, Code::BadRequest)?;
    }
    let longest = format!("{text}{}", spaces(LIMIT));
    answer(bench.api.call(Some(&good.agent), longest))
        .await?
        .granted()?;

    let other_kinds = [
        "",
        "text/plain",
        "application/jsonp",
        "application/json-patch+json",
    ];
    for kind in other_kinds {
        let request = bench
            .api
            .request(Method::POST, PATH)
            .bearer_auth(&good.agent)
            .header(CONTENT_TYPE, kind)
            .body(text.clone());
        answer(request).await?.refused(400, Code::BadRequest)?;
    }
    let request = bench
        .api
        .request(Method::POST, PATH)
        .bearer_auth(&good.agent)
        .header(CONTENT_TYPE, "Application/JSON; charset=utf-8")
        .body(text.clone());
    answer(request).await?.granted()?;
    bench.close().await
}

async fn names_that_are_none(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "name").await?;
    let long = "a".repeat(254);
    for binding in [
        "",
        ".",
        "..",
        "../secrets",
        "a/b",
        "a%2fb",
        "a?b",
        "a#b",
        "a b",
        "A",
        "-a",
        "a-",
        "a..b",
        "a\u{0}",
        "ä",
        &long,
    ] {
        let ask = Ask {
            binding: binding.to_owned(),
            ..bench.granted()
        };
        bench.api.refuses(&ask, 400, Code::BadRequest).await?;
    }
    // One that could be.
    let ask = Ask {
        binding: "a".repeat(253),
        ..bench.granted()
    };
    bench.api.refuses(&ask, 404, Code::BindingNotFound).await?;
    bench.close().await
}

async fn other_methods_and_paths(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "method").await?;
    let good = bench.granted();
    let send = |method: Method, url: String| {
        let request = http(scene)?
            .request(method, url)
            .bearer_auth(&good.agent)
            .header(CONTENT_TYPE, "application/json")
            .body(good.body().to_string());
        anyhow::Ok(answer(request))
    };
    let plan = &scene.installation.plan;
    let url = plan.identity_url();
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH] {
        let refused = send(method, format!("{url}{PATH}"))?.await?;
        ensure!(refused.status == 405, "{refused:?}");
        ensure!(!refused.body.contains("eyJ"), "{refused:?}");
    }
    let binding = format!("/v1/identity/{ARGOCD}/{}", bench.name);
    let paths = ["/", "/v1", "/v1/identity/", "/V1/identity", "/v2/identity"];
    let paths = paths.iter().copied().chain([
        binding.as_str(),
        // What the other ports are for.
        "/mutate/pods",
        "/keys",
        "/metrics",
    ]);
    for path in paths {
        let refused = send(Method::POST, format!("{url}{path}"))?.await?;
        ensure!(refused.status == 404, "{path}: {refused:?}");
    }
    for other in [plan.admission_url(), plan.issuer_url(), plan.metrics_url()] {
        let refused = send(Method::POST, format!("{other}{PATH}"))?.await?;
        ensure!(refused.status == 404, "{other}: {refused:?}");
    }
    bench.close().await
}
