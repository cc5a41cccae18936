//! One call at a time for the same question, however many ask it. Questions
//! flow in; all who ask while a call is under way, or a moment after it ended
//! well, get its answer.
//!
//! The call is a task of its own: a caller that gives up does not break it off,
//! so that an answer that takes longer than one attempt is there for the next.
//!
//! *Who may share.* An answer is not proved for each asker, so only sources
//! whose answer does not depend on the asker may use this. SPIRE's answer
//! depends on the question alone, and the question has the namespace and the
//! project; that the askers are consumers of it was decided by the demand, from
//! the pods that kubelet published on this node. The control plane proves each
//! holder by its pod's own token, and shares nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared};

/// For so long an answer is given again.
const REUSE: Duration = Duration::from_millis(250);

type Calls<K, T, E> = Mutex<BTreeMap<K, Shared<BoxFuture<'static, Result<T, E>>>>>;

/// The calls that are under way.
pub struct Flights<K, T, E>(Arc<Calls<K, T, E>>);

impl<K, T, E> Default for Flights<K, T, E> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, T, E> Flights<K, T, E>
where
    K: Ord + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// The answer to `question`: that of the call which is under way, or of
    /// `call`. `broken` is the answer of a call that panicked.
    pub async fn join<F>(&self, question: K, call: F, broken: E) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let answer = {
            let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            calls
                .entry(question.clone())
                .or_insert_with(|| self.start(question, call, broken))
                .clone()
        };
        answer.await
    }

    fn start<F>(&self, question: K, call: F, broken: E) -> Shared<BoxFuture<'static, Result<T, E>>>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let call = tokio::spawn(call);
        let answer = async move { call.await.unwrap_or(Err(broken)) };
        let answer = answer.boxed().shared();
        let (ended, calls) = (answer.clone(), Arc::clone(&self.0));
        tokio::spawn(async move {
            if ended.await.is_ok() {
                tokio::time::sleep(REUSE).await;
            }
            let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
            calls.remove(&question);
        });
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    struct Bench {
        flights: Flights<u8, usize, &'static str>,
        calls: Arc<AtomicUsize>,
        gate: Arc<Semaphore>,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                flights: Flights::default(),
                calls: Arc::default(),
                gate: Arc::new(Semaphore::new(0)),
            }
        }

        async fn ask(&self, question: u8, good: bool) -> Result<usize, &'static str> {
            let (calls, gate) = (Arc::clone(&self.calls), Arc::clone(&self.gate));
            let call = async move {
                let number = calls.fetch_add(1, Ordering::SeqCst);
                // A call too many fails, since nobody opens the gate for it.
                let turn = tokio::time::timeout(Duration::from_secs(60), gate.acquire());
                let turn = turn.await.map_err(|_elapsed| "one too many")?;
                turn.map_err(|_closed| "closed")?.forget();
                if good { Ok(number) } else { Err("refused") }
            };
            self.flights.join(question, call, "broken").await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_the_same_share_a_call() {
        let bench = Bench::new();
        bench.gate.add_permits(2);
        let answers = tokio::join!(bench.ask(1, true), bench.ask(1, true), bench.ask(2, true));
        assert_eq!(answers.0, answers.1);
        assert_ne!(answers.0, answers.2);
        assert_eq!(bench.ask(1, true).await, answers.0);
        tokio::time::advance(REUSE * 2).await;
        tokio::task::yield_now().await;
        bench.gate.add_permits(1);
        assert_eq!(bench.ask(1, true).await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_not_given_twice() {
        let bench = Bench::new();
        bench.gate.add_permits(2);
        assert_eq!(bench.ask(1, false).await, Err("refused"));
        tokio::task::yield_now().await;
        assert_eq!(bench.ask(1, true).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_gives_up_leaves_the_call_to_the_next() {
        let bench = Bench::new();
        let impatient = tokio::time::timeout(Duration::from_secs(1), bench.ask(1, true));
        assert!(impatient.await.is_err());
        bench.gate.add_permits(1);
        assert_eq!(bench.ask(1, true).await, Ok(0));
    }
}
