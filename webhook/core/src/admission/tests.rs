//! Bodies flow in as kube-apiserver sends them, and as nobody should.

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::errors::Code;

use super::*;

fn body(request: Value) -> Vec<u8> {
    serde_json::to_vec(&json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": request,
    }))
    .unwrap()
}

fn pod_request() -> Value {
    json!({
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "argocd",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": {
            "metadata": {"labels": {"app.kubernetes.io/name": "argocd-repo-server"}},
            "spec": {"serviceAccountName": "argocd-repo-server",
                     "containers": [{"name": "argocd-repo-server"}]},
        },
        "oldObject": null,
        "dryRun": false,
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
    })
}

fn draw() -> Option<KeyBytes> {
    Some(crate::proxy_key::tests::bytes(1))
}

fn answer(path: Path, body: &[u8]) -> Value {
    let review = review(path, body, &Rules::default(), &mut draw).unwrap();
    serde_json::from_slice(&review.body).unwrap()
}

#[test]
fn a_pod_is_answered_with_a_patch_and_its_uid() {
    let answer = answer(Path::PodsNamespace, &body(pod_request()));
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    let response = &answer["response"];
    assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
    assert_eq!(response["allowed"], true);
    assert_eq!(response["patchType"], "JSONPatch");
    assert_eq!(response["auditAnnotations"], json!({"verdict": "patch"}));
    let patch = STANDARD
        .decode(response["patch"].as_str().unwrap())
        .unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    assert!(!patch.is_empty());
}

#[test]
fn the_path_says_what_selected_the_pod() {
    let response = &answer(Path::Pods, &body(pod_request()))["response"];
    assert_eq!(
        *response,
        json!({
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "allowed": true,
            "auditAnnotations": {"verdict": "skip", "skipped": "not-opted-in"},
        })
    );
}

/// A repository of a project, which needs a key.
fn secret_request() -> Value {
    let values = [
        ("type", "helm"),
        ("url", "oci://quay.example.org/myorg/charts"),
        ("project", "a"),
        ("workloadIdentityProvider", "spiffe"),
        (
            "workloadIdentityRegistryAuthURL",
            "https://quay.example.org/oauth2/federation/robot/token",
        ),
        ("workloadIdentityRegistryUsername", "myorg+argocd"),
    ];
    let data = values.map(|(name, value)| (name.to_owned(), json!(STANDARD.encode(value))));
    let mut request = pod_request();
    request["kind"]["kind"] = json!("Secret");
    request["object"] = json!({
        "metadata": {
            "name": "example", "namespace": "argocd",
            "labels": {"argocd.argoproj.io/secret-type": "repository"},
        },
        "data": data.into_iter().collect::<serde_json::Map<_, _>>(),
    });
    request
}

#[test]
fn namespaces_that_are_not_served_are_left_alone_and_told() {
    let rules = Rules {
        namespaces: Some(["argocd".to_owned()].into()),
        ..Rules::default()
    };
    let ask = |path, request: &Value| {
        let review = review(path, &body(request.clone()), &rules, &mut draw);
        review.unwrap().verdict
    };
    let mut deployment = pod_request();
    deployment["kind"] = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    deployment["object"] = json!({
        "metadata": {"annotations": {"workload-identity.dev/inject": "enabled"}},
        "spec": {"template": {"metadata": {}}},
    });
    let mut invalid = secret_request();
    invalid["object"]["data"]["type"] = json!("c3Zu");
    for (path, mut request) in [
        (Path::PodsNamespace, pod_request()),
        (Path::Workloads, deployment),
        (Path::Secrets, secret_request()),
        (Path::Secrets, invalid),
    ] {
        let served = ask(path, &request);
        assert!(!matches!(served.outcome, Outcome::Skip(_)), "{served:?}");
        request["namespace"] = json!("team-a");
        let verdict = ask(path, &request);
        let codes: Vec<_> = verdict.warnings.iter().map(|it| it.code).collect();
        assert_eq!(codes, [Code::NamespaceNotServed], "{path:?}");
        assert_eq!(verdict.outcome, Outcome::Skip(Skip::NamespaceNotServed));
    }
    // Who asks for nothing is told nothing.
    let mut plain = secret_request();
    plain["namespace"] = json!("team-a");
    plain["object"]["data"] = json!({"url": "aHR0cHM6Ly9hL2I="});
    let mut other = pod_request();
    other["namespace"] = json!("team-a");
    other["object"]["metadata"] = json!({});
    for (path, request) in [(Path::Secrets, plain), (Path::PodsNamespace, other)] {
        let verdict = ask(path, &request);
        assert!(verdict.warnings.is_empty(), "{verdict:?}");
        assert!(matches!(verdict.outcome, Outcome::Skip(_)), "{verdict:?}");
    }
}

