//! Why there is no identity: the closed set of errors of all sources.

use shared::errors::{Code, Named};

use super::verify::Flaw;
use crate::demand::BindingRef;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The source did not answer, or could not at the moment.
    #[error("binding {binding}: {reason}")]
    Unreachable {
        /// The binding.
        binding: BindingRef,
        /// What happened, without any secret.
        reason: String,
    },
    /// The source refused, and said why.
    #[error("binding {binding}: {message}")]
    Refused {
        /// The binding.
        binding: BindingRef,
        /// The source's code.
        code: Code,
        /// The source's words.
        message: String,
    },
    /// The agent's own token cannot be read.
    #[error("token file {path}")]
    OwnToken {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What came back is not what was asked for, or not to be used.
    #[error("binding {binding}: {flaw}")]
    Flawed {
        /// The binding.
        binding: BindingRef,
        /// What is wrong with it.
        flaw: Flaw,
    },
}

impl IdentityError {
    /// The catalogue's code.
    pub fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } => Code::ControlPlaneUnreachable,
            Self::Refused { code, .. } => *code,
            Self::OwnToken { .. } => Code::AgentTokenRejected,
            Self::Flawed { flaw, .. } => flaw.code(),
        }
    }
}

impl From<&IdentityError> for Named {
    fn from(error: &IdentityError) -> Self {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        Self::new(
            error.code(),
            format!("{error}{}", cause.unwrap_or_default()),
        )
    }
}
