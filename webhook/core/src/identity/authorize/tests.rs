use std::collections::BTreeMap;

use super::*;
use crate::bindings::testing::quay;

type Extra = BTreeMap<String, Vec<String>>;

fn policy() -> Policy {
    Policy {
        namespace: "argocd-identity".into(),
        agent_service_account: "argocd-identity-agent".into(),
        argocd_namespaces: vec!["argocd".into()],
    }
}

fn token(username: &str, pod: &str) -> ReviewedToken {
    let extra = [
        (POD_NAME, pod),
        (POD_UID, "pod-uid"),
        (NODE_NAME, "node-1"),
        (NODE_UID, "node-uid-1"),
    ];
    ReviewedToken {
        authenticated: true,
        audiences: vec![TOKEN_AUDIENCE.into()],
        username: format!("system:serviceaccount:{username}"),
        extra: extra
            .map(|(key, value)| (key.to_owned(), vec![value.to_owned()]))
            .into(),
        words: String::new(),
    }
}

fn agent_token() -> ReviewedToken {
    token("argocd-identity:argocd-identity-agent", "agent-x")
}

fn pod_token() -> ReviewedToken {
    token("argocd:argocd-repo-server", "repo-server-x")
}

fn running_pod() -> PodState {
    PodState::Present {
        uid: "pod-uid".into(),
        phase: "Running".into(),
        deletion: None,
    }
}

fn spec() -> CredentialBindingSpec {
    serde_json::from_value(quay("quay.example.org")).unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

/// Everything in order, as the API calls it.
fn authorize(
    agent_token: &ReviewedToken,
    pod_token: &ReviewedToken,
    pod: &PodState,
    spec: &CredentialBindingSpec,
) -> Result<Grant, Named> {
    let agent = agent(agent_token, &policy())?;
    let consumer = consumer(pod_token, &agent, "argocd")?;
    grant(&consumer, pod, "quay", spec, now())
}

#[track_caller]
fn refused(result: Result<Grant, Named>, code: Code) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.code, code, "{error}");
    error.detail
}

#[test]
fn a_running_consumer_on_the_agents_node_is_served() {
    let grant = authorize(&agent_token(), &pod_token(), &running_pod(), &spec()).unwrap();
    assert_eq!(
        grant.identity().subject,
        "spiffe://example.org/ns/argocd/sa/argocd-global"
    );
    assert_eq!(grant.identity().audience, "quay.example.org");
    // kubelet publishes volumes before the first container starts.
    let pending = PodState::Present {
        uid: "pod-uid".into(),
        phase: "Pending".into(),
        deletion: None,
    };
    authorize(&agent_token(), &pod_token(), &pending, &spec()).unwrap();
}

#[test]
fn tokens_that_are_not_accepted() {
    let changes: [fn(&mut ReviewedToken); 4] = [
        |token| token.authenticated = false,
        |token| token.audiences.clear(),
        |token| token.audiences = vec!["https://kubernetes.default.svc".into()],
        |token| *token = ReviewedToken::default(),
    ];
    for change in changes {
        let mut bad = agent_token();
        change(&mut bad);
        refused(
            authorize(&bad, &pod_token(), &running_pod(), &spec()),
            Code::AgentTokenRejected,
        );
        let mut bad = pod_token();
        change(&mut bad);
        refused(
            authorize(&agent_token(), &bad, &running_pod(), &spec()),
            Code::PodTokenRejected,
        );
    }
}

#[test]
fn the_api_servers_words_are_passed_on() {
    let expired = ReviewedToken {
        words: "[invalid bearer token, service account token has expired]".into(),
        ..ReviewedToken::default()
    };
    let detail = refused(
        authorize(&expired, &pod_token(), &running_pod(), &spec()),
        Code::AgentTokenRejected,
    );
    assert!(
        detail.contains("service account token has expired"),
        "{detail}"
    );
}

