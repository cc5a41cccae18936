//! Callers that nobody knows: what they may have, and what agents have beside
//! them.

use futures::stream;
use tokio::task::JoinHandle;

use super::{service_accounts::token, *};

/// As many as one HTTP/2 connection may have several times over.
const MANY: usize = 100;
/// What an honest agent may have to wait.
const PROMPTLY: Duration = Duration::from_secs(1);

/// Requests under way whose bodies begin and never end, with this bearer token.
async fn stall(bench: &Bench, token: &str) -> Vec<JoinHandle<StatusCode>> {
    let begin = || {
        let begun = stream::iter([Ok::<_, std::io::Error>("{")]);
        let body = Body::from_stream(futures::StreamExt::chain(begun, stream::pending()));
        let mut request = post(body);
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        let mut router = bench.router.clone();
        tokio::spawn(async move { Service::call(&mut router, request).await.unwrap().status() })
    };
    let stalled = (0..MANY).map(|_| begin()).collect();
    // All of them have got as far as they get.
    for _ in 0..MANY {
        tokio::task::yield_now().await;
    }
    stalled
}

#[tokio::test(start_paused = true)]
async fn bodies_that_never_come_keep_no_agent_waiting() {
    let mut bench = Bench::new();
    let stalled = stall(&bench, "a stranger's").await;
    let answer = tokio::time::timeout(PROMPTLY, bench.ask_raw("quay"));
    let (status, answer) = answer.await.expect("the agent has to wait");
    assert_eq!(status, StatusCode::OK, "{answer}");
    for stalled in stalled {
        assert_ne!(stalled.await.unwrap(), StatusCode::OK);
    }
    // Nobody was asked about a caller that said nothing.
    let reviews = |call: &&String| call.contains("tokenreviews");
    assert_eq!(bench.cluster.calls().iter().filter(reviews).count(), 2);
}

/// From which address a request comes.
fn from(address: &str, mut request: HttpRequest<Body>) -> HttpRequest<Body> {
    let address = SocketAddr::new(address.parse().unwrap(), 1);
    request.extensions_mut().insert(ConnectInfo(address));
    request
}

/// A whole request with these tokens.
fn asking(agent: &str, binding: &str) -> HttpRequest<Body> {
    let body = json!({"namespace": "argocd", "binding": binding, "podToken": POD});
    let mut request = post(body.to_string());
    let bearer = format!("Bearer {agent}").parse().unwrap();
    request.headers_mut().insert(header::AUTHORIZATION, bearer);
    request
}

/// The answers' statuses, once they are there.
fn send(bench: &Bench, request: HttpRequest<Body>) -> JoinHandle<StatusCode> {
    let mut router = bench.router.clone();
    tokio::spawn(async move { Service::call(&mut router, request).await.unwrap().status() })
}

async fn promptly(answer: JoinHandle<StatusCode>) -> StatusCode {
    let answer = tokio::time::timeout(PROMPTLY, answer).await;
    answer.expect("the agent has to wait").unwrap()
}

/// A token that can be remembered, of an agent on this node.
fn agent(bench: &Bench, node: &str, life: i64) -> String {
    let name = "argocd-identity:argocd-identity-agent";
    let token = token(
        node,
        json!("argocd-identity"),
        Timestamp::now().as_second() + life,
    );
    bench.cluster.put_token(&token, review(name, "agent", node));
    token
}

#[tokio::test(start_paused = true)]
async fn tokens_that_nobody_knows_keep_no_agent_waiting() {
    let bench = Bench::new();
    bench.cluster.hang("unknown");
    let stranger = |_| send(&bench, from("192.0.2.66", asking("unknown", "quay")));
    let waiting: Vec<_> = (0..MANY).map(stranger).collect();
    let honest = send(&bench, from("192.0.2.1", asking(AGENT, "quay")));
    assert_eq!(promptly(honest).await, StatusCode::OK);
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_asks_for_everything_leaves_turns_to_others() {
    let bench = Bench::new();
    let (greedy, honest) = (agent(&bench, "n2", 3600), agent(&bench, "n1", 3600));
    bench.cluster.put_token(
        "n2's pod",
        review("argocd:argocd-repo-server", "repo", "n2"),
    );
    bench.cluster.hang("n2's pod");
    let greedy = |_| {
        let mut request = asking(&greedy, "quay");
        let body = json!({"namespace": "argocd", "binding": "quay", "podToken": "n2's pod"});
        *request.body_mut() = body.to_string().into();
        send(&bench, from("192.0.2.2", request))
    };
    let _waiting: Vec<_> = (0..MANY).map(greedy).collect();
    let honest = send(&bench, from("192.0.2.1", asking(&honest, "quay")));
    assert_eq!(promptly(honest).await, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn one_address_has_so_many_requests_and_the_next_has_its_own() {
    let bench = Bench::new();
    bench.cluster.hang("unknown");
    let ask = |address, token| send(&bench, from(address, asking(token, "quay")));
    let waiting: Vec<_> = (0..REQUESTS.1)
        .map(|_| ask("192.0.2.66", "unknown"))
        .collect();
    for _ in 0..MANY {
        tokio::task::yield_now().await;
    }
    let mut router = bench.router.clone();
    let refused = Service::call(&mut router, from("192.0.2.66", asking(AGENT, "quay"))).await;
    let refused = refused.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()[header::RETRY_AFTER], RETRY_AFTER);
    assert_eq!(promptly(ask("192.0.2.1", AGENT)).await, StatusCode::OK);
    for waiting in waiting {
        waiting.await.unwrap();
    }
    assert_eq!(promptly(ask("192.0.2.66", AGENT)).await, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_known_for_a_while_and_its_pods_are_not() {
    let bench = Bench::new();
    let reviews = || {
        let calls = bench.cluster.calls();
        calls
            .iter()
            .filter(|call| call.contains("tokenreviews"))
            .count()
    };
    let long = agent(&bench, "n1", 3600);
    for expected in [2, 3, 4] {
        let answer = promptly(send(&bench, asking(&long, "quay"))).await;
        assert_eq!(answer, StatusCode::OK);
        assert_eq!(reviews(), expected);
    }
    tokio::time::advance(Duration::from_secs(31)).await;
    promptly(send(&bench, asking(&long, "quay"))).await;
    assert_eq!(reviews(), 6);

    // Nobody trusts a token that is about to end for longer than it is asked for.
    let ending = agent(&bench, "n1", 59);
    for expected in [8, 10] {
        promptly(send(&bench, asking(&ending, "quay"))).await;
        assert_eq!(reviews(), expected);
    }
    // A refusal is not remembered.
    for expected in [11, 12] {
        let answer = promptly(send(&bench, asking("nobody", "quay"))).await;
        assert_eq!(answer, StatusCode::UNAUTHORIZED);
        assert_eq!(reviews(), expected);
    }
}
