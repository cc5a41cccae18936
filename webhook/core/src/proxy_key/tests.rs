use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::secret::{SecretKind, SecretValues};

/// 32 times one byte, as random bytes.
pub(crate) fn bytes(byte: u8) -> KeyBytes {
    KeyBytes::new(Zeroizing::new([byte; LENGTH]))
}

pub(crate) fn place(project: &str, kind: &str, url: &str) -> Place {
    let pairs = [("project", project), ("type", kind), ("url", url)];
    let pairs = pairs.map(|(name, value)| (name, value.as_bytes()));
    Place::read(SecretKind::Repository, &SecretValues::from_bytes(pairs)).unwrap()
}

fn charts() -> Place {
    place("prod", "helm", "quay.example.org/prod")
}

fn subject(place: &Place) -> Subject<'_> {
    Subject {
        namespace: "argocd",
        name: "charts",
        place: Some(place),
    }
}

#[test]
fn a_value_names_its_secret_and_depends_on_nothing_but_the_bytes() {
    let place = charts();
    let written = value(&subject(&place), &bytes(1)).unwrap();
    let (head, key) = written.split_at("http://charts:".len());
    assert_eq!(head, "http://charts:");
    let key = key.strip_suffix("@127.0.0.1:15080").unwrap();
    // A change of the encoding would make every Secret's value stale.
    assert_eq!(
        key,
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEtkP_28rZYw8pU9_BBq4Bhw"
    );
    assert_eq!(
        judge(Some(&written), &subject(&place)),
        Written::Fits(KeyHash::of(key.as_bytes()))
    );
    assert_ne!(Some(written), value(&subject(&place), &bytes(2)));
}

#[test]
fn every_field_counts_and_none_runs_into_the_next() {
    let (base, prefix) = (charts(), place("prod", "helm", "quay.example.org/pro"));
    let (git, other) = (
        place("prod", "git", "https://quay.example.org/prod"),
        place("rod", "helm", "quay.example.org/prod"),
    );
    let subjects = [
        subject(&base),
        Subject {
            namespace: "other",
            ..subject(&base)
        },
        Subject {
            name: "chart",
            ..subject(&base)
        },
        subject(&prefix),
        subject(&git),
        subject(&other),
        Subject {
            name: "chartsp",
            ..subject(&other)
        },
    ];
    let written: HashSet<_> = subjects
        .iter()
        .map(|it| value(it, &bytes(1)).unwrap().to_string())
        .collect();
    assert_eq!(written.len(), subjects.len());
    let written = value(&subject(&base), &bytes(1)).unwrap();
    for other in &subjects[1..] {
        let found = judge(Some(&written), other);
        let is_refused = matches!(found, Written::Stale(_) | Written::Another);
        assert!(is_refused, "{other:?}: {found:?}");
    }
    // As the guides write the URL, and as the webhook has rewritten it.
    let guide = place("prod", "helm", "oci://Quay.example.org/prod/");
    let found = judge(Some(&written), &subject(&guide));
    assert!(matches!(found, Written::Fits(_)), "{found:?}");
    let unreadable = Subject {
        place: None,
        ..subject(&base)
    };
    assert_eq!(value(&unreadable, &bytes(1)), None);
    let found = judge(Some(&written), &unreadable);
    assert!(matches!(found, Written::Stale(_)), "{found:?}");
}

#[test]
fn what_is_written_is_judged() {
    let place = charts();
    let check = |text: &str, expected: Written| {
        assert_eq!(judge(Some(text), &subject(&place)), expected, "{text}");
    };
    assert_eq!(judge(None, &subject(&place)), Written::Nothing);
    // As a version with an installation key wrote it.
    let key = "qR7vBu5eBBw63oZGgsQkSVxWwA1Y8kE4xXbzEosGwjg";
    check(
        &format!("http://charts:{key}@127.0.0.1:15080"),
        Written::Unmarked(KeyHash::of(key.as_bytes())),
    );
    for malformed in [
        "http://charts@127.0.0.1:15080",
        "http://charts:x@localhost:15080/",
        "http://charts:x@[::1]:15080",
    ] {
        check(malformed, Written::Malformed);
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
    for length in [43, 65] {
        let key = "k".repeat(length);
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
}

#[test]
fn bytes_are_never_shown() {
    assert_eq!(format!("{:?}", bytes(7)), "KeyBytes");
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,90}") {
        names(&text);
        written_for(&text);
        judge(Some(&text), &subject(&charts()));
    }

    #[test]
    fn a_written_value_is_recognised(name in "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", path in "[a-z/]{1,20}", byte in any::<u8>()) {
        let place = place("", "git", &format!("https://git.example.org/{path}"));
        let subject = Subject { namespace: "argocd", name: &name, place: Some(&place) };
        let value = value(&subject, &bytes(byte)).unwrap();
        prop_assert!(matches!(judge(Some(&value), &subject), Written::Fits(_)));
        prop_assert_eq!(names(&value), Some(name.clone()));
        prop_assert_eq!(written_for(&value), Some(&*name));
    }
}
