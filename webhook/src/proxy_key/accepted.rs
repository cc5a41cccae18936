//! Which keys open a binding: what the Secret has and what its binding had flow
//! in, the keys of the binding flow out. Pure; the time is an argument.
//!
//! A key that is replaced is accepted for [`OVERLAP`] besides the new one,
//! because Argo CD works with what it has read of a Secret before. Not so one
//! that was made for another project, URL or type: its readers were others.

use jiff::{SignedDuration, Timestamp};
use shared::{binding::ProxyDelivery, proxy_view::KeyHash};

use super::Written;

/// How long a key is accepted that another one has replaced.
pub const OVERLAP: SignedDuration = SignedDuration::from_mins(10);

/// What clocks of two leaders may differ by.
const SKEW: SignedDuration = SignedDuration::from_mins(1);

/// The binding that is there.
#[derive(Debug, Clone, Copy)]
pub enum Before<'a> {
    /// None, or one that is not delivered by the credential proxy.
    Nothing,
    /// One for the same project, target and type.
    Same(&'a ProxyDelivery),
    /// One for something else.
    Elsewhere(&'a ProxyDelivery),
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

/// Decides which keys open a binding now.
pub fn accepted(written: &Written, before: Before<'_>, now: Timestamp) -> Accepted {
    let lists = |proxy: &ProxyDelivery, hash: &KeyHash| proxy.key_sha256.contains(&hash.to_hex());
    // A key that does not say what it was made for: where it was first seen says it.
    let (current, stale) = match written {
        Written::Fits(hash) => (Some(hash), None),
        Written::Unmarked(hash) => match before {
            Before::Same(proxy) if !lists(proxy, hash) => (None, Some(hash)),
            Before::Elsewhere(proxy) if lists(proxy, hash) => (None, Some(hash)),
            _ => (Some(hash), None),
        },
        Written::Stale(hash) => (None, Some(hash)),
        Written::Nothing | Written::Malformed | Written::Another | Written::Own => (None, None),
    };
    let current = current.map(KeyHash::to_hex);
    let previous = match before {
        Before::Same(proxy) => previous(proxy, current.as_deref(), now),
        Before::Nothing | Before::Elsewhere(_) => None,
    };
    let stale_hex = stale.map(KeyHash::to_hex);
    // A later end than any that is ever set was set by somebody else.
    let latest = now.saturating_add(OVERLAP + SKEW).unwrap_or(now);
    let previous = previous.filter(|(hash, until)| {
        *until > now
            && *until <= latest
            && current.as_ref() != Some(hash)
            && stale_hex.as_ref() != Some(hash)
    });
    Accepted {
        is_stale: stale.is_some(),
        previous_until: previous.as_ref().map(|(_, until)| *until),
        hashes: current
            .into_iter()
            .chain(previous.map(|(hash, _)| hash))
            .collect(),
    }
}

/// The key that is on its way out of a binding, and its end.
fn previous(
    proxy: &ProxyDelivery,
    current: Option<&str>,
    now: Timestamp,
) -> Option<(String, Timestamp)> {
    let mut hashes = proxy.key_sha256.iter();
    let ending = match proxy.previous_key_until {
        Some(until) => hashes.next_back().map(|hash| (hash.clone(), until)),
        None => None,
    };
    match hashes.next() {
        Some(first) if current != Some(first) => {
            // The API keeps whole seconds well; a second more does no harm.
            let until = Timestamp::from_second(now.as_second() + 1).unwrap_or(now);
            Some((
                first.clone(),
                until.saturating_add(OVERLAP).unwrap_or(until),
            ))
        }
        _ => ending,
    }
}

#[cfg(test)]
mod tests {
    use shared::binding::ProxyKind;

    use super::*;

    fn delivery(keys: &[&str], until: Option<i64>) -> ProxyDelivery {
        ProxyDelivery {
            key_sha256: keys.iter().map(|key| hash(key).to_hex()).collect(),
            previous_key_until: until.map(at),
            kind: ProxyKind::Oci,
            insecure: false,
            upstream_proxy: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn hash(key: &str) -> KeyHash {
        KeyHash::of(key.as_bytes())
    }

    #[track_caller]
    fn check(written: &Written, before: Before<'_>, keys: &[&str], until: Option<i64>) {
        let found = accepted(written, before, at(1000));
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
        let one = delivery(&["a"], None);
        check(&a, Before::Nothing, &["a"], None);
        check(&a, Before::Same(&one), &["a"], None);
        check(&b, Before::Same(&one), &["b", "a"], Some(END));
        let two = delivery(&["b", "a"], Some(1001));
        check(&b, Before::Same(&two), &["b", "a"], Some(1001));
        check(
            &b,
            Before::Same(&delivery(&["b", "a"], Some(1000))),
            &["b"],
            None,
        );
        let edited = delivery(&["b", "a"], Some(1_000_000));
        check(&b, Before::Same(&edited), &["b"], None);
        // Who rotates twice ends the first at once.
        let c = Written::Fits(hash("c"));
        check(&c, Before::Same(&two), &["c", "b"], Some(END));
        // And back, as a restored backup does.
        check(&a, Before::Same(&two), &["a", "b"], Some(END));
    }

    #[test]
    fn a_key_that_is_taken_away_ends_as_well() {
        let nothing = Written::Nothing;
        check(
            &nothing,
            Before::Same(&delivery(&["a"], None)),
            &["a"],
            Some(END),
        );
        let ending = delivery(&["a"], Some(1001));
        check(&nothing, Before::Same(&ending), &["a"], Some(1001));
        check(
            &nothing,
            Before::Same(&delivery(&["a"], Some(999))),
            &[],
            None,
        );
        check(
            &Written::Fits(hash("b")),
            Before::Same(&ending),
            &["b", "a"],
            Some(1001),
        );
        check(&Written::Own, Before::Same(&delivery(&[], None)), &[], None);
    }

    #[test]
    fn what_was_made_for_another_place_opens_nothing() {
        let one = delivery(&["a"], None);
        let stale = Written::Stale(hash("a"));
        for before in [Before::Nothing, Before::Same(&one), Before::Elsewhere(&one)] {
            check(&stale, before, &[], None);
            assert!(accepted(&stale, before, at(1000)).is_stale);
        }
        let fresh = Written::Fits(hash("b"));
        check(&fresh, Before::Elsewhere(&one), &["b"], None);
    }

    #[test]
    fn an_unmarked_key_belongs_to_where_it_was_first_seen() {
        let (a, b) = (Written::Unmarked(hash("a")), Written::Unmarked(hash("b")));
        // As an installation key in rotation left it.
        let old = delivery(&["a", "before"], None);
        check(&a, Before::Same(&old), &["a"], None);
        check(&a, Before::Nothing, &["a"], None);
        // An older replica of the webhook made it for the new place.
        check(&b, Before::Elsewhere(&old), &["b"], None);
        let moved = accepted(&a, Before::Elsewhere(&old), at(1000));
        assert!(moved.is_stale && moved.hashes.is_empty());
        // The binding is for the new place by now, and still does not take it.
        let empty = delivery(&[], None);
        let still = accepted(&a, Before::Same(&empty), at(1000));
        assert!(still.is_stale && still.hashes.is_empty());
    }
}