#[test]
fn without_random_bytes_there_is_no_answer_where_a_key_is_needed() {
    let ask = |path, request: Value| review(path, &body(request), &Rules::default(), &mut || None);
    let refused = ask(Path::Secrets, secret_request());
    assert!(matches!(refused, Err(Refusal::Randomness)), "{refused:?}");
    assert!(ask(Path::PodsNamespace, pod_request()).is_ok());
    let mut without_project = secret_request();
    let data = without_project["object"]["data"].as_object_mut().unwrap();
    data.remove("project");
    assert!(ask(Path::Secrets, without_project).is_ok());
}

#[test]
fn the_same_request_gives_the_same_bytes() {
    let secret = body(secret_request());
    let once = || {
        let review = review(Path::Secrets, &secret, &Rules::default(), &mut draw);
        review.unwrap().body
    };
    assert_eq!(once(), once());
    let bytes = body(pod_request());
    let once = |path| {
        review(path, &bytes, &Rules::default(), &mut draw)
            .unwrap()
            .body
    };
    assert_eq!(once(Path::PodsNamespace), once(Path::PodsNamespace));
}

#[test]
fn other_kinds_and_operations_are_allowed_without_patch() {
    for (member, value, skipped) in [
        (
            "kind",
            json!({"group": "", "version": "v1", "kind": "Node"}),
            "other-kind",
        ),
        ("operation", json!("UPDATE"), "other-operation"),
        ("operation", json!("DELETE"), "other-operation"),
        ("operation", json!("RESIZE"), "other-operation"),
        (
            "subResource",
            json!("ephemeralcontainers"),
            "other-operation",
        ),
        ("object", json!(null), "unreadable"),
        ("object", json!({"spec": 5}), "unreadable"),
        (
            "object",
            json!({"spec": {"containers": [{}]}}),
            "unreadable",
        ),
        (
            "object",
            json!({"metadata": {"annotations": {"workload-identity.dev/inject": 1}}}),
            "unreadable",
        ),
        ("object", json!("text"), "unreadable"),
        ("object", json!({}), "not-argo-cd"),
    ] {
        let mut request = pod_request();
        request[member] = value;
        let response = &answer(Path::PodsNamespace, &body(request))["response"];
        assert_eq!(response["allowed"], true);
        assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
        assert_eq!(response["patch"], Value::Null);
        assert_eq!(response["auditAnnotations"]["skipped"], skipped);
    }
}

#[test]
fn a_denial_has_code_reason_and_remedy() {
    let mut request = pod_request();
    request["kind"] = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    request["name"] = json!("argocd-server");
    request["object"] =
        json!({"metadata": {"annotations": {"workload-identity.dev/inject": "on"}}});
    let response = &answer(Path::Workloads, &body(request))["response"];
    assert_eq!(response["allowed"], false);
    assert_eq!(response["status"]["code"], 403);
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("invalid-annotation: "), "{message}");
    assert!(message.contains("argocd/argocd-server"), "{message}");
    assert_eq!(response["auditAnnotations"]["denied"], "invalid-annotation");
}

#[test]
fn the_uid_survives_a_body_that_breaks_later() {
    let whole = body(pod_request());
    let text = String::from_utf8(whole).unwrap();
    // serde_json sorts the members; kube-apiserver writes the uid first.
    let text = text.replacen(
        "\"request\":{",
        "\"request\":{\"uid\":\"first\",\"later\":",
        1,
    );
    for broken in [&text[..text.len() - 20], &text[..200], &text] {
        let answer = answer(Path::PodsNamespace, broken.as_bytes());
        assert_eq!(answer["response"]["uid"], "first");
        assert_eq!(answer["response"]["allowed"], true);
    }
    let mut request = pod_request();
    request["namespace"] = json!(5);
    let answer = answer(Path::PodsNamespace, &body(request));
    assert_eq!(
        answer["response"]["uid"],
        "705ab4f5-6393-11e8-b7cc-42010a800002"
    );
}

