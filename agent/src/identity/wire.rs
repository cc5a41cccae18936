//! The seam between the SPIFFE sources and their wire: what can be asked of a
//! SPIRE agent, whichever of its APIs it is. Faults are [`Named`]: a code of the
//! catalogue with SPIRE's own words.

use std::future::Future;

use futures::stream::BoxStream;
use secrecy::SecretString;
use shared::errors::{Code, Named};
use spiffe::transport::Endpoint;
use spiffe::{JwtBundleSet, X509BundleSet, X509Svid};
use tonic::Status;

use super::Registration;
use crate::exchange::http::{causes, redact};

/// What is asked for: an identity, but for whom it is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask {
    /// The SPIFFE ID.
    pub subject: String,
    /// The audience.
    pub audience: String,
    /// What its entry is found by.
    pub registration: Registration,
}

/// Messages of a stream, until the first fault or the end.
pub type Updates<T> = BoxStream<'static, Result<T, Named>>;

/// A SPIRE agent's API. No call is bounded in time, none is tried again, and
/// every one may give more than was asked for.
pub trait Wire: Send + Sync + 'static {
    /// Where it is asked, for messages.
    fn place(&self) -> String;

    /// What is asked for, with what and where, for messages.
    fn asked(&self, ask: &Ask) -> String;

    /// JWT-SVIDs of the audience, among them perhaps the one that is asked for.
    fn tokens(&self, ask: &Ask) -> impl Future<Output = Result<Vec<SecretString>, Named>> + Send;

    /// All X.509-SVIDs, again with each change. Nothing in a message means that
    /// there is no entry yet.
    fn certificates(
        &self,
        ask: &Ask,
    ) -> impl Future<Output = Result<Updates<Vec<X509Svid>>, Named>> + Send;

    /// The keys of JWT-SVIDs, again with each change.
    fn jwt_bundles(&self) -> impl Future<Output = Result<Updates<JwtBundleSet>, Named>> + Send;

    /// The roots of X.509-SVIDs, again with each change.
    fn x509_bundles(&self) -> impl Future<Output = Result<Updates<X509BundleSet>, Named>> + Send;
}

/// An endpoint in words.
pub(super) fn place(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Unix(path) => format!("socket {}", path.display()),
        Endpoint::Tcp { host, port } => format!("endpoint {host}:{port}"),
        // The type is open for more of them.
        other => format!("endpoint {other:?}"),
    }
}

/// A refusal or failure of a call, by SPIRE's words and status (SPIRE 1.15).
pub fn fault(status: &Status) -> Named {
    let words = redact(status.message());
    // A status that has a cause was not sent by SPIRE: there is no connection.
    if let Some(cause) = std::error::Error::source(status) {
        return Named::new(Code::SpireAgentAbsent, redact(&causes(cause)));
    }
    let code = match status.code() {
        tonic::Code::PermissionDenied if words.contains("authorized delegate") => {
            Code::SpireNotADelegate
        }
        tonic::Code::PermissionDenied => Code::IdentityNotRegistered,
        tonic::Code::InvalidArgument => Code::SelectorsRefused,
        // Another program's socket, or SPIRE's other one.
        tonic::Code::Unimplemented => Code::SpireAgentAbsent,
        _ => Code::SpireUnavailable,
    };
    let kind = format!("{:?}", status.code());
    Named::new(code, format!("{kind}: {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_code() {
        let check = |status: Status, code| {
            let fault = fault(&status);
            assert_eq!(fault.code, code, "{status}");
            assert!(fault.detail.contains(status.message()), "{fault}");
        };
        check(
            Status::permission_denied("caller not configured as an authorized delegate"),
            Code::SpireNotADelegate,
        );
        check(
            Status::permission_denied("no identity issued"),
            Code::IdentityNotRegistered,
        );
        check(
            Status::invalid_argument("malformed selector"),
            Code::SelectorsRefused,
        );
        check(
            Status::unimplemented("unknown service"),
            Code::SpireAgentAbsent,
        );
        for status in [
            Status::unavailable("could not fetch JWT-SVID"),
            Status::internal("x"),
            Status::unknown("x"),
        ] {
            check(status, Code::SpireUnavailable);
        }
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let fault = fault(&Status::from_error(Box::new(refused)));
        assert_eq!(fault.code, Code::SpireAgentAbsent);
        assert!(fault.detail.contains("refused"), "{fault}");
    }

    #[test]
    fn tokens_in_words_are_cut() {
        let fault = fault(&Status::unavailable("bad eyJhbGciOiJSUzI1NiJ9.e30.c2ln"));
        assert_eq!(fault.detail, "Unavailable: bad [redacted]");
    }
}
