//! Tokens that are really signed, by keys that are made here.

use std::sync::LazyLock;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::{Value, json};
use spiffe::{JwtBundle, TrustDomain};

use super::*;

const SUBJECT: &str = "spiffe://td/a";

struct Key {
    jwk: Value,
    signing: EncodingKey,
}

impl Key {
    fn ec(kid: &str, curve: &str, algorithm: &'static EcdsaSigningAlgorithm) -> Self {
        let der = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref()).unwrap();
        let point = &pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let part = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        Self {
            jwk: json!({"kid": kid, "kty": "EC", "crv": curve, "x": part(x), "y": part(y)}),
            signing: EncodingKey::from_ec_der(der.as_ref()),
        }
    }

    fn rsa(kid: &str) -> Self {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key).unwrap();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        let pair = RsaKeyPair::from_pkcs8(der.as_ref()).unwrap();
        let public = pair.public_key();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let n = part(public.modulus().big_endian_without_leading_zero());
        let e = part(public.exponent().big_endian_without_leading_zero());
        Self {
            // As SPIRE writes it.
            jwk: json!({"kid": kid, "kty": "RSA", "use": "jwt-svid", "n": n, "e": e}),
            signing: EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
        }
    }

    fn sign(&self, algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
        let header = Header {
            kid: kid.map(Into::into),
            ..Header::new(algorithm)
        };
        encode(&header, claims, &self.signing).unwrap()
    }
}

static P256: LazyLock<Key> =
    LazyLock::new(|| Key::ec("p256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING));
static OTHER: LazyLock<Key> =
    LazyLock::new(|| Key::ec("p256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING));

/// A token that a key of [`bundles`] signed.
pub(crate) fn signed(claims: &Value) -> String {
    P256.sign(Algorithm::ES256, Some("p256"), claims)
}

/// A token that names the same key, but was made with another.
pub(crate) fn forged(claims: &Value) -> String {
    OTHER.sign(Algorithm::ES256, Some("p256"), claims)
}

/// The bundle of `spiffe://td`.
pub(crate) fn bundles() -> JwtBundleSet {
    bundles_with(&[&P256])
}

/// Bundles from a time before there were keys.
pub(crate) fn old_bundles() -> JwtBundleSet {
    bundles_with(&[])
}

fn bundles_with(keys: &[&Key]) -> JwtBundleSet {
    let keys: Vec<_> = keys.iter().map(|key| &key.jwk).collect();
    let jwks = json!({ "keys": keys }).to_string();
    let domain = TrustDomain::new("td").unwrap();
    let mut bundles = JwtBundleSet::new();
    bundles.add_bundle(JwtBundle::from_jwt_authorities(domain, jwks.as_bytes()).unwrap());
    bundles
}

#[test]
fn what_the_trust_domain_signed_is_valid() {
    let (rsa, p384) = (
        Key::rsa("rsa"),
        Key::ec("p384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
    );
    let bundles = bundles_with(&[&P256, &p384, &rsa]);
    // Times are not looked at here.
    let claims = json!({"sub": SUBJECT, "exp": 1, "nbf": 4_000_000_000_u32});
    for (key, kid, algorithm) in [
        (&rsa, "rsa", Algorithm::RS256),
        (&rsa, "rsa", Algorithm::RS384),
        (&rsa, "rsa", Algorithm::RS512),
        (&rsa, "rsa", Algorithm::PS256),
        (&*P256, "p256", Algorithm::ES256),
        (&p384, "p384", Algorithm::ES384),
    ] {
        let token = key.sign(algorithm, Some(kid), &claims);
        let found = verdict(&token, SUBJECT, &bundles);
        assert_eq!(found, Verdict::Valid, "{algorithm:?}");
    }
}

#[test]
fn what_it_did_not_sign_is_not() {
    let claims = json!({"sub": SUBJECT});
    let check = |token: &str, subject, expected: &str| {
        let found = verdict(token, subject, &bundles());
        let Verdict::Invalid(reason) = &found else {
            panic!("{found:?}");
        };
        assert!(reason.contains(expected), "{reason}");
    };
    check(&forged(&claims), SUBJECT, "InvalidSignature");
    let nameless = P256.sign(Algorithm::ES256, None, &claims);
    check(&nameless, SUBJECT, "names no key");
    check("no-jwt", SUBJECT, "header");
    check(&signed(&claims), "system:serviceaccount:a:b", "SPIFFE ID");
    // With the public key as the secret of an HMAC.
    let secret = EncodingKey::from_secret(P256.jwk.to_string().as_bytes());
    let hmac = Key {
        jwk: Value::Null,
        signing: secret,
    };
    let token = hmac.sign(Algorithm::HS256, Some("p256"), &claims);
    check(&token, SUBJECT, "no JWT-SVID is signed with HS256");
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let none = format!("{}.{}.", part(r#"{"alg":"none","kid":"p256"}"#), part("{}"));
    check(&none, SUBJECT, "header");
    // Of the right key, but of another kind.
    let rsa = Key::rsa("p256").sign(Algorithm::RS256, Some("p256"), &claims);
    check(&rsa, SUBJECT, "p256");
}

#[test]
fn a_key_that_is_not_there_yet_is_told_from_a_wrong_one() {
    let token = signed(&json!({"sub": SUBJECT}));
    for (bundles, subject) in [(old_bundles(), SUBJECT), (bundles(), "spiffe://other/a")] {
        let found = verdict(&token, subject, &bundles);
        assert!(matches!(found, Verdict::UnknownKey(_)), "{found:?}");
    }
}

proptest! {
    #[test]
    fn no_text_is_valid_or_panics(text in "\\PC*", byte in 0_usize..64, change in 1_u8..=255) {
        let bundles = bundles();
        prop_assert!(verdict(&text, SUBJECT, &bundles) != Verdict::Valid);
        // Nor is a token whose signature was touched anywhere.
        let token = signed(&json!({"sub": SUBJECT}));
        let (message, signature) = token.rsplit_once('.').unwrap();
        let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        signature[byte] ^= change;
        let touched = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
        prop_assert!(verdict(&touched, SUBJECT, &bundles) != Verdict::Valid);
    }
}
