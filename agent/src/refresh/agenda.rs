//! Which keys have to be looked at: a step of the machine must not cost a look
//! at each of a thousand that sleep. PURE: naps and the time flow in, who is
//! awake flows out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::lease::{Instant, Now};

/// Until when nothing is to be done for a key, on either clock, unless there is
/// an event for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nap {
    pub(super) mono: Duration,
    pub(super) wall: Timestamp,
}

impl Nap {
    pub(super) const ENDLESS: Self = Self {
        mono: Duration::MAX,
        wall: Timestamp::MAX,
    };

    #[must_use]
    pub(super) fn until(self, instant: Instant) -> Self {
        Self {
            mono: self.mono.min(instant.mono),
            wall: self.wall.min(instant.wall),
        }
    }

    pub(super) fn lasts(self, now: Now) -> bool {
        now.mono < self.mono && now.wall < self.wall
    }
}

#[derive(Debug)]
pub(super) struct Agenda<K> {
    naps: BTreeMap<K, Nap>,
    mono: BTreeSet<(Duration, K)>,
    wall: BTreeSet<(Timestamp, K)>,
    pub(super) awake: BTreeSet<K>,
}

impl<K> Default for Agenda<K> {
    fn default() -> Self {
        Self {
            naps: BTreeMap::new(),
            mono: BTreeSet::new(),
            wall: BTreeSet::new(),
            awake: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Clone> Agenda<K> {
    /// All of these, and no others, are awake.
    pub(super) fn reset<'a>(&mut self, keys: impl Iterator<Item = &'a K>)
    where
        K: 'a,
    {
        *self = Self {
            awake: keys.cloned().collect(),
            ..Self::default()
        };
    }

    /// There is an event for `key`.
    pub(super) fn rouse(&mut self, key: &K) {
        if let Some(nap) = self.naps.remove(key) {
            self.mono.remove(&(nap.mono, key.clone()));
            self.wall.remove(&(nap.wall, key.clone()));
        }
        self.awake.insert(key.clone());
    }

    /// Time passed.
    pub(super) fn pass(&mut self, now: Now) {
        while let Some((_, key)) = self.mono.first().filter(|(at, _)| *at <= now.mono) {
            let key = key.clone();
            self.rouse(&key);
        }
        while let Some((_, key)) = self.wall.first().filter(|(at, _)| *at <= now.wall) {
            let key = key.clone();
            self.rouse(&key);
        }
    }

    pub(super) fn lull(&mut self, key: K, nap: Nap) {
        self.awake.remove(&key);
        self.mono.insert((nap.mono, key.clone()));
        self.wall.insert((nap.wall, key.clone()));
        self.naps.insert(key, nap);
    }

    /// When the first of those that sleep wakes up, on the monotonic clock.
    pub(super) fn next(&self) -> Option<Duration> {
        self.mono.first().map(|(at, _)| *at)
    }
}
