//! Questions about one pod that are asked at about the same time go out as one
//! call: a pod, its token and a binding flow in, the binding's answer flows out.
//!
//! Every binding is still proved by the token of a pod that consumes it; what is
//! saved is that the control plane has the same token reviewed, and the same pod
//! read, for each of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use shared::identity_api::{
    Answer, ApiError, BATCH_PATH, IdentitiesRequest, IdentitiesResponse, IdentityRequest,
    LARGEST_BATCH, PATH,
};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep};

use super::https::{Failure, Post, Reply};

/// For so long a question waits for others about the same pod.
const GATHER: Duration = Duration::from_millis(10);
/// Calls that run at the same time: the control plane serves every node.
const PARALLEL: usize = 8;
/// A control plane that does not know the call for several is not asked by it
/// again for so long: it may be about to be upgraded.
const AGAIN: Duration = Duration::from_secs(60);

/// Where the questions are gathered. Clones share it.
pub(super) struct Desk<P>(Arc<Inner<P>>);

struct Inner<P> {
    post: P,
    turns: Semaphore,
    gathering: Mutex<Vec<(Pod, Vec<Asker>)>>,
    /// Until then each binding is a call of its own.
    one_by_one: Mutex<Option<Instant>>,
}

/// What a call is about.
#[derive(Clone)]
struct Pod {
    namespace: String,
    token: SecretString,
}

impl Pod {
    fn is(&self, other: &Self) -> bool {
        self.namespace == other.namespace
            && self.token.expose_secret() == other.token.expose_secret()
    }
}

struct Asker {
    binding: String,
    reply: oneshot::Sender<Result<Answer, Failure>>,
}

impl<P: Post> Desk<P> {
    pub(super) fn new(post: P) -> Self {
        Self(Arc::new(Inner {
            post,
            turns: Semaphore::new(PARALLEL),
            gathering: Mutex::default(),
            one_by_one: Mutex::default(),
        }))
    }

    /// Asks for the identity of a binding on behalf of a pod. Whoever waits too
    /// long is told by its caller.
    pub(super) async fn ask(
        &self,
        namespace: &str,
        binding: &str,
        token: &SecretString,
    ) -> Result<Answer, Failure> {
        let pod = Pod {
            namespace: namespace.to_owned(),
            token: token.clone(),
        };
        let (reply, answer) = oneshot::channel();
        let asker = Asker {
            binding: binding.to_owned(),
            reply,
        };
        if self.0.join(&pod, asker) {
            tokio::spawn(gather(Arc::clone(&self.0), pod));
        }
        let broken = |_| Err(Failure::Unreachable("the call broke off".to_owned()));
        answer.await.unwrap_or_else(broken)
    }
}

/// Waits for more questions about the pod, and sends them all.
async fn gather<P: Post>(desk: Arc<Inner<P>>, pod: Pod) {
    sleep(GATHER).await;
    let mut askers = desk.take(&pod).into_iter();
    loop {
        let batch: Vec<_> = askers.by_ref().take(LARGEST_BATCH).collect();
        if batch.is_empty() {
            break;
        }
        tokio::spawn(call(Arc::clone(&desk), pod.clone(), batch));
    }
}

async fn call<P: Post>(desk: Arc<Inner<P>>, pod: Pod, mut askers: Vec<Asker>) {
    // Never closed.
    let turn = desk.turns.acquire().await;
    askers.retain(|asker| !asker.reply.is_closed());
    if askers.len() > 1 && desk.takes_several() {
        askers = desk.several(&pod, askers).await;
    }
    let mut askers = askers.into_iter();
    let last = askers.next_back();
    for asker in askers {
        tokio::spawn(alone(Arc::clone(&desk), pod.clone(), asker));
    }
    if let Some(asker) = last {
        desk.one(&pod, asker).await;
    }
    drop(turn);
}

async fn alone<P: Post>(desk: Arc<Inner<P>>, pod: Pod, asker: Asker) {
    let _turn = desk.turns.acquire().await;
    if !asker.reply.is_closed() {
        desk.one(&pod, asker).await;
    }
}

