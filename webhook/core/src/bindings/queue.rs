//! The work queue: keys and times flow in, keys that are due flow out. Pure.
//!
//! A key is in the queue once, at the earliest time that was asked for. After
//! a failure it comes back later and later, and alone: other keys are not held
//! up. Keys of a namespace that is not open yet wait apart, so that they cost
//! nothing meanwhile.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::world::Key;

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// Keys that wait for their turn.
#[derive(Debug, Default)]
pub struct Queue {
    due: BTreeSet<(Instant, Key)>,
    at: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
    open: HashSet<Arc<str>>,
    parked: HashMap<Arc<str>, HashMap<Key, Instant>>,
}

impl Queue {
    /// Adds a key, or moves it forward.
    pub fn add(&mut self, key: Key, at: Instant) {
        if !self.open.contains(&key.namespace) {
            let parked = self.parked.entry(Arc::clone(&key.namespace));
            let before = parked.or_default().entry(key).or_insert(at);
            *before = at.min(*before);
            return;
        }
        match self.at.get(&key) {
            Some(before) if *before <= at => return,
            Some(before) => {
                self.due.remove(&(*before, key.clone()));
            }
            None => {}
        }
        self.at.insert(key.clone(), at);
        self.due.insert((at, key));
    }

    /// Lets the keys of a namespace come.
    pub fn open(&mut self, namespace: &Arc<str>) {
        if self.open.insert(Arc::clone(namespace)) {
            for (key, at) in self.parked.remove(namespace).into_iter().flatten() {
                self.add(key, at);
            }
        }
    }

    /// Removes the first key that is due and may be worked on; `may` says no to
    /// few.
    pub fn take(&mut self, now: Instant, may: impl Fn(&Key) -> bool) -> Option<Key> {
        let (at, key) = self
            .due
            .iter()
            .take_while(|(at, _)| *at <= now)
            .find(|(_, key)| may(key))
            .cloned()?;
        self.at.remove(&key);
        self.due.remove(&(at, key.clone()));
        Some(key)
    }

    /// When the first key that may be worked on is due.
    pub fn next_due(&self, may: impl Fn(&Key) -> bool) -> Option<Instant> {
        self.due.iter().find(|(_, key)| may(key)).map(|(at, _)| *at)
    }

    /// How many keys wait, those of namespaces that are not open among them.
    pub fn len(&self) -> usize {
        let parked: usize = self.parked.values().map(HashMap::len).sum();
        self.due.len() + parked
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the key's failures; looks at it again at `again`.
    pub fn succeeded(&mut self, key: Key, again: Option<Instant>) {
        self.failures.remove(&key);
        if let Some(at) = again {
            self.add(key, at);
        }
    }

    /// Puts a key back that failed at `now`.
    pub fn failed(&mut self, key: Key, now: Instant) {
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = FIRST_RETRY
            .saturating_mul(2u32.saturating_pow(*failures))
            .min(LAST_RETRY);
        *failures = failures.saturating_add(1);
        self.add(key, now + delay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            namespace: "argocd".into(),
            name: name.into(),
        }
    }

    fn opened() -> Queue {
        let mut queue = Queue::default();
        queue.open(&"argocd".into());
        queue
    }

    #[test]
    fn keys_of_a_namespace_that_is_not_open_wait_apart() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let later = now + Duration::from_secs(9);
        queue.add(key("a"), later);
        queue.add(key("a"), now);
        queue.add(key("b"), later);
        assert_eq!(queue.take(later, |_| true), None);
        assert_eq!((queue.next_due(|_| true), queue.len()), (None, 2));
        queue.open(&"argocd".into());
        assert_eq!(queue.take(now, |_| true), Some(key("a")));
        assert_eq!(queue.next_due(|_| true), Some(later));
    }

    #[test]
    fn a_key_is_in_the_queue_once_at_its_earliest_time() {
        let (mut queue, now) = (opened(), Instant::now());
        let later = now + Duration::from_secs(9);
        queue.add(key("a"), later);
        queue.add(key("a"), now);
        queue.add(key("a"), later);
        queue.add(key("b"), later);
        assert_eq!(queue.take(now, |_| true), Some(key("a")));
        assert_eq!(queue.take(now, |_| true), None);
        assert_eq!(queue.next_due(|_| true), Some(later));
        assert_eq!(queue.take(later, |_| true), Some(key("b")));
        assert_eq!(queue.next_due(|_| true), None);
    }

    #[test]
    fn a_key_in_work_waits_and_lets_others_pass() {
        let (mut queue, now) = (opened(), Instant::now());
        queue.add(key("a"), now);
        queue.add(key("b"), now);
        let not_a = |candidate: &Key| *candidate != key("a");
        assert_eq!(queue.take(now, not_a), Some(key("b")));
        assert_eq!(queue.take(now, not_a), None);
        assert_eq!(queue.next_due(not_a), None);
        assert_eq!(queue.take(now, |_| true), Some(key("a")));
    }

    #[test]
    fn failures_of_one_key_delay_that_key_alone() {
        let (mut queue, now) = (opened(), Instant::now());
        let mut delays = Vec::new();
        for _ in 0..12 {
            queue.failed(key("a"), now);
            delays.push(queue.next_due(|_| true).unwrap() - now);
            queue.take(now + LAST_RETRY, |_| true).unwrap();
        }
        assert_eq!(delays[..3], [FIRST_RETRY, FIRST_RETRY * 2, FIRST_RETRY * 4]);
        assert_eq!(delays.last(), Some(&LAST_RETRY));

        queue.succeeded(key("a"), None);
        assert_eq!(queue.next_due(|_| true), None);
        queue.failed(key("a"), now);
        assert_eq!(queue.next_due(|_| true), Some(now + FIRST_RETRY));
    }

    #[test]
    fn a_change_does_not_wait_for_the_retry() {
        let (mut queue, now) = (opened(), Instant::now());
        queue.failed(key("a"), now);
        queue.add(key("a"), now);
        assert_eq!(queue.take(now, |_| true), Some(key("a")));
    }
}
