//! A SPIRE agent as a source of identities. A question with an exact SPIFFE ID
//! flows in; of all that the [`Wire`] gives, that one identity flows out, with
//! its claims, its signature or chain and its lifetime checked.
//!
//! Calls are not limited in number: there is at most one for each identity of
//! this node, they go to a local socket, and one that hangs must not keep
//! another waiting.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use shared::binding::CredentialKind;
use shared::errors::{Code, Named};
use spiffe::{JwtBundleSet, X509BundleSet, X509Svid};
use tokio::time::{Instant, timeout, timeout_at};

use super::flights::Flights;
use super::signature::{Verdict, verdict};
use super::trust::Subscription;
use super::verify::{Expected, verify};
use super::wire::{Ask, Updates, Wire};
use super::{IdentityError, IdentityRequest, IdentitySource, Svid, certificate};
use crate::jwt::Claims;

/// For one call: SPIRE's attestation of the agent's own pod may take this long.
const LONGEST_CALL: Duration = Duration::from_secs(35);
/// How long an entry that is not there yet is waited for. A subscription brings
/// it as soon as it is.
const ENTRY: Duration = Duration::from_secs(5);
/// So many other SPIFFE IDs are named in a message.
const NAMED: usize = 3;

/// The source.
pub struct Spiffe<W> {
    shared: Arc<Shared<W>>,
    flights: Flights<(CredentialKind, Ask), Svid, Named>,
}

struct Shared<W> {
    wire: Arc<W>,
    trust: Subscription,
    issuer: Option<String>,
}

impl<W: Wire> Spiffe<W> {
    /// Asks `wire`. Every JWT-SVID has to be of `issuer`, if there is one. The
    /// subscription to bundles starts at once, in the background.
    pub fn start(wire: W, issuer: Option<String>) -> Self {
        let wire = Arc::new(wire);
        let trust = Subscription::start(Arc::clone(&wire));
        Self {
            shared: Arc::new(Shared {
                wire,
                trust,
                issuer,
            }),
            flights: Flights::default(),
        }
    }
}

impl<W: Wire> IdentitySource for Spiffe<W> {
    async fn identity(&self, request: &IdentityRequest) -> Result<Svid, IdentityError> {
        let ask = Ask {
            subject: request.subject.clone(),
            audience: request.audience.clone(),
            registration: request.registration.clone(),
        };
        let shared = Arc::clone(&self.shared);
        let call = {
            let (credential, ask) = (request.credential, ask.clone());
            async move { shared.call(credential, &ask).await }
        };
        let broken = Named::new(Code::SpireUnavailable, "the call broke off");
        self.flights
            .join((request.credential, ask), call, broken)
            .await
            .map_err(|error| IdentityError::Refused {
                binding: request.binding.clone(),
                code: error.code,
                message: error.detail,
            })
    }

    fn silence(&self, _credential: CredentialKind) -> Code {
        Code::SpireUnavailable
    }
}

impl<W: Wire> Shared<W> {
    async fn call(&self, credential: CredentialKind, ask: &Ask) -> Result<Svid, Named> {
        let answer = async {
            match credential {
                CredentialKind::SpiffeCertificate => self.certificate(ask).await,
                CredentialKind::SpiffeJWT | CredentialKind::ServiceAccountToken => {
                    self.token(ask).await
                }
            }
        };
        let error = match timeout(LONGEST_CALL, answer).await {
            Ok(Ok(svid)) => return Ok(svid),
            Ok(Err(error)) => error,
            Err(_elapsed) => Named::new(
                Code::SpireUnavailable,
                format!("no answer within {LONGEST_CALL:?}"),
            ),
        };
        let error = self.explain(error).await;
        Err(Named::new(
            error.code,
            format!("{}: {}", self.wire.asked(ask), error.detail),
        ))
    }

    /// SPIRE refuses in the same words whether the project has no entry or the
    /// agent itself: the subscription, which concerns no project, knows.
    async fn explain(&self, error: Named) -> Named {
        if error.code != Code::IdentityNotRegistered {
            return error;
        }
        match self.trust.standing().await {
            Some(Err(own)) if own.code == Code::SpireAgentNotRegistered => own,
            _ => error,
        }
    }

