//! Which keys open a binding: what the Secret has and what its binding had flow
//! in, the keys of the binding flow out. Pure; the time is an argument.
//!
//! A key that is replaced is accepted for [`OVERLAP`] besides the new one,
//! because Argo CD works with what it has read of a Secret before. Not so one
//! that was made for another project, URL or type: its readers were others.

use jiff::{SignedDuration, Timestamp};
use shared::{
    binding::{CredentialBindingSpec, ProxyDelivery},
    proxy_view::KeyHash,
};

use super::Written;
use crate::secret::PlacePrint;

/// How long a key is accepted that another one has replaced.
pub const OVERLAP: SignedDuration = SignedDuration::from_mins(10);

/// What clocks of two leaders may differ by.
const SKEW: SignedDuration = SignedDuration::from_mins(1);

/// What is remembered of the binding that is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Former {
    /// What it is for.
    pub print: PlacePrint,
    /// Hashes of the keys that open it; `None` where none is asked for.
    keys: Option<Box<[KeyHash]>>,
    /// When the last of them ends.
    pub until: Option<Timestamp>,
}

impl Former {
    /// What is to be remembered of a binding's spec.
    pub fn of(spec: &CredentialBindingSpec) -> Self {
        let proxy = spec.proxy.as_ref();
        // What is no hash is no key.
        let hashes = |proxy: &ProxyDelivery| {
            let hashes = proxy.key_sha256.iter();
            hashes.filter_map(|hex| KeyHash::from_hex(hex)).collect()
        };
        Self {
            print: PlacePrint::of(spec),
            keys: proxy.map(hashes),
            until: proxy.and_then(|proxy| proxy.previous_key_until),
        }
    }

    /// The place among its keys, and the hash, of one whose end has come.
    pub fn ended(&self, now: Timestamp) -> Option<(usize, String)> {
        self.until.filter(|until| *until <= now)?;
        let (last, rest) = self.keys.as_deref()?.split_last()?;
        Some((rest.len(), last.to_hex()))
    }

    /// Whether it needs a key and has none.
    pub fn is_keyless(&self) -> bool {
        self.keys.as_ref().is_some_and(|keys| keys.is_empty())
    }
}

/// The keys that open a binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Their hashes, that of the Secret's own key first.
    pub hashes: Vec<String>,
    /// When the last of them ends.
    pub previous_until: Option<Timestamp>,
    /// The Secret has a key that was made for something else.
    pub is_stale: bool,
}

/// Decides which keys open a binding for `print` now.
pub fn accepted(
    written: &Written,
    print: &PlacePrint,
    former: Option<&Former>,
    now: Timestamp,
) -> Accepted {
    let former = former.and_then(|former| Some((former, former.keys.as_deref()?)));
    let is_same = former.is_some_and(|(former, _)| former.print == *print);
    // A key that does not say what it was made for: where it was first seen says it.
    let (current, stale) = match written {
        Written::Fits(hash) => (Some(hash), None),
        Written::Unmarked(hash) => match former {
            Some((_, keys)) if keys.contains(hash) != is_same => (None, Some(hash)),
            _ => (Some(hash), None),
        },
        Written::Stale(hash) => (None, Some(hash)),
        Written::Nothing | Written::Malformed | Written::Another | Written::Own => (None, None),
    };
    // A later end than any that is ever set was set by somebody else.
    let latest = now.saturating_add(OVERLAP + SKEW).unwrap_or(now);
    let previous = former
        .filter(|_| is_same)
        .and_then(|(former, keys)| previous(keys, former.until, current, now))
        .filter(|(hash, until)| {
            *until > now && *until <= latest && current != Some(*hash) && stale != Some(*hash)
        });
    let hashes = current.into_iter().chain(previous.map(|(hash, _)| hash));
    Accepted {
        hashes: hashes.map(KeyHash::to_hex).collect(),
        previous_until: previous.map(|(_, until)| until),
        is_stale: stale.is_some(),
    }
}

