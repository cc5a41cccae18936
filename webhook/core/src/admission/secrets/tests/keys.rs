//! Which key a Secret has, whoever writes it and however.

use super::*;

/// A value as versions with an installation key wrote it.
const EARLIER: &str = "http://example:qR7vBu5eBBw63oZGgsQkSVxWwA1Y8kE4xXbzEosGwjg@127.0.0.1:15080";

fn put(object: &Value, name: &str, value: &str) -> Value {
    let mut object = object.clone();
    object["data"][name] = json!(STANDARD.encode(value));
    object
}

fn without(object: &Value, name: &str) -> Value {
    let mut object = object.clone();
    object["data"].as_object_mut().unwrap().remove(name);
    object
}

fn annotated(object: &Value, value: &str) -> Value {
    let mut object = object.clone();
    object["metadata"]["annotations"] = json!({ ROTATE_PROXY_KEY: value });
    object
}

#[test]
fn a_stranger_gets_a_key_that_no_secret_has() {
    // All that it takes is known to whoever reads bindings, or Argo CD's UI.
    let (victims, _) = stored(&of_project("a"), None);
    for old in [None, Some(of_project("a"))] {
        let (guessed, _) = stored(&of_project("a"), old.as_ref());
        assert_ne!(text(&guessed, "proxy"), text(&victims, "proxy"));
    }
}

#[test]
fn a_key_stays_whoever_writes_the_rest() {
    let git = of_project("a");
    let (created, _) = stored(&git, None);
    let labelled = {
        let mut object = created.clone();
        object["metadata"]["labels"]["team"] = json!("a");
        object
    };
    for (what, new) in [
        // Self-heal sends what git has over what is there, by either diff.
        (
            "client-side apply",
            put(&created, "url", "oci://quay.example.org/myorg/charts"),
        ),
        (
            "server-side apply",
            without(
                &put(&created, "url", "oci://quay.example.org/myorg/charts"),
                "enableOCI",
            ),
        ),
        // Replace, and operators that write all of data every second.
        ("replace", git.clone()),
        ("an empty value in git", put(&git, "proxy", "")),
        ("a label", labelled),
        ("an old backup", put(&git, "proxy", EARLIER)),
        (
            "another key",
            put(&git, "proxy", &text(&stored(&git, None).0, "proxy")),
        ),
        (
            "another Secret's",
            put(
                &git,
                "proxy",
                &format!("http://other:{}@127.0.0.1:15080", "k".repeat(65)),
            ),
        ),
    ] {
        // Also the third time, and in a dry run before.
        let mut before = created.clone();
        for _ in 0..3 {
            let (dry, _) = stored(&new, Some(&before));
            let (after, _) = stored(&new, Some(&before));
            assert_eq!(dry, after, "{what}");
            assert_eq!(text(&after, "proxy"), text(&created, "proxy"), "{what}");
            before = after;
        }
    }
    // A proxy of the user's own is still refused.
    let own = put(&git, "proxy", "http://proxy.corp:3128");
    assert_eq!(denied_update(&own, &created), Code::ProxyConflict);
}