impl<P: Post> Inner<P> {
    /// Adds a question. Returns whether it is the first about its pod.
    fn join(&self, pod: &Pod, asker: Asker) -> bool {
        let mut gathering = lock(&self.gathering);
        match gathering.iter_mut().find(|(known, _)| known.is(pod)) {
            Some((_, askers)) => {
                askers.push(asker);
                false
            }
            None => {
                gathering.push((pod.clone(), vec![asker]));
                true
            }
        }
    }

    fn take(&self, pod: &Pod) -> Vec<Asker> {
        let mut gathering = lock(&self.gathering);
        let place = gathering.iter().position(|(known, _)| known.is(pod));
        place.map_or_else(Vec::new, |place| gathering.swap_remove(place).1)
    }

    fn takes_several(&self) -> bool {
        let until = *lock(&self.one_by_one);
        until.is_none_or(|until| until <= Instant::now())
    }

    async fn one(&self, pod: &Pod, asker: Asker) {
        let request = IdentityRequest {
            namespace: pod.namespace.clone(),
            binding: asker.binding,
            pod_token: pod.token.clone(),
        };
        let reply = self.post.post(PATH, &request).await;
        let answer = reply.and_then(|reply| match refusal(&reply) {
            Some(refused) => Ok(Answer::Refused(refused)),
            None => read(&reply).map(Answer::Issued),
        });
        // Whoever asked may have given up.
        let _ = asker.reply.send(answer);
    }

    /// Answers all with one call. Returns those who have to be asked for one by
    /// one: who asks for the same as another, and all where the control plane
    /// does not know this call.
    async fn several(&self, pod: &Pod, askers: Vec<Asker>) -> Vec<Asker> {
        let mut names = BTreeSet::new();
        let (askers, again): (Vec<_>, Vec<_>) = askers
            .into_iter()
            .partition(|asker| names.insert(asker.binding.clone()));
        let request = IdentitiesRequest {
            namespace: pod.namespace.clone(),
            bindings: names.into_iter().collect(),
            pod_token: pod.token.clone(),
        };
        let reply = self.post.post(BATCH_PATH, &request).await;
        let answers = match &reply {
            Ok((status, _)) if is_unknown(*status) && reply_error(&reply).is_none() => {
                *lock(&self.one_by_one) = Some(Instant::now() + AGAIN);
                return askers.into_iter().chain(again).collect();
            }
            Ok(reply) => match refusal(reply) {
                Some(refused) => Err(Ok(refused)),
                None => read::<IdentitiesResponse>(reply).map_err(Err),
            },
            Err(failure) => Err(Err(failure.clone())),
        };
        let mut answers = answers.map(|answers| answers.answers);
        for asker in askers {
            let answer = match &mut answers {
                Ok(answers) => answers
                    .remove(&asker.binding)
                    .ok_or_else(|| Failure::Unreachable("no answer for this binding".to_owned())),
                Err(Ok(refused)) => Ok(Answer::Refused(refused.clone())),
                Err(Err(failure)) => Err(failure.clone()),
            };
            let _ = asker.reply.send(answer);
        }
        again
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every write is whole, so a panic leaves it usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_unknown(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
    )
}

fn reply_error(reply: &Result<Reply, Failure>) -> Option<ApiError> {
    let (_, body) = reply.as_ref().ok()?;
    serde_json::from_slice(body).ok()
}

/// Why the whole call was refused, in the control plane's words.
fn refusal((status, body): &Reply) -> Option<ApiError> {
    (!status.is_success()).then_some(())?;
    serde_json::from_slice(body).ok()
}

fn read<T: DeserializeOwned>((status, body): &Reply) -> Result<T, Failure> {
    if !status.is_success() {
        return Err(Failure::Unreachable(format!("HTTP status {status}")));
    }
    // Line and column only: the message could quote a token.
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Failure::Unreachable(format!(
            "the answer cannot be read: line {line}, column {column}"
        ))
    })
}

#[cfg(test)]
mod tests;