/// The key that is on its way out of a binding, and its end.
fn previous<'a>(
    keys: &'a [KeyHash],
    until: Option<Timestamp>,
    current: Option<&KeyHash>,
    now: Timestamp,
) -> Option<(&'a KeyHash, Timestamp)> {
    let (ending, rest) = match until {
        Some(until) => {
            let (last, rest) = keys.split_last()?;
            (Some((last, until)), rest)
        }
        None => (None, keys),
    };
    match rest.first() {
        Some(first) if current != Some(first) => {
            // Whole seconds, as the API has them; one more does no harm.
            let end = Timestamp::from_second(now.as_second() + 1).unwrap_or(now);
            Some((first, end.saturating_add(OVERLAP).unwrap_or(end)))
        }
        _ => ending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_key::tests::place;

    fn here() -> PlacePrint {
        place("prod", "helm", "quay.example.org/prod").print()
    }

    fn former(keys: &[&str], until: Option<i64>) -> Former {
        Former {
            print: here(),
            keys: Some(keys.iter().map(|key| hash(key)).collect()),
            until: until.map(at),
        }
    }

    fn elsewhere(keys: &[&str]) -> Former {
        Former {
            print: place("dev", "helm", "quay.example.org/prod").print(),
            ..former(keys, None)
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn hash(key: &str) -> KeyHash {
        KeyHash::of(key.as_bytes())
    }

    #[track_caller]
    fn check(written: &Written, former: Option<&Former>, keys: &[&str], until: Option<i64>) {
        let found = accepted(written, &here(), former, at(1000));
        let expected: Vec<_> = keys.iter().map(|key| hash(key).to_hex()).collect();
        assert_eq!(
            (found.hashes, found.previous_until),
            (expected, until.map(at))
        );
    }

    /// Ten minutes and a second after `check` looks.
    const END: i64 = 1601;

    #[test]
    fn a_replaced_key_is_accepted_for_a_while() {
        let (a, b) = (Written::Fits(hash("a")), Written::Fits(hash("b")));
        let one = former(&["a"], None);
        check(&a, None, &["a"], None);
        check(&a, Some(&one), &["a"], None);
        check(&b, Some(&one), &["b", "a"], Some(END));
        let two = former(&["b", "a"], Some(1001));
        check(&b, Some(&two), &["b", "a"], Some(1001));
        check(&b, Some(&former(&["b", "a"], Some(1000))), &["b"], None);
        let edited = former(&["b", "a"], Some(1_000_000));
        check(&b, Some(&edited), &["b"], None);
        // Who rotates twice ends the first at once.
        let c = Written::Fits(hash("c"));
        check(&c, Some(&two), &["c", "b"], Some(END));
        // And back, as a restored backup does.
        check(&a, Some(&two), &["a", "b"], Some(END));
    }

    #[test]
    fn a_key_that_is_taken_away_ends_as_well() {
        let nothing = Written::Nothing;
        check(&nothing, Some(&former(&["a"], None)), &["a"], Some(END));
        let ending = former(&["a"], Some(1001));
        check(&nothing, Some(&ending), &["a"], Some(1001));
        check(&nothing, Some(&former(&["a"], Some(999))), &[], None);
        check(
            &Written::Fits(hash("b")),
            Some(&ending),
            &["b", "a"],
            Some(1001),
        );
        check(&Written::Own, Some(&former(&[], None)), &[], None);
    }

    #[test]
    fn what_was_made_for_another_place_opens_nothing() {
        let one = former(&["a"], None);
        let stale = Written::Stale(hash("a"));
        for before in [None, Some(&one), Some(&elsewhere(&["a"]))] {
            check(&stale, before, &[], None);
            assert!(accepted(&stale, &here(), before, at(1000)).is_stale);
        }
        let fresh = Written::Fits(hash("b"));
        check(&fresh, Some(&elsewhere(&["a"])), &["b"], None);
    }

    #[test]
    fn an_unmarked_key_belongs_to_where_it_was_first_seen() {
        let (a, b) = (Written::Unmarked(hash("a")), Written::Unmarked(hash("b")));
        // As an installation key in rotation left it.
        let old = former(&["a", "before"], None);
        check(&a, Some(&old), &["a"], None);
        check(&a, None, &["a"], None);
        // An older replica of the webhook made it for the new place.
        check(&b, Some(&elsewhere(&["a", "before"])), &["b"], None);
        let moved = accepted(&a, &here(), Some(&elsewhere(&["a", "before"])), at(1000));
        assert!(moved.is_stale && moved.hashes.is_empty());
        // The binding is for the new place by now, and still does not take it.
        let empty = former(&[], None);
        let still = accepted(&a, &here(), Some(&empty), at(1000));
        assert!(still.is_stale && still.hashes.is_empty());
    }
}
