//! The SDK's errors by the names of the catalogue. Pure: an error of the SDK
//! flows in, a failure flows out that names registry, role and region, whose
//! identity it was, and AWS's own words.

use std::error::Error as StdError;
use std::fmt;

use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use shared::errors::{Code, Named};

use super::Ecr;
use super::connector::{NotSent, Pause};
use super::place::Place;
use crate::exchange::http::{causes, redact};
use crate::jwt::Claims;
use crate::refresh::Failure;

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Sts,
    /// ECR, or ECR Public.
    Ecr,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sts => "AssumeRoleWithWebIdentity",
            Self::Ecr => "GetAuthorizationToken",
        })
    }
}

/// What is asked for, and by whom: the part of a detail that all errors share.
pub(super) struct Asked<'a> {
    ecr: &'a Ecr,
    place: &'a Place,
    claims: Option<&'a Claims>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(ecr: &'a Ecr, place: &'a Place, claims: Option<&'a Claims>) -> Self {
        Self { ecr, place, claims }
    }

    /// The identity's subject; empty for what is no JWT.
    pub(super) fn subject(&self) -> &str {
        let subject = self.claims.and_then(|claims| claims.sub.as_deref());
        subject.unwrap_or_default()
    }

    pub(super) fn error(&self, code: Code, service: Service, words: &str) -> Named {
        Named::new(code, format!("{self}; {service}: {words}"))
    }

    pub(super) fn unreadable(&self, service: Service, words: &str) -> Failure {
        self.error(Code::ExchangeUnreadable, service, words).into()
    }

    /// The name of a call's error.
    pub(super) fn failed<E>(&self, service: Service, error: &SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        if let Some(NotSent(failure)) = not_sent(error) {
            return failure.clone();
        }
        let Some(response) = error.raw_response() else {
            // Nothing was sent: the SDK could not make the request.
            let words = redact(&causes(error));
            return self
                .error(Code::ExchangeUnreachable, service, &words)
                .into();
        };
        let status = response.status().as_u16();
        let (code, message) = (error.code(), error.message().unwrap_or_default());
        let words = match code {
            Some(code) => redact(&format!("{code}: {message}")),
            None => String::from("the answer is not one of AWS"),
        };
        let words = format!("HTTP status {status}: {words}");
        Failure {
            error: self.error(classify(service, status, code, message), service, &words),
            retry_after: response.extension::<Pause>().and_then(|pause| pause.0),
        }
    }
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ecr { host, role_arn, .. } = self.ecr;
        let region = &self.place.region;
        write!(f, "registry {host}, role {role_arn}, region {region}")?;
        let Some(claims) = self.claims else {
            return Ok(());
        };
        for (name, value) in [("issuer", &claims.iss), ("subject", &claims.sub)] {
            if let Some(value) = value {
                write!(f, ", {name} {value}")?;
            }
        }
        match claims.audiences() {
            [] => Ok(()),
            audiences => write!(f, ", audience {}", audiences.join(" ")),
        }
    }
}

/// The outlet's own failure among an error's causes.
fn not_sent<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a NotSent> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        next = cause.source();
    }
    None
}

/// Which error of the catalogue an answer is (STS API reference,
/// `AssumeRoleWithWebIdentity`; ECR API reference, `GetAuthorizationToken`;
/// common errors of both).
fn classify(service: Service, status: u16, code: Option<&str>, message: &str) -> Code {
    let code = code.unwrap_or_default();
    if status == 429 || is_throttling(code) {
        return Code::ExchangeThrottled;
    }
    match (service, code) {
        (Service::Sts, "InvalidIdentityToken") => invalid_token(message),
        (Service::Sts, "ExpiredTokenException" | "ExpiredToken" | "IDPRejectedClaim") => {
            Code::IdentityTokenRejected
        }
        (Service::Sts, "IDPCommunicationError") => Code::IdentityProviderUnreachable,
        (Service::Sts, "AccessDenied" | "AccessDeniedException") => Code::AssumeRoleDenied,
        (Service::Sts, "RegionDisabledException" | "RegionDisabled") => Code::RegionDisabled,
        (Service::Ecr, "AccessDenied" | "AccessDeniedException") => Code::EcrDenied,
        _ if status == 408 || status >= 500 => Code::ExchangeUnreachable,
        (_, "") => Code::ExchangeUnreadable,
        _ => Code::ExchangeRejected,
    }
}

/// One code for three causes, which only the words tell apart.
fn invalid_token(message: &str) -> Code {
    let message = message.to_ascii_lowercase();
    let says = |text| message.contains(text);
    if says("no openidconnect provider") {
        Code::IdentityProviderMissing
    } else if says("couldn't retrieve verification key") || says("could not be reached") {
        Code::IdentityProviderUnreachable
    } else {
        Code::IdentityTokenRejected
    }
}

/// As the SDK's own list of codes that are to be retried later.
fn is_throttling(code: &str) -> bool {
    let others = [
        "RequestLimitExceeded",
        "LimitExceededException",
        "BandwidthLimitExceeded",
        "TooManyRequestsException",
        "SlowDown",
    ];
    code.contains("Throttl") || others.contains(&code)
}

#[cfg(test)]
#[path = "errors_tests.rs"]
mod tests;