#[track_caller]
fn denied_update(object: &Value, old: &Value) -> Code {
    match ask("UPDATE", object, Some(old)).outcome {
        Outcome::Deny(error) => error.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_proxy_of_ones_own_that_came_while_nobody_looked_may_stay() {
    let own = put(&of_project("a"), "proxy", "http://proxy.corp:3128");
    let mut labelled = own.clone();
    labelled["metadata"]["labels"]["team"] = json!("a");
    let verdict = ask("UPDATE", &labelled, Some(&own));
    assert_eq!(verdict.warnings[0].code, Code::ProxyConflict);
    assert_eq!(verdict.label().as_str(), "keep");
    let other = put(&own, "proxy", "http://other.corp:3128");
    assert_eq!(denied_update(&other, &own), Code::ProxyConflict);
    let moved = put(&own, "project", "b");
    assert_eq!(denied_update(&moved, &own), Code::ProxyConflict);
    // It was no conflict before.
    let mut shared = without(&own, "project");
    shared["data"]["url"] = json!(STANDARD.encode("quay.example.org/myorg/charts"));
    shared["data"]["enableOCI"] = json!(STANDARD.encode("true"));
    let by_proxy = put(&shared, "workloadIdentityDelivery", "proxy");
    assert_eq!(denied_update(&by_proxy, &shared), Code::ProxyConflict);
}

#[test]
fn a_key_of_an_earlier_version_stays_until_its_secret_moves() {
    let old = put(&of_project("a"), "proxy", EARLIER);
    let (labelled, _) = stored(&old, Some(&old));
    assert_eq!(text(&labelled, "proxy"), EARLIER);
    let (replaced, _) = stored(&of_project("a"), Some(&old));
    assert_eq!(text(&replaced, "proxy"), EARLIER);
    for moved in [
        put(&old, "project", "b"),
        put(&old, "url", "oci://quay.example.org/myorg/others"),
        put(
            &put(&old, "type", "oci"),
            "url",
            "oci://quay.example.org/myorg/charts",
        ),
    ] {
        let (after, _) = stored(&moved, Some(&old));
        assert_ne!(text(&after, "proxy"), EARLIER);
    }
    // What comes anew gets a key that says what it was made for.
    let (created, _) = stored(&old, None);
    assert_ne!(text(&created, "proxy"), EARLIER);
    let (added, _) = stored(&old, Some(&of_project("a")));
    assert_ne!(text(&added, "proxy"), EARLIER);
}

#[test]
fn a_restored_backup_keeps_its_key_and_another_place_does_not() {
    let (saved, _) = stored(&of_project("a"), None);
    let (restored, _) = stored(&saved, None);
    assert_eq!(restored, saved);
    for elsewhere in [
        put(&saved, "project", "b"),
        put(&saved, "url", "quay.example.org/myorg/others"),
    ] {
        let (restored, _) = stored(&elsewhere, None);
        assert_ne!(text(&restored, "proxy"), text(&saved, "proxy"));
        // The webhook was down while it moved: the next write mends it.
        let (touched, _) = stored(&elsewhere, Some(&elsewhere));
        assert_ne!(text(&touched, "proxy"), text(&saved, "proxy"));
    }
}

#[test]
fn who_was_elsewhere_meanwhile_comes_back_with_another_key() {
    let (first, _) = stored(&of_project("a"), None);
    // The webhook was down; the readers of `b` have seen the key.
    let elsewhere = put(&first, "project", "b");
    let (back, _) = stored(&first, Some(&elsewhere));
    assert_ne!(text(&back, "proxy"), text(&first, "proxy"));
}

#[test]
fn a_new_value_of_the_annotation_draws_another_key_once() {
    for first in [
        stored(&of_project("a"), None).0,
        put(&of_project("a"), "proxy", EARLIER),
    ] {
        let asked = annotated(&first, "1");
        let (second, _) = stored(&asked, Some(&first));
        assert_ne!(text(&second, "proxy"), text(&first, "proxy"));
        // The API server asks again about what it was told to change.
        let again = ask("UPDATE", &second, Some(&first));
        assert_eq!(again.label().as_str(), "keep", "{again:?}");
        // Writers that know nothing of the annotation, or have it in git.
        let (kept, _) = stored(&first, Some(&second));
        assert_eq!(text(&kept, "proxy"), text(&second, "proxy"));
        let (kept, _) = stored(&annotated(&of_project("a"), "1"), Some(&second));
        assert_eq!(text(&kept, "proxy"), text(&second, "proxy"));
        let (third, _) = stored(&annotated(&second, "2"), Some(&second));
        assert_ne!(text(&third, "proxy"), text(&second, "proxy"));
    }
}

#[test]
fn an_invalid_secret_keeps_its_key_while_that_fits() {
    let (good, _) = stored(&of_project("a"), None);
    let bad = put(&good, "workloadIdentityProvider", "vault");
    let settled = |new: &Value, old: &Value| {
        let verdict = ask("UPDATE", new, Some(old));
        let Outcome::Patch(patch) = &verdict.outcome else {
            panic!("{verdict:?}")
        };
        let mut after = new.clone();
        json_patch::patch(&mut after, patch.operations()).unwrap();
        after
    };
    assert_eq!(settled(&bad, &bad), bad);
    assert_eq!(settled(&without(&bad, "proxy"), &bad), bad);
    // It was moved while nobody looked; then somebody writes a label.
    let moved = put(&bad, "project", "b");
    assert_eq!(settled(&moved, &moved), without(&moved, "proxy"));
    let unreadable = put(&bad, "url", "http://quay.example.org/x");
    assert_eq!(
        settled(&unreadable, &unreadable),
        without(&unreadable, "proxy")
    );
    let own = put(&bad, "proxy", "http://proxy.corp:3128");
    assert_eq!(settled(&own, &own), own);
}
