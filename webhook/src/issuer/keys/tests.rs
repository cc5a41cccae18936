use jsonwebtoken::{DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use serde_json::{Value, json};

use super::*;
use crate::issuer::documents::key_set;

const LIFETIME: Duration = Duration::from_secs(600);

fn key() -> (SigningKey, Zeroizing<String>) {
    SigningKey::generate(Algorithm::Rs256).unwrap()
}

fn both() -> [(SigningKey, Zeroizing<String>); 2] {
    [Algorithm::Rs256, Algorithm::Es256].map(|kind| SigningKey::generate(kind).unwrap())
}

#[test]
fn a_generated_key_survives_its_pem() {
    for (key, pem) in both() {
        assert!(
            pem.starts_with("-----BEGIN PRIVATE KEY-----\n")
                && pem.ends_with("-----END PRIVATE KEY-----\n")
        );
        assert!(pem.lines().all(|line| line.len() <= 64));
        let again = SigningKey::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(again.public(), key.public());
    }
}

#[test]
fn another_implementation_verifies_what_is_signed() {
    for (key, _) in both() {
        let token = key
            .sign(&json!({"sub": "someone", "exp": 4_000_000_000_u64}))
            .unwrap();
        let header = decode_header(&token).unwrap();
        assert_eq!(header.kid.as_deref(), Some(&*key.public().kid));
        assert_eq!(header.typ.as_deref(), Some("JWT"));
        let algorithm = key.public().algorithm().as_str().parse().unwrap();
        assert_eq!(header.alg, algorithm);

        let published = serde_json::to_string(&key_set(vec![key.public().clone()])).unwrap();
        let published: JwkSet = serde_json::from_str(&published).unwrap();
        let jwk = published.find(&key.public().kid).unwrap();
        let validation = Validation::new(algorithm);
        let decoded =
            decode::<Value>(&token, &DecodingKey::from_jwk(jwk).unwrap(), &validation).unwrap();
        assert_eq!(decoded.claims["sub"], "someone");
    }
}

/// The example of RFC 7638, section 3.1.
#[test]
fn the_key_id_is_the_thumbprint_of_rfc_7638() {
    let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
    let jwk = PublicJwk::rsa(&URL_SAFE_NO_PAD.decode(n).unwrap(), &[1, 0, 1]).unwrap();
    assert_eq!(jwk.kid, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
}

/// The key of RFC 9449, section 6.1, whose thumbprint is in that section.
#[test]
fn so_is_that_of_an_elliptic_key() {
    let mut point = vec![4];
    for coordinate in [
        "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
        "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    ] {
        point.extend(URL_SAFE_NO_PAD.decode(coordinate).unwrap());
    }
    let jwk = PublicJwk::p256(&point).unwrap();
    assert_eq!(jwk.kid, "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
    assert_eq!(
        json!(jwk),
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": jwk.kid,
            "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
            "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
        })
    );
}

/// A public key is published like the private one that it belongs to.
#[test]
fn public_and_private_keys_are_read_alike() {
    for (key, pem) in both() {
        let public = rcgen::KeyPair::from_pem(&pem).unwrap().public_key_pem();
        for pem in [&public, &*pem] {
            assert_eq!(PublicJwk::from_pem(pem.as_bytes()).unwrap(), *key.public());
        }
        assert!(SigningKey::from_pem(public.as_bytes()).is_err());
    }
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for pem in [other.public_key_pem(), other.serialize_pem(), String::new()] {
        assert!(PublicJwk::from_pem(pem.as_bytes()).is_err(), "{pem}");
    }
}

#[test]
fn bad_keys_are_told_apart() {
    let from = |pem: &str| SigningKey::from_pem(pem.as_bytes()).unwrap_err();
    assert!(matches!(from(""), KeyError::NotPem(_)));
    assert!(matches!(from("not a key"), KeyError::NotPem(_)));
    let damaged = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(matches!(from(damaged), KeyError::Rejected(_)));
    for kind in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let other = rcgen::KeyPair::generate_for(kind).unwrap().serialize_pem();
        assert!(matches!(from(&other), KeyError::Rejected(_)));
    }
    let sec1 = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n";
    assert!(matches!(from(sec1), KeyError::Rejected(_)));
}

#[test]
fn nothing_of_the_key_is_printed() {
    let (key, pem) = key();
    let shown = format!(
        "{key:?} {:?}",
        Keyring::new(SigningKey::from_pem(pem.as_bytes()).unwrap(), LIFETIME)
    );
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(!shown.contains(&body[..40]), "{shown}");
    assert!(shown.len() < 4000, "{shown}");
}

#[tokio::test(start_paused = true)]
async fn the_ring_takes_over_another_key_only() {
    let (first, pem) = key();
    let kid = first.public().kid.clone();
    let ring = Keyring::new(first, LIFETIME);
    assert!(!ring.replace(SigningKey::from_pem(pem.as_bytes()).unwrap()));
    assert_eq!(ring.public().len(), 1);
    assert!(ring.replace(key().0));
    assert_eq!(
        ring.current().unwrap().public().kid,
        kid,
        "it is not known yet"
    );
    assert_eq!(ring.public().len(), 2);
    tokio::time::advance(SETTLE).await;
    assert_ne!(ring.current().unwrap().public().kid, kid);
    assert_eq!(ring.public()[0], *ring.current().unwrap().public());
}

#[test]
fn quay_is_warned_about_elliptic_keys_only() {
    use crate::source::{derive, tests::*};
    use control_plane_core::derive::meaning::Derived;
    let Derived::Valid(_, mut spec) = derive(&derivation(), &quay("quay")) else {
        panic!("the guide's Secret");
    };
    let object = "Secret argocd/quay";
    assert_eq!(
        Algorithm::Rs256.objection(object, spec.identity.credential, spec.exchange.kind),
        None
    );
    let warning = Algorithm::Es256
        .objection(object, spec.identity.credential, spec.exchange.kind)
        .unwrap();
    assert_eq!(warning.code, shared::errors::Code::UnsupportedAlgorithm);
    spec.identity.credential = shared::binding::CredentialKind::ServiceAccountToken;
    assert_eq!(
        Algorithm::Es256.objection(object, spec.identity.credential, spec.exchange.kind),
        None
    );
}
