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

/// An answered request for the registry's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// `/v2/` and on, without query.
    pub path: String,
    /// The cloud's account whose registry token came along; `None` without a valid one.
    pub account: Option<String>,
    /// The status of the registry's answer.
    pub status: u16,
}

/// What the token realm gave an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The cloud's account that asked.
    pub account: String,
    /// The repositories that it asked for.
    pub asked: Vec<String>,
    /// Those that it may pull.
    pub granted: Vec<String>,
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
pub(super) struct Journal {
    requests: Mutex<Vec<Request>>,
    content: Mutex<Vec<Content>>,
    grants: Mutex<Vec<Grant>>,
    prescribed: Mutex<BTreeMap<&'static str, Prescribed>>,
}

impl Journal {
    pub(super) fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }

    pub(super) fn content(&self) -> Vec<Content> {
        lock(&self.content).clone()
    }

    pub(super) fn grants(&self) -> Vec<Grant> {
        lock(&self.grants).clone()
    }

    pub(super) fn prescribe(&self, endpoint: &'static str, answer: Prescribed) {
        lock(&self.prescribed).insert(endpoint, answer);
    }

    pub(super) fn observe(
        &self,
        endpoint: &'static str,
        answer: impl FnOnce() -> Response,
    ) -> Response {
        let prescribed = lock(&self.prescribed).get(endpoint).cloned();
        let response = prescribed.map_or_else(answer, Prescribed::into_response);
        lock(&self.requests).push(Request {
            endpoint,
            status: response.status().as_u16(),
        });
        response
    }

    pub(super) fn grant(&self, grant: Grant) {
        lock(&self.grants).push(grant);
    }

    pub(super) fn read(&self, content: Content) {
        lock(&self.content).push(content);
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
