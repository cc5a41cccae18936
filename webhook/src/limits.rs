//! What one caller may have of something that there is little of: callers and
//! amounts flow in, places flow out, which give back what they hold when they
//! are dropped.
//!
//! Every limit here is two: so much in all, and so much for each caller, so
//! that no one of them can take everything.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The address that a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer(IpAddr);

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        // The same host, whether the listener is one for both families or not.
        Self(address.to_canonical())
    }
}

/// Something that callers share. Clones share it, too.
#[derive(Debug)]
pub struct Shares<K: Eq + Hash + Clone>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    all: Arc<Semaphore>,
    each: usize,
    callers: Mutex<HashMap<K, Weak<Semaphore>>>,
}

impl<K: Eq + Hash + Clone> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// `all` in all, and at most `each` of it for one caller.
    pub fn new(all: usize, each: usize) -> Self {
        Self(Arc::new(Inner {
            all: Arc::new(Semaphore::new(all)),
            each,
            callers: Mutex::default(),
        }))
    }

    /// Takes `amount` for a caller, if that much is left to it.
    pub fn try_take(&self, caller: &K, amount: u32) -> Option<Place<K>> {
        let own = self.0.own(caller);
        let mut place = self.empty(caller);
        place.own = Some(own.try_acquire_many_owned(amount).ok()?);
        let all = Arc::clone(&self.0.all);
        place.all = Some(all.try_acquire_many_owned(amount).ok()?);
        Some(place)
    }

    /// Takes one for a caller, as soon as it has one and there is one. Callers
    /// that wait for others' places wait in the order in which they came, and
    /// none waits there for more than its share.
    pub async fn take(&self, caller: &K) -> Place<K> {
        let own = self.0.own(caller);
        let mut place = self.empty(caller);
        // An error would mean that a semaphore is closed, which none ever is.
        place.own = own.acquire_owned().await.ok();
        place.all = Arc::clone(&self.0.all).acquire_owned().await.ok();
        place
    }

    /// How much of it is taken. For tests and metrics.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.0.all.available_permits()
    }

    fn empty(&self, caller: &K) -> Place<K> {
        Place {
            own: None,
            all: None,
            caller: caller.clone(),
            shares: Arc::clone(&self.0),
        }
    }
}

impl<K: Eq + Hash + Clone> Inner<K> {
    fn own(&self, caller: &K) -> Arc<Semaphore> {
        let mut callers = self.lock();
        if let Some(own) = callers.get(caller).and_then(Weak::upgrade) {
            return own;
        }
        let own = Arc::new(Semaphore::new(self.each));
        callers.insert(caller.clone(), Arc::downgrade(&own));
        own
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Weak<Semaphore>>> {
        // Every write is one insertion or removal, so a panic leaves it whole.
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a caller holds, until it is dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash + Clone> {
    own: Option<OwnedSemaphorePermit>,
    all: Option<OwnedSemaphorePermit>,
    caller: K,
    shares: Arc<Inner<K>>,
}

impl<K: Eq + Hash + Clone> Place<K> {
    /// Takes `amount` more, if that much is left. Returns whether it was.
    pub fn try_grow(&mut self, amount: u32) -> bool {
        let (Some(own), Some(all)) = (&mut self.own, &mut self.all) else {
            return false;
        };
        let more = |held: &OwnedSemaphorePermit| {
            let semaphore = Arc::clone(held.semaphore());
            semaphore.try_acquire_many_owned(amount).ok()
        };
        let (Some(more_own), Some(more_all)) = (more(own), more(all)) else {
            return false;
        };
        own.merge(more_own);
        all.merge(more_all);
        true
    }
}

impl<K: Eq + Hash + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        self.all = None;
        // The last of a caller's places takes its entry along, so that the map
        // is as long as there are callers.
        self.own = None;
        let mut callers = self.shares.lock();
        if callers
            .get(&self.caller)
            .is_some_and(|own| own.strong_count() == 0)
        {
            callers.remove(&self.caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_caller_has_its_share_and_no_more() {
        let shares = Shares::new(5, 3);
        let a = shares.try_take(&"a", 3).unwrap();
        assert!(shares.try_take(&"a", 1).is_none());
        let mut b = shares.try_take(&"b", 1).unwrap();
        assert!(b.try_grow(1));
        // Of its own share one is left, in all nothing.
        assert!(!b.try_grow(1));
        assert_eq!(shares.left(), 0);
        drop(a);
        assert!(b.try_grow(1));
        assert!(!b.try_grow(1));
        drop(b);
        assert_eq!(shares.left(), 5);
        assert!(shares.0.lock().is_empty());
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let shares = Shares::new(2, 2);
        let held = shares.try_take(&"a", 1).unwrap();
        assert!(shares.try_take(&"b", 2).is_none());
        assert_eq!(shares.left(), 1);
        assert!(shares.try_take(&"b", 1).is_some());
        drop(held);
        assert_eq!(shares.left(), 2);
        assert!(shares.0.lock().is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_its_own_share_keeps_nobody_waiting() {
        let shares = Shares::new(3, 2);
        let held = [shares.take(&"a").await, shares.take(&"a").await];
        let mut third = Box::pin(shares.take(&"a"));
        assert!((&mut third).now_or_never().is_none());
        assert!(shares.take(&"b").now_or_never().is_some());
        drop(held);
        assert!(third.now_or_never().is_some());
        assert_eq!(shares.left(), 3);
    }

    #[test]
    fn an_address_is_one_peer_in_both_families() {
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let plain: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(Peer::from(mapped), Peer::from(plain));
    }
}
