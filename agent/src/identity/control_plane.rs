//! Identities from the control plane's identity API ([`shared::identity_api`]):
//! the agent's own token and a consumer pod's token flow in, an identity that
//! is exactly what was asked for flows out.

mod desk;
mod https;

use std::path::PathBuf;

use jiff::Timestamp;
use reqwest::Url;
use shared::binding::CredentialKind;
use shared::errors::Code;
use shared::identity_api::Answer;

use self::desk::Desk;
use self::https::{Failure, Https};
use super::verify::{Expected, Flaw, verify};
use super::{IdentityError, IdentityRequest, IdentitySource, Svid};

/// The control plane as a source of identities.
pub struct ControlPlane {
    desk: Desk<Https>,
    issuer: Option<String>,
}

impl ControlPlane {
    /// The control plane at `url` (https, only its origin counts), verified
    /// with the PEM certificates of `ca_file`; `token_file` has the agent's own
    /// token. Both files may change at any time and are read for each call.
    /// Every JWT-SVID has to be of `issuer`, if there is one.
    pub fn new(url: &Url, ca_file: PathBuf, token_file: PathBuf, issuer: Option<String>) -> Self {
        Self {
            desk: Desk::new(Https::new(url, ca_file, token_file)),
            issuer,
        }
    }
}

impl IdentitySource for ControlPlane {
    async fn identity(&self, request: &IdentityRequest) -> Result<Svid, IdentityError> {
        let binding = &request.binding;
        let asked = self
            .desk
            .ask(&binding.namespace, &binding.name, &request.pod_token);
        let answer = match asked.await {
            Ok(Answer::Issued(identity)) => identity,
            Ok(Answer::Refused(error)) => {
                let code = Code::from_name(&error.code).unwrap_or(Code::BadRequest);
                return Err(IdentityError::Refused {
                    binding: binding.clone(),
                    code,
                    message: detail(code, &error.message).chars().take(500).collect(),
                });
            }
            Err(Failure::OwnToken { path, kind }) => {
                let source = kind.into();
                return Err(IdentityError::OwnToken { path, source });
            }
            Err(Failure::Unreachable(reason)) => {
                return Err(IdentityError::Unreachable {
                    binding: binding.clone(),
                    reason,
                });
            }
        };
        let flawed = |flaw| IdentityError::Flawed {
            binding: request.binding.clone(),
            flaw,
        };
        for (field, found, asked) in [
            ("subject", &answer.subject, &request.subject),
            ("audience", &answer.audience, &request.audience),
        ] {
            if found != asked {
                return Err(flawed(Flaw::differs(field, found, asked)));
            }
        }
        let expected = Expected {
            subject: &request.subject,
            audience: &request.audience,
            issuer: match request.credential {
                CredentialKind::ServiceAccountToken => None,
                _ => self.issuer.as_deref(),
            },
        };
        let token = verify(expected, answer.token, Timestamp::now()).map_err(flawed)?;
        if token.expires_at.as_second() != answer.expires_at.as_second() {
            let asked = format!("{}, the token's exp", token.expires_at);
            let found = answer.expires_at.to_string();
            return Err(flawed(Flaw::differs("expiresAt", found, asked)));
        }
        Ok(Svid::Token(token))
    }

    fn silence(&self, _credential: CredentialKind) -> Code {
        Code::ControlPlaneUnreachable
    }
}

/// The detail in a whole sentence of the catalogue, which is put around it
/// again when the error is reported.
fn detail(code: Code, message: &str) -> &str {
    message
        .strip_prefix(code.as_str())
        .and_then(|rest| rest.strip_prefix(": ")?.strip_prefix(code.cause()))
        .and_then(|rest| rest.strip_suffix(code.remedy())?.strip_prefix(" ("))
        .and_then(|rest| rest.strip_suffix("). "))
        .unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use shared::errors::Named;

    use super::*;

    #[test]
    fn causes_and_remedies_are_not_said_twice() {
        for code in Code::ALL {
            let sentence = Named::new(*code, "pod (a) x").to_string();
            assert_eq!(detail(*code, &sentence), "pod (a) x");
        }
        assert_eq!(detail(Code::BadRequest, "other words"), "other words");
    }
}
