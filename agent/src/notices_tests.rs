//! What is told is looked at, and how often.

use super::*;

fn volume(pod: &str, consumers: Option<&[&str]>) -> EmptyVolume {
    EmptyVolume {
        pod_uid: format!("uid-{pod}"),
        namespace: "argocd".into(),
        pod: pod.into(),
        service_account: "stranger".into(),
        consumers: consumers.map(|all| all.iter().map(|&name| name.to_owned()).collect()),
    }
}

#[test]
fn each_pod_is_told_once_and_again_when_the_first_binding_comes() {
    let mut told = Told::default();
    let mut tell = |volumes: &[EmptyVolume]| -> Vec<String> {
        let empty = volumes.iter().cloned().collect();
        let news: Vec<EmptyVolume> = told.news(&empty).into_iter().cloned().collect();
        for volume in &news {
            told.note(volume);
        }
        news.into_iter().map(|it| it.pod).collect()
    };
    let (a, b) = (volume("a", None), volume("b", None));
    let nothing: [&str; 0] = [];
    assert_eq!(tell(std::slice::from_ref(&a)), ["a"]);
    assert_eq!(tell(&[a.clone(), b.clone()]), ["b"]);
    assert_eq!(tell(&[a, b]), nothing);
    assert_eq!(tell(&[volume("a", Some(&["x"]))]), ["a"]);
    assert_eq!(tell(&[volume("a", Some(&["x", "y"]))]), nothing);
    // Served, or gone, and back.
    assert_eq!(tell(&[]), nothing);
    assert_eq!(tell(&[volume("a", Some(&["x"]))]), ["a"]);
}

#[test]
fn an_event_names_pod_account_and_consumers() {
    let early = event(&volume("a", None));
    assert!(matches!(early.type_, EventType::Normal));
    let note = early.note.unwrap();
    for part in [
        "volume-empty: ",
        "pod argocd/a",
        "service account stranger",
        "no bindings yet",
    ] {
        assert!(note.contains(part), "{part}: {note}");
    }

    let wrong = event(&volume("a", Some(&["controller", "server"])));
    assert!(matches!(wrong.type_, EventType::Warning));
    assert_eq!(wrong.reason, "volume-empty");
    let note = wrong.note.unwrap();
    assert!(note.contains("controller, server)"), "{note}");

    let names: Vec<String> = (10..99).map(|n| format!("{n}{}", "ä".repeat(60))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let many = event(&volume("a", Some(&names))).note.unwrap();
    assert!(many.len() <= LONGEST_NOTE);
    let short: Vec<&str> = names.iter().map(|name| &name[..2]).collect();
    let many = event(&volume("a", Some(&short))).note.unwrap();
    assert!(many.contains("18, 19 and 79 more)"), "{many}");
}
