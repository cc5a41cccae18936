//! Carries out an [`Attempt`]: proves every holder to the identity source, and
//! trades one of the identities for a credential. IO only; what to attempt and
//! what follows is decided in [`crate::refresh`].
//!
//! Attempts do not wait for each other. Identity sources limit inside themselves
//! what would be asked by too many at once, and an exchange's upstream has its
//! limit before an attempt begins, so that no attempt spends its time waiting.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;
use shared::errors::{Code, Named};
use tokio::time::timeout;

use crate::demand::{Holder, Key};
use crate::exchange::{self, Credential, Trade, http::Upstream};
use crate::identity::{IdentityRequest, IdentitySource, Registration, Svid};
use crate::refresh::{Attempt, Outcome, Target};

/// The identity source and the exchanges.
pub struct Acquirer<S> {
    identities: S,
    upstream: Upstream,
}

impl Target for Key {
    fn upstream(&self) -> Option<String> {
        self.trade.as_ref().map(Trade::upstream)
    }
}

/// For each holder of an attempt the token of one of its running pods.
pub type PodTokens = BTreeMap<Holder, SecretString>;

impl<S: IdentitySource> Acquirer<S> {
    /// Uses these.
    pub fn new(identities: S, upstream: Upstream) -> Self {
        Self {
            identities,
            upstream,
        }
    }

    /// Carries out the attempt within its deadline.
    pub async fn acquire(
        &self,
        attempt: Attempt<Key, Holder>,
        pods: PodTokens,
    ) -> Outcome<Holder, Credential> {
        let deadline = tokio::time::Instant::now() + attempt.deadline;
        let proofs = attempt.holders.iter().map(|holder| async {
            let proof = self.prove(&attempt, holder, pods.get(holder), deadline);
            (holder.clone(), proof.await)
        });
        let mut identity: Option<Svid> = None;
        let mut outcome = Outcome {
            proofs: BTreeMap::new(),
            credential: None,
        };
        for (holder, proof) in futures::future::join_all(proofs).await {
            let proof = proof.map(|token| {
                identity.get_or_insert(token);
            });
            outcome.proofs.insert(holder, proof);
        }
        if let Some(identity) = identity.filter(|_| attempt.renew) {
            let trade = exchange::exchange(&self.upstream, &attempt.key, identity);
            outcome.credential = Some(
                tokio::time::timeout_at(deadline, trade)
                    .await
                    .unwrap_or_else(|_elapsed| {
                        let detail = format!(
                            "identity {}: no answer within {:?}",
                            attempt.key.subject, attempt.deadline
                        );
                        Err(Named::new(Code::ExchangeUnreachable, detail).into())
                    }),
            );
        }
        outcome
    }

    async fn prove(
        &self,
        attempt: &Attempt<Key, Holder>,
        holder: &Holder,
        pod_token: Option<&SecretString>,
        deadline: tokio::time::Instant,
    ) -> Result<Svid, Named> {
        let Some(pod_token) = pod_token else {
            let detail = format!(
                "no pod of service account {}/{} has a valid token here",
                holder.binding.namespace, holder.service_account
            );
            return Err(Named::new(Code::PodTokenRejected, detail));
        };
        let request = IdentityRequest {
            binding: holder.binding.clone(),
            pod_token: pod_token.clone(),
            credential: attempt.key.credential,
            subject: attempt.key.subject.clone(),
            audience: attempt.key.audience.clone(),
            registration: Registration {
                namespace: attempt.key.namespace.clone(),
                service_account: attempt.key.service_account.clone(),
                project: attempt.key.project.clone(),
            },
        };
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        // An exchange that has to follow needs its share of the time.
        let share = if attempt.renew {
            left.mul_f64(0.6)
        } else {
            left
        };
        match timeout(
            share.max(Duration::from_millis(100)),
            self.identities.identity(&request),
        )
        .await
        {
            Ok(Ok(token)) => Ok(token),
            Ok(Err(error)) => Err(Named::from(&error)),
            Err(_elapsed) => Err(Named::new(
                self.identities.silence(request.credential),
                format!("binding {}: no answer within {share:?}", holder.binding),
            )),
        }
    }
}

/// The outcome of an attempt that did not get anywhere.
pub fn failed(attempt: &Attempt<Key, Holder>, error: &Named) -> Outcome<Holder, Credential> {
    Outcome {
        proofs: attempt
            .holders
            .iter()
            .map(|holder| (holder.clone(), Err(error.clone())))
            .collect(),
        credential: None,
    }
}

#[cfg(test)]
#[path = "acquire_tests.rs"]
mod tests;