#[test]
fn what_is_no_admission_review_is_refused_with_the_reason() {
    let refused = |bytes: &[u8]| match review(Path::Pods, bytes, &Rules::default(), &mut draw) {
        Err(Refusal::Request(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    for bytes in [
        &b""[..],
        b"null",
        b"[]",
        b"{",
        b"{}",
        b"\xff\xfe",
        b"{\"request\": 5}",
        b"{\"request\": {\"uid\": 5}}",
        b"<html>",
    ] {
        assert!(refused(bytes).starts_with("the body is no admission.k8s.io/v1"));
    }
    let mut other = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1",
                           "request": pod_request()});
    assert!(refused(&serde_json::to_vec(&other).unwrap()).contains("v1beta1"));
    other["apiVersion"] = json!("admission.k8s.io/v1");
    other["kind"] = json!("Pod");
    assert!(refused(&serde_json::to_vec(&other).unwrap()).contains("Pod"));
}

#[test]
fn deep_objects_do_not_exhaust_the_stack() {
    let mut bytes = body(pod_request());
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let at = bytes.windows(8).position(|w| w == b"\"spec\":{").unwrap() + 8;
    bytes.splice(at..at, format!("\"deep\":{deep},").into_bytes());
    let _ = review(Path::PodsNamespace, &bytes, &Rules::default(), &mut draw);
}

#[test]
fn three_mebibytes_are_answered() {
    let mut request = pod_request();
    let filler = "x".repeat(1024);
    let list: Vec<_> = (0..3 * 1024)
        .map(|_| json!({"name": "A", "value": filler}))
        .collect();
    request["object"]["spec"]["containers"][0]["env"] = json!(list);
    let response = &answer(Path::PodsNamespace, &body(request))["response"];
    assert_eq!(response["auditAnnotations"]["verdict"], "patch");
}

#[test]
fn warnings_fit_into_what_the_api_server_passes_on() {
    let long = Named::new(Code::EnvConflict, format!("a\nb\u{7f}{}", "é".repeat(400)));
    let verdict = Verdict::patch(Patch::new(), vec![long; 40]);
    let bytes = review::render("1", &verdict).unwrap();
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    let warnings = answer["response"]["warnings"].as_array().unwrap();
    let lengths = warnings.iter().map(|w| w.as_str().unwrap().chars().count());
    assert!(lengths.clone().all(|length| length <= 256));
    assert!((15..=16).contains(&warnings.len()));
    assert!(!warnings[0].as_str().unwrap().contains(char::is_control));
    assert!(warnings[0].as_str().unwrap().starts_with("env-conflict: "));
}

#[test]
fn a_long_warning_loses_its_remedy_before_its_detail() {
    let detail = "d".repeat(150);
    let verdict = Verdict::patch(Patch::new(), vec![Named::new(Code::EnvConflict, &*detail)]);
    let bytes = review::render("1", &verdict).unwrap();
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    let warning = answer["response"]["warnings"][0].as_str().unwrap();
    assert!(warning.ends_with(&format!("({detail})")), "{warning}");
}

/// JSON that often has the members that are looked at, of any type.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i64>().prop_map(|n| json!(n)),
        "\\PC{0,8}".prop_map(|s| json!(s)),
        Just(json!("enabled")),
        Just(json!("argocd-server")),
    ];
    let name = prop_oneof![
        prop::sample::select(vec![
            "metadata",
            "spec",
            "labels",
            "annotations",
            "containers",
            "initContainers",
            "volumes",
            "volumeMounts",
            "env",
            "name",
            "value",
            "mountPath",
            "csi",
            "driver",
            "template",
            "repo",
            "server",
            "controller",
            "ownerReferences",
            "kind",
            "data",
            "app.kubernetes.io/name",
            "workload-identity.dev/inject",
            "type",
            "url",
            "config",
            "argocd.argoproj.io/secret-type",
            "useWorkloadIdentity",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| json!(list)),
            prop::collection::btree_map(name.clone(), inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        for path in Path::ALL {
            let _ = review(path, &bytes, &Rules::default(), &mut draw);
        }
    }

    #[test]
    fn no_change_of_a_good_body_panics(
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..8),
        cut in any::<bool>(),
    ) {
        let mut body = body(pod_request());
        let at = at.index(body.len());
        if cut {
            body.truncate(at);
        }
        body.splice(at..at, bytes);
        for path in Path::ALL {
            let _ = review(path, &body, &Rules::default(), &mut draw);
        }
    }

    /// A request that can be read is answered with its uid and, if allowed, a
    /// patch that applies, whatever the objects are.
    #[test]
    fn every_request_is_answered(
        object in any_json(),
        old in any_json(),
        kind in prop::sample::select(vec![
            ("", "Pod"), ("apps", "Deployment"), ("argoproj.io", "ArgoCD"), ("", "Secret"),
        ]),
        update in any::<bool>(),
    ) {
        let mut request = pod_request();
        request["kind"] = json!({"group": kind.0, "version": "v1", "kind": kind.1});
        request["operation"] = json!(if update { "UPDATE" } else { "CREATE" });
        request["object"] = object.clone();
        request["oldObject"] = old;
        for path in Path::ALL {
            let answer = answer(path, &body(request.clone()));
            prop_assert_eq!(&answer["response"]["uid"], &request["uid"]);
            if let Some(patch) = answer["response"]["patch"].as_str() {
                let patch = STANDARD.decode(patch).unwrap();
                let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
                let mut object = object.clone();
                json_patch::patch(&mut object, &patch).unwrap();
            }
        }
    }
}
