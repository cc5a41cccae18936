//! A control plane that says what a test has it say.

use futures::future::join_all;
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::*;

/// Answers for every binding but `absent`; calls so far.
#[derive(Clone, Default)]
struct ControlPlane {
    /// Whether it knows the call for several.
    is_old: Arc<Mutex<bool>>,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
}

fn issued(binding: &str) -> Value {
    json!({
        "token": "jwt", "subject": binding, "audience": "a", "expiresAt": "2026-01-01T00:00:00Z",
    })
}

fn refused() -> Value {
    json!({"code": "binding-not-found", "message": "gone"})
}

impl ControlPlane {
    fn answer(&self, path: &str, body: &Value) -> (u16, Value) {
        if body["podToken"] == "expired" {
            return (
                403,
                json!({"code": "pod-token-rejected", "message": "expired"}),
            );
        }
        match (path, body["binding"].as_str()) {
            (PATH, Some("absent")) => (404, refused()),
            (PATH, Some(binding)) => (200, issued(binding)),
            (BATCH_PATH, None) if *lock(&self.is_old) => (404, Value::Null),
            (BATCH_PATH, None) => {
                let names = body["bindings"].as_array().unwrap();
                let answers = names.iter().map(|name| match name.as_str().unwrap() {
                    "absent" => ("absent".to_owned(), json!({"refused": refused()})),
                    name => (name.to_owned(), json!({"issued": issued(name)})),
                });
                (
                    200,
                    json!({"answers": answers.collect::<serde_json::Map<_, _>>()}),
                )
            }
            other => panic!("{other:?}"),
        }
    }

    fn paths(&self) -> Vec<String> {
        lock(&self.calls)
            .iter()
            .map(|(path, _)| path.clone())
            .collect()
    }
}

impl Post for ControlPlane {
    async fn post<B: Serialize + Sync>(&self, path: &str, body: &B) -> Result<Reply, Failure> {
        let body = serde_json::to_value(body).unwrap();
        lock(&self.calls).push((path.to_owned(), body.clone()));
        let (status, answer) = self.answer(path, &body);
        let answer = match answer {
            Value::Null => Vec::new(),
            answer => serde_json::to_vec(&answer).unwrap(),
        };
        Ok((
            StatusCode::from_u16(status).unwrap(),
            Zeroizing::new(answer),
        ))
    }
}

/// What becomes of a question for each of these bindings at the same time: the
/// subject, or the code of the refusal.
async fn ask(desk: &Desk<ControlPlane>, token: &str, bindings: &[&str]) -> Vec<String> {
    let token = SecretString::from(token);
    let asked = bindings
        .iter()
        .map(|binding| desk.ask("argocd", binding, &token));
    let answers = join_all(asked).await.into_iter();
    let shown = answers.map(|answer| match answer.unwrap() {
        Answer::Issued(identity) => identity.subject,
        Answer::Refused(error) => error.code,
    });
    shown.collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_at_once_about_a_pod_is_one_call() {
    let control_plane = ControlPlane::default();
    let desk = Desk::new(control_plane.clone());
    let (ours, theirs) = tokio::join!(
        ask(&desk, "pod", &["a", "absent", "b"]),
        ask(&desk, "another pod", &["a"]),
    );
    assert_eq!(ours, ["a", "binding-not-found", "b"]);
    assert_eq!(theirs, ["a"]);
    let mut paths = control_plane.paths();
    paths.sort();
    assert_eq!(paths, [BATCH_PATH, PATH]);
    // What is asked later is another call.
    assert_eq!(ask(&desk, "pod", &["a"]).await, ["a"]);
    assert_eq!(control_plane.paths().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_asks_twice_is_answered_twice() {
    let desk = Desk::new(ControlPlane::default());
    assert_eq!(ask(&desk, "pod", &["a", "b", "a"]).await, ["a", "b", "a"]);
}

#[tokio::test(start_paused = true)]
async fn more_than_a_call_may_name_are_several_calls() {
    let control_plane = ControlPlane::default();
    let desk = Desk::new(control_plane.clone());
    let names: Vec<_> = (0..LARGEST_BATCH * 2 + 1)
        .map(|at| format!("b{at}"))
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    assert_eq!(ask(&desk, "pod", &names).await, names);
    let mut paths = control_plane.paths();
    paths.sort();
    assert_eq!(paths, [BATCH_PATH, BATCH_PATH, PATH]);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_of_before_is_asked_one_by_one() {
    let control_plane = ControlPlane::default();
    *lock(&control_plane.is_old) = true;
    let desk = Desk::new(control_plane.clone());
    let expected = ["a", "binding-not-found", "b"];
    for calls in [4, 7] {
        assert_eq!(ask(&desk, "pod", &["a", "absent", "b"]).await, expected);
        assert_eq!(control_plane.paths().len(), calls);
    }
    // After its upgrade it is asked for several again.
    *lock(&control_plane.is_old) = false;
    tokio::time::advance(AGAIN).await;
    assert_eq!(ask(&desk, "pod", &["a", "absent", "b"]).await, expected);
    assert_eq!(control_plane.paths().len(), 8);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_pod_is_said_to_all() {
    let desk = Desk::new(ControlPlane::default());
    let answers = ask(&desk, "expired", &["a", "b"]).await;
    assert_eq!(answers, ["pod-token-rejected", "pod-token-rejected"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_for_those_who_gave_up() {
    let control_plane = ControlPlane::default();
    let desk = Desk::new(control_plane.clone());
    let token = SecretString::from("pod");
    let gone = tokio::time::timeout(GATHER / 2, desk.ask("argocd", "gone", &token));
    let (gone, answer) = tokio::join!(gone, desk.ask("argocd", "a", &token));
    assert!(gone.is_err() && answer.is_ok());
    assert_eq!(control_plane.paths(), [PATH]);
}
