use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// A ring with these keys, each 32 times one byte.
pub(crate) fn ring(current: u8, previous: Option<u8>) -> ProxyKeyring {
    let ring = ProxyKeyring::default();
    let previous = previous.map(|byte| [byte; 32]);
    ring.replace(ProxyKeys::new(&[current; 32], previous.as_ref().map(|key| &key[..])).unwrap());
    ring
}

fn subject() -> Subject<'static> {
    Subject {
        namespace: "argocd",
        name: "charts",
        project: Some("prod"),
        url: "quay.example.org/prod",
    }
}

#[test]
fn a_value_names_its_secret_and_is_the_same_every_time() {
    let keys = ring(1, None).keys().unwrap();
    let value = keys.value(&subject());
    let (head, key) = value.split_at("http://charts:".len());
    assert_eq!(head, "http://charts:");
    let key = key.strip_suffix("@127.0.0.1:15080").unwrap();
    assert_eq!(key.len(), 43);
    assert_eq!(
        keys.hashes(&subject()),
        [KeyHash::of(key.as_bytes()).to_hex()]
    );
    assert_eq!(value, ring(1, None).keys().unwrap().value(&subject()));
    assert_ne!(value, ring(2, None).keys().unwrap().value(&subject()));
    // A change of the encoding would make every Secret's value stale.
    assert_eq!(key, "qR7vBu5eBBw63oZGgsQkSVxWwA1Y8kE4xXbzEosGwjg");
}

#[test]
fn every_field_counts_and_none_runs_into_the_next() {
    let keys = ring(1, None).keys().unwrap();
    let base = subject();
    let others = [
        base,
        Subject {
            namespace: "other",
            ..base
        },
        Subject {
            name: "chart",
            ..base
        },
        Subject {
            project: None,
            ..base
        },
        Subject {
            url: "quay.example.org/pro",
            ..base
        },
        Subject {
            name: "chartsp",
            project: Some("rod"),
            ..base
        },
        Subject {
            project: Some("prodquay"),
            url: ".example.org/prod",
            ..base
        },
    ];
    let hashes: HashSet<_> = others.iter().map(|it| keys.hashes(it)).collect();
    assert_eq!(hashes.len(), others.len());
}

#[test]
fn two_keys_are_accepted_while_they_rotate() {
    let (old, new) = (
        ring(1, None).keys().unwrap(),
        ring(2, Some(1)).keys().unwrap(),
    );
    let [current, previous] = &new.hashes(&subject())[..] else {
        panic!("two hashes");
    };
    assert_ne!(current, previous);
    assert_eq!(*previous, old.hashes(&subject())[0]);
    assert_eq!(ring(1, Some(1)).keys().unwrap().hashes(&subject()).len(), 1);
}

#[test]
fn what_is_written_is_judged() {
    let (old, keys) = (
        ring(1, None).keys().unwrap(),
        ring(2, Some(1)).keys().unwrap(),
    );
    let check = |text: &str, expected| {
        assert_eq!(keys.judge(Some(text), &subject()), expected, "{text}");
    };
    assert_eq!(keys.judge(None, &subject()), Written::Nothing);
    check(&keys.value(&subject()), Written::Current);
    check(&old.value(&subject()), Written::Previous);
    check(
        &ring(3, None).keys().unwrap().value(&subject()),
        Written::Stale,
    );
    for stale in [
        "http://charts@127.0.0.1:15080",
        "http://charts:x@localhost:15080/",
        "http://charts:x@[::1]:15080",
    ] {
        check(stale, Written::Stale);
    }
    for another in [
        "http://other:x@127.0.0.1:15080",
        "http://127.0.0.2:15080",
        "http://chart:x@LOCALHOST:15080",
    ] {
        check(another, Written::Another);
    }
    for own in [
        "http://proxy.corp:3128",
        "http://charts:x@proxy.corp:15080",
        "http://127.0.0.1:3128",
        "no url",
    ] {
        check(own, Written::Own);
    }
}

#[test]
fn only_what_a_webhook_writes_may_be_overwritten() {
    let key = "k".repeat(43);
    let fits = format!("http://mine:{key}@127.0.0.1:15080");
    assert_eq!(written_for(&fits), Some("mine"));
    for (from, to) in [
        ("mine", "mine@theirs"),
        ("mine", "mine:x"),
        ("kkk@", "@"),
        ("kkk@", "kk%@"),
        ("http", "https"),
        ("127.0.0.1", "localhost"),
        ("15080", "15080/"),
    ] {
        let other = fits.replace(from, to);
        assert_eq!(written_for(&other), None, "{other}");
    }
}

#[test]
fn a_key_is_32_bytes_at_least_and_never_shown() {
    assert!(ProxyKeys::new(&[1; 31], None).is_err());
    assert!(ProxyKeys::new(&[1; 32], Some(b"short")).is_err());
    let shown = format!("{:?}", ring(7, Some(7)).keys().unwrap());
    assert!(!shown.contains('7'), "{shown}");
}

#[test]
fn a_change_is_announced_once() {
    use futures::{FutureExt, StreamExt};
    let ring = ring(1, None);
    let mut changes = std::pin::pin!(ring.changes());
    assert!(changes.next().now_or_never().is_none());
    assert!(!ring.replace(ProxyKeys::new(&[1; 32], None).unwrap()));
    assert!(changes.next().now_or_never().is_none());
    assert!(ring.replace(ProxyKeys::new(&[2; 32], Some(&[1; 32])).unwrap()));
    assert_eq!(changes.next().now_or_never(), Some(Some(())));
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,60}") {
        names(&text);
        written_for(&text);
    }

    #[test]
    fn a_written_value_is_recognised(name in "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", url in "[a-z./]{1,20}") {
        let subject = Subject { namespace: "argocd", name: &name, project: None, url: &url };
        let keys = ring(1, None).keys().unwrap();
        let value = keys.value(&subject);
        prop_assert_eq!(keys.judge(Some(&value), &subject), Written::Current);
        prop_assert_eq!(names(&value), Some(name.clone()));
        prop_assert_eq!(written_for(&value), Some(&*name));
    }
}
