//! Several bindings of one pod in one call.

use shared::identity_api::{BATCH_PATH, LARGEST_BATCH};

use super::*;

async fn ask(bench: &mut Bench, namespace: &str, bindings: &[&str]) -> (StatusCode, Value) {
    let body = json!({"namespace": namespace, "bindings": bindings, "podToken": POD});
    let mut request = post(body.to_string());
    *request.uri_mut() = BATCH_PATH.parse().unwrap();
    bench.call(request).await
}

#[tokio::test]
async fn each_binding_has_its_own_answer_and_the_pod_is_proved_once() {
    let mut bench = Bench::new();
    bench.cluster.put_secret(quay("second"));
    let plain = [("url", "https://a.example.org/x")];
    bench
        .cluster
        .put_secret(secret("repository", "plain", &plain));
    let names = ["quay", "second", "plain", "absent", "quay"];
    let (status, answer) = ask(&mut bench, "argocd", &names).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let answers = answer["answers"].as_object().unwrap();
    assert_eq!(answers.len(), 4);
    for name in ["quay", "second"] {
        let issued = &answers[name]["issued"];
        assert_eq!(issued["audience"], "quay.example.org", "{answer}");
        assert!(issued["token"].is_string());
    }
    for name in ["plain", "absent"] {
        assert_eq!(
            answers[name]["refused"]["code"], "binding-not-found",
            "{answer}"
        );
    }
    let mut calls = bench.cluster.calls();
    calls.sort();
    let review = "POST /apis/authentication.k8s.io/v1/tokenreviews";
    assert_eq!(
        calls,
        [
            "GET /api/v1/namespaces/argocd/pods/repo",
            "GET /api/v1/namespaces/argocd/secrets/absent",
            "GET /api/v1/namespaces/argocd/secrets/plain",
            "GET /api/v1/namespaces/argocd/secrets/quay",
            "GET /api/v1/namespaces/argocd/secrets/second",
            review,
            review,
        ]
    );
}

#[tokio::test]
async fn what_is_wrong_with_the_call_is_the_answer_for_all() {
    let mut bench = Bench::new();
    let answer = ask(&mut bench, "kube-system", &["quay"]).await;
    Bench::assert_refused(&answer, 404, Code::BindingNotFound);
    let answer = ask(&mut bench, "argocd", &["quay", "../x"]).await;
    Bench::assert_refused(&answer, 400, Code::BadRequest);
    let answer = ask(&mut bench, "argocd", &["quay"; LARGEST_BATCH + 1]).await;
    Bench::assert_refused(&answer, 400, Code::BadRequest);
    let server = review("argocd:argocd-repo-server", "gone", "n1");
    bench.cluster.put_token(POD, server);
    let (_, answer) = ask(&mut bench, "argocd", &["quay"]).await;
    assert_eq!(
        answer["answers"]["quay"]["refused"]["code"],
        "pod-not-running"
    );
    bench.cluster.put_token(POD, TokenReviewStatus::default());
    let answer = ask(&mut bench, "argocd", &["quay"]).await;
    Bench::assert_refused(&answer, 403, Code::PodTokenRejected);
    let (status, answer) = ask(&mut bench, "argocd", &[]).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_not_answered_for_holds_up_no_other() {
    let mut bench = Bench::new();
    bench.cluster.put_secret(quay("slow"));
    bench.cluster.hang("secrets/slow");
    let (status, answer) = ask(&mut bench, "argocd", &["slow", "quay"]).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        answer["answers"]["slow"]["refused"]["code"],
        "issuer-unavailable"
    );
    assert!(answer["answers"]["quay"]["issued"].is_object());
}
