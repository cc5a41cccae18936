//! Who calls the identity API: an agent's token flows in, an [`Agent`] flows
//! out.
//!
//! A token that has just been accepted is known for a while, so that an agent
//! with much to ask is not held up by others whose tokens nobody knows.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest;
use control_plane_core::identity::authorize::{self, Agent, Policy};
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use shared::errors::Named;
use tokio::time::Instant;

use super::{reviewer::Reviewer, token_request};
use crate::limits::{Peer, Shares};

/// Tokens of agents that are reviewed at once, and how many of one address.
const REVIEWS: (usize, usize) = (16, 2);
/// For so long an accepted token is not reviewed again. An agent whose pod was
/// deleted is served for this long; the tokens of pods are always reviewed.
const KNOWN: Duration = Duration::from_secs(30);
/// A token that ends within this time is not remembered.
const MARGIN: Duration = Duration::from_secs(60);
/// Tokens that are remembered: an agent has one, a cluster 5,000 nodes at most
/// (<https://kubernetes.io/docs/setup/best-practices/cluster-large/>).
const LARGEST: usize = 8192;

/// SHA-256 of a token.
type Fingerprint = [u8; 32];

/// Recognises agents.
pub(super) struct Callers {
    policy: Policy,
    reviewer: Reviewer,
    reviews: Shares<Peer>,
    known: Mutex<HashMap<Fingerprint, (Agent, Instant)>>,
}

impl Callers {
    pub(super) fn new(policy: Policy, reviewer: Reviewer) -> Self {
        let (all, each) = REVIEWS;
        Self {
            policy,
            reviewer,
            reviews: Shares::new(all, each),
            known: Mutex::default(),
        }
    }

    /// The agent whose token this is.
    ///
    /// # Errors
    /// As [`authorize::agent`] and [`Reviewer::review`].
    pub(super) async fn agent(&self, peer: Peer, token: &SecretString) -> Result<Agent, Named> {
        let fingerprint = fingerprint(token);
        if let Some(agent) = self.known(&fingerprint) {
            return Ok(agent);
        }
        let _turn = self.reviews.take(&peer).await;
        // Whoever waited may have waited for a review of the same token.
        if let Some(agent) = self.known(&fingerprint) {
            return Ok(agent);
        }
        let agent = authorize::agent(&self.reviewer.review(token).await?, &self.policy)?;
        self.remember(fingerprint, &agent, token);
        Ok(agent)
    }

    fn known(&self, fingerprint: &Fingerprint) -> Option<Agent> {
        let known = self.lock();
        let (agent, until) = known.get(fingerprint)?;
        (*until > Instant::now()).then(|| agent.clone())
    }

    fn remember(&self, fingerprint: Fingerprint, agent: &Agent, token: &SecretString) {
        let now = Instant::now();
        let left = token_request::expiry(token)
            .map(|expiry| expiry.duration_since(Timestamp::now()))
            .and_then(|left| {
                Duration::try_from(left - SignedDuration::try_from(MARGIN).ok()?).ok()
            });
        // Nobody knows when a token without a readable end has one.
        let Some(left) = left else { return };
        let mut known = self.lock();
        if known.len() >= LARGEST {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() < LARGEST {
            known.insert(fingerprint, (agent.clone(), now + left.min(KNOWN)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Fingerprint, (Agent, Instant)>> {
        // Every write adds or removes whole entries, so a panic leaves it usable.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fingerprint(token: &SecretString) -> Fingerprint {
    let mut fingerprint = [0; 32];
    let digest = digest::digest(&digest::SHA256, token.expose_secret().as_bytes());
    fingerprint.copy_from_slice(digest.as_ref());
    fingerprint
}
