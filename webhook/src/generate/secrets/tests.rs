//! Text in every form that kubectl prints, and an API server that lists.

use std::convert::Infallible;

use control_plane_core::settings::one;
use k8s_openapi::api::core::v1::Secret;
use kube::client::Body;
use proptest::prelude::*;
use serde_json::json;
use tower::service_fn;

use super::*;

fn argocd() -> Namespace {
    one("namespace", "argocd").unwrap()
}

type Values = BTreeMap<String, String>;

/// Names and values of the Secrets of a text, and its problems.
fn parsed(text: &str) -> (Vec<(String, Values)>, Vec<String>) {
    let mut found = Vec::new();
    let take = |secret: &Secret| {
        let text = |value: &ByteString| String::from_utf8(value.0.clone()).unwrap();
        let data = secret.data.iter().flatten();
        let name = format!(
            "{}/{}",
            secret.metadata.namespace.as_deref().unwrap(),
            secret.metadata.name.as_deref().unwrap()
        );
        found.push((
            name,
            data.map(|(key, value)| (key.clone(), text(value)))
                .collect(),
        ));
    };
    let problems = parse("file", text, &argocd(), take);
    (
        found,
        problems
            .iter()
            .map(|problem| problem.detail.clone())
            .collect(),
    )
}

#[test]
fn every_form_is_read() {
    let labels = json!({SECRET_TYPE: "repository"});
    let secret = json!({
        "kind": "Secret",
        "metadata": {"name": "a", "labels": labels},
        "data": {"url": "b2xk", "type": "aGVs\nbQ==\n"},
        "stringData": {"url": "new"},
    });
    let expected = vec![(
        "argocd/a".to_owned(),
        BTreeMap::from([
            ("type".to_owned(), "helm".to_owned()),
            ("url".to_owned(), "new".to_owned()),
        ]),
    )];
    for text in [
        secret.to_string(),
        json!({"kind": "List", "items": [secret]}).to_string(),
        json!({"kind": "SecretList", "items": [{"kind": "ConfigMap"}, secret]}).to_string(),
        format!("# nothing\n---\n---\n{secret}\n---\nkind: ConfigMap\n"),
    ] {
        assert_eq!(parsed(&text), (expected.clone(), Vec::new()), "{text}");
    }
}

#[test]
fn what_is_before_a_torn_document_counts() {
    let text = format!(
        "kind: Secret\nmetadata: {{name: a, labels: {{{SECRET_TYPE}: cluster}}}}\n---\nb: [c\n---\n"
    );
    let (found, problems) = parsed(&text);
    assert_eq!(found.len(), 1);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("file, line "), "{problems:?}");
}

#[test]
fn keys_that_cannot_be_read_are_named_without_their_values() {
    let text = format!(
        "kind: Secret\nmetadata: {{name: a, labels: {{{SECRET_TYPE}: cluster}}}}\n\
        data: {{password: secret-one}}\nstringData: {{token: [secret-two], on: yes}}\n"
    );
    let (found, problems) = parsed(&text);
    assert_eq!(found.len(), 0);
    assert_eq!(
        problems,
        [
            "Secret argocd/a, data.password: not Base64",
            "Secret argocd/a, stringData.token: not text",
        ]
    );
}

#[test]
fn a_document_is_overwritten_when_it_is_dropped() {
    let mut document = Wiped(json!({"data": {"password": ["secret"]}}));
    overwrite(&mut document.0);
    assert_eq!(document.0, json!({"data": {"password": [""]}}));
}

#[tokio::test]
async fn only_argo_cds_secrets_of_the_named_namespaces_are_asked_for() {
    let service = service_fn(|request: axum::http::Request<Body>| async move {
        let uri = request.uri();
        let name = match uri.path() {
            "/api/v1/namespaces/argocd/secrets" => "a",
            "/api/v1/namespaces/apps/secrets" => "b",
            other => panic!("{other}"),
        };
        let query = uri.query().unwrap();
        assert!(
            query.contains("labelSelector=argocd.argoproj.io%2Fsecret-type+in+%28repository"),
            "{query}"
        );
        let list = json!({
            "kind": "SecretList", "apiVersion": "v1", "metadata": {},
            "items": [{"metadata": {"name": name}, "data": {"url": "YQ=="}}],
        });
        let body = Body::from(serde_json::to_vec(&list).unwrap());
        Ok::<_, Infallible>(axum::http::Response::new(body))
    });
    let client = Client::new(service, "default");
    let mut names = Vec::new();
    let namespaces = [argocd(), one("namespace", "apps").unwrap()];
    live(&client, &namespaces, |secret| {
        names.extend(secret.metadata.name.clone());
    })
    .await
    .unwrap();
    assert_eq!(names, ["a", "b"]);
}

proptest! {
    #[test]
    fn no_text_breaks_it(text in "(kind: (Secret|List)|metadata: |items: |- |data: |[a-z{}\\[\\]:,\"\n -]){0,30}|\\PC*") {
        let _ = parsed(&text);
    }
}
