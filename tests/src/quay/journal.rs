//! What the registry was asked, and what it was told to get wrong.
//!
//! Flows in: one entry per answered request, and the failures that a test injects. Flows out: the
//! entries and counts that tests read. No credential is ever written here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use jiff::Timestamp;

/// Which part of the registry a request went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `GET /oauth2/federation/robot/token`.
    Federation,
    /// `GET /v2/auth`.
    Auth,
    /// Everything else below `/v2/`, answered by the real registry.
    Content,
}

/// One answered request.
#[derive(Clone, Debug)]
pub struct Request {
    /// When the answer was ready.
    pub at: Timestamp,
    /// Where it went.
    pub endpoint: Endpoint,
    /// The HTTP method.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// The robot that the request named, if any. For content it is the subject of the registry token.
    pub robot: Option<String>,
    /// HTTP status of the answer.
    pub status: u16,
}

/// A fault that a test injects at one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Failure {
    /// Answer with this status instead of doing the work.
    pub status: Option<StatusCode>,
    /// Wait this long before anything else.
    pub delay: Duration,
    /// How many requests it hits; `None` is until [`super::Quay::heal`].
    pub times: Option<u32>,
}

#[derive(Default)]
pub(super) struct Journal {
    arrived: AtomicUsize,
    requests: Mutex<Vec<Request>>,
    failures: Mutex<HashMap<Endpoint, Failure>>,
}

impl Journal {
    pub(super) fn arrive(&self) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn arrived(&self) -> usize {
        self.arrived.load(Ordering::Relaxed)
    }

    pub(super) fn record(&self, request: Request) {
        lock(&self.requests).push(request);
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }

    pub(super) fn count(&self, matching: impl Fn(&Request) -> bool) -> usize {
        lock(&self.requests)
            .iter()
            .filter(|request| matching(request))
            .count()
    }

    pub(super) fn inject(&self, endpoint: Endpoint, failure: Failure) {
        lock(&self.failures).insert(endpoint, failure);
    }

    pub(super) fn heal(&self, endpoint: Endpoint) {
        lock(&self.failures).remove(&endpoint);
    }

    /// The failure that the next request at `endpoint` suffers; counts it as used.
    pub(super) fn take_failure(&self, endpoint: Endpoint) -> Option<Failure> {
        let mut failures = lock(&self.failures);
        let failure = failures.get_mut(&endpoint)?;
        let current = *failure;
        if let Some(times) = &mut failure.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                failures.remove(&endpoint);
            }
        }
        Some(current)
    }
}

/// A test that panicked while it held the lock must not hide what the others look for.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
