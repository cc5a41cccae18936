use jsonwebtoken::{DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use serde_json::{Value, json};

use super::*;
use crate::{issuer::documents::key_set, key_secret::REREAD};

fn key() -> (SigningKey, Zeroizing<String>) {
    SigningKey::generate().unwrap()
}

#[test]
fn a_generated_key_survives_its_pem() {
    let (key, pem) = key();
    assert!(
        pem.starts_with("-----BEGIN PRIVATE KEY-----\n")
            && pem.ends_with("-----END PRIVATE KEY-----\n")
    );
    assert!(pem.lines().all(|line| line.len() <= 64));
    let again = SigningKey::from_pem(pem.as_bytes()).unwrap();
    assert_eq!(again.public(), key.public());
}

#[test]
fn another_implementation_verifies_what_is_signed() {
    let (key, _) = key();
    let token = key
        .sign(&json!({"sub": "someone", "exp": 4_000_000_000_u64}))
        .unwrap();
    let header = decode_header(&token).unwrap();
    assert_eq!(header.kid.as_deref(), Some(&*key.public().kid));
    assert_eq!(header.typ.as_deref(), Some("JWT"));

    let published = serde_json::to_string(&key_set(vec![key.public().clone()])).unwrap();
    let published: JwkSet = serde_json::from_str(&published).unwrap();
    let jwk = published.find(&key.public().kid).unwrap();
    let validation = Validation::new(jsonwebtoken::Algorithm::RS256);
    let decoded =
        decode::<Value>(&token, &DecodingKey::from_jwk(jwk).unwrap(), &validation).unwrap();
    assert_eq!(decoded.claims["sub"], "someone");
}

/// The example of RFC 7638, section 3.1.
#[test]
fn the_key_id_is_the_thumbprint_of_rfc_7638() {
    let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
    let jwk = PublicJwk::new(&URL_SAFE_NO_PAD.decode(n).unwrap(), &[1, 0, 1]);
    assert_eq!(jwk.kid, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
}

#[test]
fn bad_keys_are_told_apart() {
    let from = |pem: &str| SigningKey::from_pem(pem.as_bytes()).unwrap_err();
    assert!(matches!(from(""), KeyError::NotPem(_)));
    assert!(matches!(from("not a key"), KeyError::NotPem(_)));
    let damaged = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(matches!(from(damaged), KeyError::Rejected(_)));
    let elliptic = rcgen::KeyPair::generate().unwrap().serialize_pem();
    assert!(matches!(from(&elliptic), KeyError::Rejected(_)));
    let sec1 = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n";
    assert!(matches!(from(sec1), KeyError::NotRsa));
}

#[test]
fn nothing_of_the_key_is_printed() {
    let (key, pem) = key();
    let shown = format!(
        "{key:?} {:?}",
        Keyring::new(SigningKey::from_pem(pem.as_bytes()).unwrap())
    );
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(!shown.contains(&body[..40]), "{shown}");
    assert!(shown.len() < 400, "{shown}");
}

#[test]
fn the_ring_takes_over_another_key_only() {
    let (first, pem) = key();
    let kid = first.public().kid.clone();
    let ring = Keyring::new(first);
    assert!(!ring.replace(SigningKey::from_pem(pem.as_bytes()).unwrap()));
    assert_eq!(ring.current().public().kid, kid);
    assert!(ring.replace(key().0));
    assert_ne!(ring.current().public().kid, kid);
    assert_eq!(ring.public(), [ring.current().public().clone()]);
}

mod source {
    use super::*;
    use crate::issuer::fake::Cluster;

    fn source(cluster: &Cluster) -> KeySource {
        KeySource::new(cluster.client(), "argocd-identity")
    }

    #[tokio::test]
    async fn the_first_start_makes_a_key_and_later_ones_read_it() {
        let cluster = Cluster::default();
        let first = source(&cluster).load_or_create().await.unwrap();
        let second = source(&cluster).load_or_create().await.unwrap();
        assert_eq!(first.public(), second.public());
        let stored = cluster.secret("argocd-identity", SECRET).unwrap();
        assert!(stored.data.unwrap().contains_key(SECRET_KEY));
    }

    #[tokio::test]
    async fn a_race_is_won_by_whoever_was_first() {
        let cluster = Cluster::default();
        let all = futures::future::join_all((0..3).map(|_| {
            let source = source(&cluster);
            async move { source.load_or_create().await.unwrap().public().kid.clone() }
        }));
        let kids = all.await;
        let stored = source(&cluster).load_or_create().await.unwrap();
        assert!(
            kids.iter().all(|kid| *kid == stored.public().kid),
            "{kids:?}"
        );
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
    async fn a_replaced_key_is_taken_over_and_a_bad_one_is_not() {
        let cluster = Cluster::default();
        let (first, second) = (key(), key());
        let pem = |pem: &Zeroizing<String>| vec![(SECRET_KEY, pem.as_str().to_owned())];
        let put = |values: Vec<(&str, String)>| {
            let values: Vec<_> = values
                .iter()
                .map(|(key, value)| (*key, value.as_str()))
                .collect();
            cluster.add_secret("argocd-identity", SECRET, &values);
        };
        put(pem(&first.1));
        let ring = Keyring::new(source(&cluster).load_or_create().await.unwrap());
        let follower = {
            let (source, ring) = (source(&cluster), ring.clone());
            tokio::spawn(source.follow(move |key| ring.replace(key)))
        };
        put(vec![(SECRET_KEY, "nonsense".to_owned())]);
        tokio::time::sleep(REREAD * 2).await;
        assert_eq!(ring.current().public(), first.0.public());
        put(pem(&second.1));
        tokio::time::sleep(REREAD * 2).await;
        assert_eq!(ring.current().public(), second.0.public());
        follower.abort();
    }
}
