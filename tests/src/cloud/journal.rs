//! Requests to a cloud, and the answers that a test prescribes in place of its own. No credential is written down.

use std::collections::BTreeMap;
use std::sync::Mutex;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};

use crate::quay::lock;

/// An answered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The endpoint's name.
    pub endpoint: &'static str,
    /// The status of the answer.
    pub status: u16,
}

/// What an endpoint answers from now on, whatever it is asked.
#[derive(Clone, Debug)]
pub struct Prescribed {
    /// The status.
    pub status: StatusCode,
    /// `Retry-After`, seconds.
    pub retry_after: Option<u32>,
    /// The body; JSON, as far as clients are told.
    pub body: String,
}

#[derive(Default)]
pub(crate) struct Journal {
    requests: Mutex<Vec<Request>>,
    prescribed: Mutex<BTreeMap<&'static str, Prescribed>>,
}

impl Journal {
    /// Every request so far, oldest first.
    pub(crate) fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }

    pub(crate) fn prescribe(&self, endpoint: &'static str, answer: Prescribed) {
        lock(&self.prescribed).insert(endpoint, answer);
    }

    /// Writes a request down, and answers it as prescribed or else by `answer`.
    pub(crate) async fn observe(
        &self,
        endpoint: &'static str,
        answer: impl Future<Output = Response>,
    ) -> Response {
        let prescribed = lock(&self.prescribed).get(endpoint).cloned();
        let response = match prescribed {
            Some(prescribed) => prescribed.into_response(),
            None => answer.await,
        };
        lock(&self.requests).push(Request {
            endpoint,
            status: response.status().as_u16(),
        });
        response
    }
}

impl Prescribed {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        (self.status, headers, self.body).into_response()
    }
}
