//! What was asked, and what was told to go wrong. No credential is ever written here.

use std::collections::HashMap;
use std::sync::Mutex;

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse as _, Response};

use super::{ecr, sts};
use crate::quay::lock;

/// A part of AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    /// The Security Token Service.
    Sts,
    /// The API of ECR.
    Ecr,
    /// The API of ECR Public.
    EcrPublic,
    /// A private registry.
    Registry,
}

/// One answered request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which part of AWS it went to.
    pub api: Api,
    /// Under which name.
    pub host: String,
    /// The HTTP method.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// The ARN of the role that asked, or that was asked for; `None` for strangers.
    pub role: Option<String>,
    /// The name of the role's session.
    pub session: Option<String>,
    /// HTTP status of the answer.
    pub status: u16,
}

/// An answer in place of work.
#[derive(Debug, Clone)]
pub struct Fault {
    /// HTTP status.
    pub status: u16,
    /// AWS' error code; without one the answer is a page that is none of AWS'.
    pub code: Option<String>,
    /// AWS' words.
    pub message: String,
    /// `Retry-After`, seconds.
    pub retry_after: Option<u64>,
}

impl Fault {
    /// An error of AWS.
    pub fn new(status: u16, code: &str, message: &str) -> Self {
        Self {
            status,
            code: Some(code.to_owned()),
            message: message.to_owned(),
            retry_after: None,
        }
    }

    pub(super) fn response(&self, api: Api) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::IM_A_TEAPOT);
        let mut response = match (&self.code, api) {
            (None, _) => {
                let page = format!("<html>{}</html>", self.message);
                (status, [(CONTENT_TYPE, "text/html")], page).into_response()
            }
            (Some(code), Api::Sts) => sts::refuse(status, code, &self.message),
            (Some(code), _) => ecr::refuse(status, code, &self.message),
        };
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[derive(Default)]
pub(super) struct Journal {
    requests: Mutex<Vec<Request>>,
    faults: Mutex<HashMap<Api, Fault>>,
}

impl Journal {
    pub(super) fn record(&self, request: Request) {
        lock(&self.requests).push(request);
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }

    pub(super) fn inject(&self, api: Api, fault: Fault) {
        lock(&self.faults).insert(api, fault);
    }

    pub(super) fn heal(&self, api: Api) {
        lock(&self.faults).remove(&api);
    }

    pub(super) fn fault(&self, api: Api) -> Option<Fault> {
        lock(&self.faults).get(&api).cloned()
    }
}
