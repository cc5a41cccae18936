//! The Secret, by an API server that stores what it is given.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::*;
use crate::issuer::{
    fake::Cluster,
    keys::{Keyring, PublicJwk, SETTLE, SPREAD},
};

const LIFETIME: Duration = Duration::from_secs(600);

fn source(cluster: &Cluster) -> KeySource {
    KeySource::new(cluster.client(), "argocd-identity", Algorithm::Rs256)
}

fn key() -> (SigningKey, Zeroizing<String>) {
    SigningKey::generate(Algorithm::Rs256).unwrap()
}

fn kid(keys: &StoredKeys) -> String {
    keys.signing.public().kid.clone()
}

/// Puts entries into the Secret.
fn put(cluster: &Cluster, entries: &[(&str, &str)]) {
    cluster.add_secret("argocd-identity", SECRET, entries);
}

/// Follows the Secret into a ring.
fn follow(cluster: &Cluster) -> (Keyring, tokio::task::JoinHandle<()>) {
    let (source, ring) = (source(cluster), Keyring::empty(LIFETIME));
    let taking = ring.clone();
    let following = source.follow(move |found| {
        if let Ok(found) = found {
            taking.replace(found);
        }
    });
    (ring, tokio::spawn(following))
}

/// Waits for a key to be published, without waiting for the next [`RESYNC`].
async fn published(ring: &Keyring, key: &PublicJwk) {
    let waiting = async {
        while !ring.public().contains(key) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waiting = timeout(RESYNC / 3, waiting).await;
    waiting.expect("nobody has looked at the Secret");
}

#[tokio::test]
async fn the_first_start_makes_a_key_and_later_ones_read_it() {
    let cluster = Cluster::default();
    let first = source(&cluster).load_or_create().await.unwrap();
    let second = source(&cluster).load_or_create().await.unwrap();
    assert_eq!(first.signing.public(), second.signing.public());
    let stored = cluster.secret("argocd-identity", SECRET).unwrap();
    assert!(stored.data.unwrap().contains_key(SECRET_KEY));
}

#[tokio::test]
async fn a_race_is_won_by_whoever_was_first() {
    let cluster = Cluster::default();
    let all = futures::future::join_all((0..3).map(|_| {
        let source = source(&cluster);
        async move {
            source
                .load_or_create()
                .await
                .map(|keys| kid(&keys))
                .unwrap()
        }
    }));
    let kids = all.await;
    let stored = source(&cluster).load_or_create().await.unwrap();
    assert!(kids.iter().all(|found| *found == kid(&stored)), "{kids:?}");
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_named_and_left_alone() {
    for (values, expected) in [
        (vec![], "has no key tls.key"),
        (vec![(SECRET_KEY, "nonsense")], "key tls.key cannot be used"),
    ] {
        let cluster = Cluster::default();
        cluster.add_secret("argocd-identity", SECRET, &values);
        let before = cluster.secret("argocd-identity", SECRET);
        let error = source(&cluster)
            .load_or_create()
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("argocd-identity/argocd-identity-issuer"),
            "{error}"
        );
        assert!(
            error.contains(expected) && error.contains("delete the Secret"),
            "{error}"
        );
        assert_eq!(cluster.secret("argocd-identity", SECRET), before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replaced_key_is_taken_over_at_once_and_a_bad_one_is_not() {
    let cluster = Cluster::default();
    let (first, second) = (key(), key());
    put(&cluster, &[(SECRET_KEY, &first.1)]);
    let (ring, follower) = follow(&cluster);
    published(&ring, first.0.public()).await;
    put(&cluster, &[(SECRET_KEY, "nonsense")]);
    tokio::time::sleep(RESYNC * 2).await;
    assert_eq!(ring.current().unwrap().public(), first.0.public());
    put(&cluster, &[(SECRET_KEY, &second.1)]);
    published(&ring, second.0.public()).await;
    assert_eq!(ring.current().unwrap().public(), first.0.public());
    tokio::time::sleep(SETTLE).await;
    assert_eq!(ring.current().unwrap().public(), second.0.public());
    assert!(ring.public().contains(first.0.public()));
    tokio::time::sleep(SPREAD + SETTLE + LIFETIME).await;
    assert_eq!(ring.public(), [second.0.public().clone()]);
    follower.abort();
}

#[tokio::test(start_paused = true)]
async fn a_deleted_secret_is_made_again_at_once() {
    let cluster = Cluster::default();
    let (ring, follower) = follow(&cluster);
    let made = async {
        while ring.current().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ring.current().unwrap()
    };
    let first: Arc<SigningKey> = timeout(RESYNC, made).await.unwrap();
    cluster.delete_secret("argocd-identity", SECRET);
    let again = async {
        while cluster.secret("argocd-identity", SECRET).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(RESYNC / 3, again)
        .await
        .expect("nobody has noticed");
    assert_eq!(ring.current().unwrap().public(), first.public());
    follower.abort();
}

/// A watch that stands still, or may not be made, must not keep a replica from
/// seeing a change within the time that the others reckon with.
#[tokio::test(start_paused = true)]
async fn without_a_watch_a_change_is_seen_within_the_spread() {
    let cluster = Cluster::default();
    cluster.break_watches();
    let (first, second) = (key(), key());
    put(&cluster, &[(SECRET_KEY, &first.1)]);
    let (ring, follower) = follow(&cluster);
    published(&ring, first.0.public()).await;
    put(&cluster, &[(SECRET_KEY, &second.1)]);
    tokio::time::sleep(SPREAD).await;
    assert!(ring.public().contains(second.0.public()));
    follower.abort();
}

#[tokio::test]
async fn the_first_key_is_of_the_kind_that_is_set() {
    for kind in [Algorithm::Rs256, Algorithm::Es256] {
        let cluster = Cluster::default();
        let made = KeySource::new(cluster.client(), "argocd-identity", kind);
        let made = made.load_or_create().await.unwrap();
        assert_eq!(made.signing.public().algorithm(), kind);
        // One that is there decides for itself.
        let read = source(&cluster).load_or_create().await.unwrap();
        assert_eq!(read.signing.public(), made.signing.public());
    }
}

#[tokio::test]
async fn every_pem_entry_is_published() {
    let both = [Algorithm::Rs256, Algorithm::Es256].map(SigningKey::generate);
    let [(_, rsa), (_, elliptic)] = both.map(Result::unwrap);
    let public = rcgen::KeyPair::from_pem(&key().1).unwrap().public_key_pem();
    let cluster = Cluster::default();
    let put = |more: &str| {
        let entries = [
            (SECRET_KEY, rsa.as_str()),
            ("next.pem", &elliptic),
            ("previous.pem", &public),
            ("ca.crt", "nonsense"),
            ("more.pem", more),
        ];
        put(&cluster, &entries);
    };
    put(&public);
    let found = source(&cluster).load_or_create().await.unwrap();
    assert_eq!(found.listed.len(), 3);
    assert_eq!(Keyring::new(found, LIFETIME).public().len(), 3);
    put("nonsense");
    let error = source(&cluster).load_or_create().await.unwrap_err();
    let error = crate::report::chain(&error);
    assert!(error.contains("more.pem"), "{error}");
}