    async fn token(&self, ask: &Ask) -> Result<Svid, Named> {
        let tokens = self.wire.tokens(ask).await?;
        let token = pick(tokens, &ask.subject)?;
        let expected = Expected {
            subject: &ask.subject,
            audience: &ask.audience,
            issuer: self.issuer.as_deref(),
        };
        let token = verify(expected, token, Timestamp::now()).map_err(|flaw| Named::from(&flaw))?;
        self.verify_signature(&token.token, &ask.subject).await?;
        Ok(Svid::Token(token))
    }

    /// Verifies with the bundles, where there are any: a SPIRE agent that gives
    /// none is trusted, as its socket is.
    async fn verify_signature(&self, token: &SecretString, subject: &str) -> Result<(), Named> {
        let found = |bundles: &JwtBundleSet| verdict(token.expose_secret(), subject, bundles);
        let is_known = |bundles: &JwtBundleSet| !matches!(found(bundles), Verdict::UnknownKey(_));
        let Some(bundles) = self.trust.bundles(is_known).await else {
            tracing::debug!(subject, "no JWT bundle: the signature is not verified");
            return Ok(());
        };
        Result::from(found(&bundles)).map_err(|flaw| Named::from(&flaw))
    }

    async fn certificate(&self, ask: &Ask) -> Result<Svid, Named> {
        let bundles = self.roots().await?;
        let updates = self.wire.certificates(ask).await?;
        let svid = await_entry(updates, &ask.subject).await?;
        certificate::verify(&ask.subject, &svid, &bundles, Timestamp::now())
            .map(Svid::Certificate)
            .map_err(|flaw| Named::from(&flaw))
    }

    async fn roots(&self) -> Result<X509BundleSet, Named> {
        let mut updates = self.wire.x509_bundles().await?;
        updates.next().await.unwrap_or_else(|| {
            Err(Named::new(
                Code::SpireUnavailable,
                "the stream of X.509 bundles ended",
            ))
        })
    }
}

/// The token of exactly this subject. Of several the one that lives longest.
fn pick(tokens: Vec<SecretString>, subject: &str) -> Result<SecretString, Named> {
    let mut others = Vec::new();
    let mut best: Option<(Option<Timestamp>, SecretString)> = None;
    for token in tokens {
        let Some(claims) = Claims::read(token.expose_secret()) else {
            continue;
        };
        let expires_at = claims.expires_at();
        match claims.sub {
            Some(sub) if sub == subject => {
                if best.as_ref().is_none_or(|(best, _)| *best < expires_at) {
                    best = Some((expires_at, token));
                }
            }
            other => others.extend(other),
        }
    }
    best.map(|(_, token)| token).ok_or_else(|| missing(others))
}

/// Waits for a message with the SVID of exactly this subject. Of several the
/// one that lives longest. Only a message tells that there is no entry, so the
/// first one is waited for as long as a call may last.
async fn await_entry(
    mut updates: Updates<Vec<X509Svid>>,
    subject: &str,
) -> Result<X509Svid, Named> {
    let mut update = updates.next().await;
    let until = Instant::now() + ENTRY;
    loop {
        let Some(svids) = update.transpose()? else {
            let ended = "the stream of X.509-SVIDs ended";
            return Err(Named::new(Code::SpireUnavailable, ended));
        };
        let (exact, rest): (Vec<_>, Vec<_>) = svids
            .into_iter()
            .partition(|svid| svid.spiffe_id().to_string() == subject);
        let expiry = |svid: &X509Svid| certificate::validity(svid).map(|(_, end)| end);
        if let Some(svid) = exact.into_iter().max_by_key(expiry) {
            return Ok(svid);
        }
        update = match timeout_at(until, updates.next()).await {
            Ok(update) => update,
            Err(_elapsed) => {
                let others = rest.iter().map(|svid| svid.spiffe_id().to_string());
                return Err(missing(others.collect()));
            }
        };
    }
}

/// The asked SPIFFE ID is not among what came.
fn missing(mut others: Vec<String>) -> Named {
    if others.is_empty() {
        return Named::new(Code::IdentityNotRegistered, "nothing was issued");
    }
    others.sort();
    others.dedup();
    let more = others.len().saturating_sub(NAMED);
    others.truncate(NAMED);
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Named::new(
        Code::SpiffeIdNotIssued,
        format!("issued were {}{more}", others.join(", ")),
    )
}

#[cfg(test)]
#[path = "spiffe_tests.rs"]
mod tests;
