//! The overlap of keys: what the Secret has and the time flow in, the key that
//! signs and all that are published flow out. Pure.
//!
//! ```text
//!   in the Secret       ├── new as tls.key ──────────────────────────────────────▶
//!   published           ├──────────────────────────────────────────────────────────▶
//!   signs               old ──── SETTLE ────▶ new ────────────────────────────────▶
//!   old key published   ─────────────────────────────── its last token ────▶│
//! ```
//!
//! Publish before sign: a key signs once every replica has read the Secret
//! since, and nobody's copy of a key set is from before that. Replicas do not
//! talk to each other; each reckons with the others being as late as they may
//! be. Each state of the Secret has to stand for [`SPREAD`], so that all see it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{PublicJwk, SigningKey};

/// From the beginning of one look at the Secret to that of the next at the
/// latest. A watch makes it sooner, mostly at once; but a watch that stands
/// still says nothing, so only this can be reckoned with.
pub const RESYNC: Duration = Duration::from_secs(30);
/// For one look at the Secret.
pub const READING: Duration = Duration::from_secs(10);
/// Within this time every replica has seen a change of the Secret: it may have
/// come when one had just looked, and the next look may take all its time.
pub const SPREAD: Duration = RESYNC.saturating_add(READING);
/// How long verifiers may keep a document of the keys. Short, because a new key
/// signs only after that.
pub const MAX_AGE: Duration = Duration::from_secs(60);
/// For so long a key is published before it signs.
pub const SETTLE: Duration = SPREAD.saturating_add(MAX_AGE);

/// What the Secret has.
#[derive(Debug)]
pub struct StoredKeys {
    /// The key that is to sign.
    pub signing: SigningKey,
    /// More keys to publish: one to come, or one that has signed.
    pub listed: Vec<PublicJwk>,
}

impl From<SigningKey> for StoredKeys {
    fn from(signing: SigningKey) -> Self {
        let listed = Vec::new();
        Self { signing, listed }
    }
}

/// The keys of one replica.
#[derive(Debug)]
pub struct Rotation {
    lifetime: Duration,
    signing: Arc<SigningKey>,
    /// What the Secret wants to sign, which waits if it is another.
    wanted: Arc<SigningKey>,
    /// What the Secret has, and since when.
    stored: Vec<(PublicJwk, Instant)>,
    /// What has been to sign, and when the last token of it ends, whichever
    /// replica signed it.
    retired: Vec<(PublicJwk, Instant)>,
}

impl Rotation {
    /// What a replica starts with: the Secret's key signs, because this one
    /// knows no other. Tokens live for `lifetime`.
    pub fn new(found: StoredKeys, lifetime: Duration, now: Instant) -> Self {
        let signing = Arc::new(found.signing);
        let mut rotation = Self {
            lifetime,
            wanted: Arc::clone(&signing),
            signing,
            stored: Vec::new(),
            retired: Vec::new(),
        };
        rotation.store(found.listed, now);
        rotation
    }

    /// Takes in what was read. Returns whether another key is to sign.
    pub fn read(&mut self, found: StoredKeys, now: Instant) -> bool {
        self.advance(now);
        let differs = found.signing.public() != self.wanted.public();
        if differs {
            for key in [&self.wanted, &self.signing] {
                let public = key.public();
                if !self.retired.iter().any(|(known, _)| known == public) {
                    self.retired.push((public.clone(), now));
                }
            }
            // Another replica may sign with any of these until it has seen
            // this and waited, and perhaps waited for a key between.
            let end = now + SPREAD + SETTLE + self.lifetime;
            for (_, until) in &mut self.retired {
                *until = end;
            }
            self.wanted = Arc::new(found.signing);
        }
        self.store(found.listed, now);
        self.advance(now);
        differs
    }

    /// The key to sign with.
    pub fn signing(&mut self, now: Instant) -> Arc<SigningKey> {
        self.advance(now);
        Arc::clone(&self.signing)
    }

    /// All keys that may have signed a valid token or are about to sign one,
    /// the signing one first.
    pub fn published(&mut self, now: Instant) -> Vec<PublicJwk> {
        self.advance(now);
        let mut published = vec![self.signing.public().clone()];
        let others = self.stored.iter().chain(&self.retired);
        for (key, _) in others {
            if !published.contains(key) {
                published.push(key.clone());
            }
        }
        published
    }

    fn store(&mut self, listed: Vec<PublicJwk>, now: Instant) {
        let before = std::mem::take(&mut self.stored);
        let since = |key: &PublicJwk| {
            let known = before.iter().find(|(known, _)| known == key);
            known.map_or(now, |(_, since)| *since)
        };
        let wanted = self.wanted.public().clone();
        let all = std::iter::once(wanted).chain(listed);
        self.stored = all
            .map(|key| {
                let since = since(&key);
                (key, since)
            })
            .collect();
    }

    fn advance(&mut self, now: Instant) {
        self.retired.retain(|(_, until)| *until > now);
        let wanted = self.stored.first();
        if wanted.is_some_and(|(_, since)| *since + SETTLE <= now) {
            self.signing = Arc::clone(&self.wanted);
        }
        // Back to the key that signs: there is nothing to wait for.
        if self.wanted.public() == self.signing.public() {
            self.signing = Arc::clone(&self.wanted);
        }
    }
}

#[cfg(test)]
mod tests;