#[test]
fn only_the_agents_service_account_is_an_agent() {
    for name in [
        "system:serviceaccount:argocd-identity:argocd-identity",
        "system:serviceaccount:argocd:argocd-identity-agent",
        "system:serviceaccount:argocd-identity:argocd-identity-agent:x",
        "system:serviceaccount:argocd-identity:argocd-identity-agent2",
        "argocd-identity:argocd-identity-agent",
        "system:node:node-1",
        "system:admin",
        "",
    ] {
        let mut other = agent_token();
        other.username = name.into();
        let result = authorize(&other, &pod_token(), &running_pod(), &spec());
        refused(result, Code::AgentNotAuthorized);
    }
}

#[test]
fn unbound_tokens_are_refused_whatever_they_lack() {
    for field in [POD_NAME, POD_UID, NODE_NAME, NODE_UID] {
        let changes: [fn(&mut Extra, &str); 4] = [
            |extra, field| drop(extra.remove(field)),
            |extra, field| drop(extra.insert(field.into(), Vec::new())),
            |extra, field| drop(extra.insert(field.into(), vec![String::new()])),
            |extra, field| drop(extra.insert(field.into(), vec!["a".into(), "b".into()])),
        ];
        for change in changes {
            let mut unbound = agent_token();
            change(&mut unbound.extra, field);
            let result = authorize(&unbound, &pod_token(), &running_pod(), &spec());
            assert!(refused(result, Code::AgentTokenUnbound).contains(field));
            let mut unbound = pod_token();
            change(&mut unbound.extra, field);
            let result = authorize(&agent_token(), &unbound, &running_pod(), &spec());
            assert!(refused(result, Code::PodTokenUnbound).contains(field));
        }
    }
}

#[test]
fn pods_of_another_node_are_refused_even_under_the_same_name() {
    let mut elsewhere = pod_token();
    elsewhere
        .extra
        .insert(NODE_UID.into(), vec!["node-uid-2".into()]);
    let result = authorize(&agent_token(), &elsewhere, &running_pod(), &spec());
    refused(result, Code::NodeMismatch);
}

#[test]
fn pods_that_do_not_run_are_refused() {
    let pod = |uid: &str, phase: &str, deletion: Option<i64>| PodState::Present {
        uid: uid.into(),
        phase: phase.into(),
        deletion: deletion.map(|second| Timestamp::from_second(second).unwrap()),
    };
    for (state, why) in [
        (PodState::Absent, "gone"),
        (pod("other-uid", "Running", None), "another pod"),
        (pod("pod-uid", "Succeeded", None), "Succeeded"),
        (pod("pod-uid", "Failed", None), "Failed"),
        (pod("pod-uid", "Running", Some(1_000_000)), "grace period"),
        (pod("pod-uid", "Running", Some(999_999)), "grace period"),
    ] {
        let result = authorize(&agent_token(), &pod_token(), &state, &spec());
        assert!(refused(result, Code::PodNotRunning).contains(why));
    }
    let finishing = pod("pod-uid", "Running", Some(1_000_001));
    authorize(&agent_token(), &pod_token(), &finishing, &spec()).unwrap();
}

#[test]
fn other_service_accounts_and_namespaces_are_no_consumers() {
    for user in [
        "argocd:argocd-server",
        "argocd:default",
        "other:argocd-repo-server",
        "argocd-identity:argocd-identity-agent",
    ] {
        let mut other = pod_token();
        other.username = format!("system:serviceaccount:{user}");
        let result = authorize(&agent_token(), &other, &running_pod(), &spec());
        refused(result, Code::NotAConsumer);
    }
    // A user that is no service account, such as a node for its mirror pods.
    let mut node = pod_token();
    node.username = "system:node:node-1".into();
    refused(
        authorize(&agent_token(), &node, &running_pod(), &spec()),
        Code::NotAConsumer,
    );
}

#[test]
fn what_cannot_be_delivered_is_not_issued() {
    let mut scoped = spec();
    scoped.project = Some("team-a".into());
    let result = authorize(&agent_token(), &pod_token(), &running_pod(), &scoped);
    refused(result, Code::DeliveryNotAvailable);
    let mut other = spec();
    other.identity.credential = shared::binding::CredentialKind::ServiceAccountToken;
    other.identity.service_account = "argocd-server".into();
    let result = authorize(&agent_token(), &pod_token(), &running_pod(), &other);
    refused(result, Code::ServiceAccountForbidden);
}
