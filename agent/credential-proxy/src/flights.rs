//! One fetch at a time for each token: requests that need the same one at the
//! same time wait for the first one's, and share its outcome.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use shared::errors::Named;
use tokio::sync::OnceCell;

use crate::tokens::TokenKey;

type Flight = OnceCell<Result<SecretString, Named>>;

/// The fetches under way.
#[derive(Debug, Default)]
pub struct Flights(Mutex<HashMap<TokenKey, Arc<Flight>>>);

impl Flights {
    /// Waits for `fetch`, or for the fetch of the same token that is under way.
    /// Where the request that runs it is given up, one that waits runs its own.
    /// `keep` is called once, by the request that fetched, and after the fetch
    /// has ended: whom the registry refuses this token begins another.
    ///
    /// # Errors
    /// Those of `fetch`, for everyone who waited.
    pub async fn join(
        &self,
        key: &TokenKey,
        fetch: impl Future<Output = Result<(SecretString, Duration), Named>>,
        keep: impl FnOnce(&SecretString, Duration),
    ) -> Result<SecretString, Named> {
        let flight = self.lock().entry(key.clone()).or_default().clone();
        let run = || async {
            let fetched = fetch.await;
            self.lock().remove(key);
            let (token, life) = fetched?;
            keep(&token, life);
            Ok(token)
        };
        let outcome = flight.get_or_init(run).await.clone();
        let mut flights = self.lock();
        // Fetches that everybody gave up.
        flights.retain(|_, it| Arc::strong_count(it) > 1);
        outcome
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TokenKey, Arc<Flight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use secrecy::ExposeSecret;
    use shared::errors::Code;
    use tokio::sync::Notify;

    use super::*;
    use crate::parse::target::Authority;

    fn key() -> TokenKey {
        TokenKey {
            binding: "a".into(),
            project: None,
            target: Authority::parse("quay.test").unwrap(),
            repository: None,
        }
    }

    #[tokio::test]
    async fn whoever_waits_shares_the_outcome_and_the_next_one_fetches_again() {
        let (flights, runs, gate) = (Flights::default(), AtomicUsize::new(0), Notify::new());
        for (number, fails) in [(1, false), (2, true), (3, false)] {
            let join = || async {
                let fetch = async {
                    runs.fetch_add(1, Ordering::SeqCst);
                    gate.notified().await;
                    if fails {
                        return Err(Named::new(Code::RegistryRefused, "no"));
                    }
                    Ok(("t".into(), Duration::ZERO))
                };
                let key = key();
                let outcome = flights.join(&key, fetch, |_, _| {}).await;
                outcome.map(|token| token.expose_secret().to_owned())
            };
            let open = async { gate.notify_one() };
            let all = async { tokio::join!(join(), join(), join(), open) };
            let all = tokio::time::timeout(Duration::from_secs(10), all).await;
            let (a, b, c, ()) = all.unwrap();
            assert_eq!(a.is_err(), fails);
            assert_eq!((&a, &a), (&b, &c));
            assert_eq!(runs.load(Ordering::SeqCst), number);
        }
        assert!(flights.lock().is_empty());
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_leaves_the_fetch_to_another() {
        let (flights, key) = (Flights::default(), key());
        let never = flights.join(&key, std::future::pending(), |_, _| {});
        let mut never = Box::pin(never);
        assert!(is_pending(&mut never).await);
        let kept = AtomicUsize::new(0);
        let fetch = async { Ok(("t".into(), Duration::ZERO)) };
        let second = flights.join(&key, fetch, |_, _| {
            kept.fetch_add(1, Ordering::SeqCst);
        });
        let mut second = Box::pin(second);
        assert!(is_pending(&mut second).await, "it waits for the first");
        drop(never);
        assert!(second.await.is_ok());
        assert_eq!(kept.load(Ordering::SeqCst), 1);
    }

    /// Polls once; whether the future is pending.
    async fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
        std::future::poll_fn(|cx| {
            let pending = std::pin::Pin::new(&mut *future).poll(cx).is_pending();
            std::task::Poll::Ready(pending)
        })
        .await
    }
}
