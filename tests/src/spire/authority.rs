//! What a SPIRE server does: signs JWT-SVIDs and X.509-SVIDs and publishes the keys that verify them.
//!
//! Flows in: a SPIFFE ID, an audience, a lifetime, and what a test wants to be wrong. Flows out: tokens,
//! certificates, bundles. Claims and extensions are those that SPIRE 1.x writes by default.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize, SanType,
};
use serde_json::{Value, json};

/// Seconds since the expiry of what is forged to be expired: more than any verifier's leeway.
const LONG_EXPIRED: i64 = 60 * 60;

/// SPIRE's `jwt_key_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// `rsa-2048`: RS256, the only one that Quay accepts.
    Rsa2048,
    /// `ec-p256`: ES256, SPIRE's default.
    EcP256,
}

/// What is wrong with SVIDs that are signed from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// Signed by another key than the bundle has under this name: a JWT with a known `kid`, a certificate whose
    /// issuer has the authority's name.
    Signature,
    /// A JWT whose `kid` is not in the bundle.
    UnknownKey,
    /// For another audience.
    Audience(String),
    /// Of another SPIFFE ID than the answer says.
    Subject(String),
    /// Expired before it was asked for.
    Expired,
    /// A certificate whose private key belongs to another one.
    PrivateKey,
}

/// A signed token.
#[derive(Clone, Debug)]
pub(super) struct Jwt {
    pub(super) token: String,
    pub(super) issued_at: i64,
    pub(super) expires_at: i64,
}

/// A signed certificate.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    /// Only the leaf, DER: an authority of the bundle has signed it.
    pub(super) chain: Vec<Vec<u8>>,
    /// PKCS #8, DER.
    pub(super) key: Vec<u8>,
    pub(super) issued_at: i64,
    pub(super) expires_at: i64,
}

/// A SPIRE server.
pub(super) struct Authority {
    trust_domain: String,
    key_type: KeyType,
    issuer: Option<String>,
    offset: SignedDuration,
    forgery: Option<Forgery>,
    keys: BTreeMap<String, Keys>,
    /// Forges signatures; in no bundle.
    stranger: Option<JwtKey>,
    /// Makes every `jti` and `kid` another.
    serial: u64,
}

/// The keys of a trust domain; the newest, which signs, comes last.
struct Keys {
    jwt: Vec<JwtKey>,
    x509: Vec<X509Key>,
}

struct JwtKey {
    id: String,
    algorithm: Algorithm,
    private: EncodingKey,
    public: Jwk,
}

struct X509Key {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new(trust_domain: &str, key_type: KeyType) -> Result<Self> {
        let mut authority = Self {
            trust_domain: trust_domain.to_owned(),
            key_type,
            issuer: None,
            offset: SignedDuration::ZERO,
            forgery: None,
            keys: BTreeMap::new(),
            stranger: None,
            serial: 0,
        };
        authority.federate(trust_domain)?;
        Ok(authority)
    }

    /// Adds keys of a trust domain, unless it has some.
    pub(super) fn federate(&mut self, trust_domain: &str) -> Result<()> {
        if !self.keys.contains_key(trust_domain) {
            let keys = Keys {
                jwt: vec![self.jwt_key()?],
                x509: vec![X509Key::generate(trust_domain)?],
            };
            self.keys.insert(trust_domain.to_owned(), keys);
        }
        Ok(())
    }

    /// Signs JWT-SVIDs with a new key from now on; the bundle keeps the earlier ones.
    pub(super) fn rotate_jwt_key(&mut self, key_type: KeyType) -> Result<()> {
        self.key_type = key_type;
        self.stranger = None;
        let key = self.jwt_key()?;
        self.own().jwt.push(key);
        Ok(())
    }

    /// Signs X.509-SVIDs with a new authority from now on; the bundle keeps the earlier ones.
    pub(super) fn rotate_x509_key(&mut self) -> Result<()> {
        let key = X509Key::generate(&self.trust_domain)?;
        self.own().x509.push(key);
        Ok(())
    }

    pub(super) fn set_issuer(&mut self, issuer: Option<String>) {
        self.issuer = issuer;
    }

    pub(super) fn set_offset(&mut self, offset: SignedDuration) {
        self.offset = offset;
    }

    pub(super) fn forge(&mut self, forgery: Option<Forgery>) {
        self.forgery = forgery;
    }

    /// The server's clock, seconds since the epoch.
    pub(super) fn now(&self) -> i64 {
        Timestamp::now()
            .as_second()
            .saturating_add(self.offset.as_secs())
    }

    /// A JWT-SVID that was issued `age` ago.
    pub(super) fn sign(
        &mut self,
        spiffe_id: &str,
        audience: &[String],
        ttl: Duration,
        age: Duration,
    ) -> Result<Jwt> {
        let ttl = seconds(ttl);
        let age = match self.forgery {
            Some(Forgery::Expired) => ttl.saturating_add(LONG_EXPIRED),
            _ => seconds(age),
        };
        let issued_at = self.now().saturating_sub(age);
        let expires_at = issued_at.saturating_add(ttl);
        self.serial += 1;
        let mut claims = json!({
            "aud": audience,
            "exp": expires_at,
            "iat": issued_at,
            "jti": format!("{:032x}", self.serial),
            "sub": spiffe_id,
        });
        if let Some(issuer) = &self.issuer {
            claims["iss"] = json!(issuer);
        }
        match &self.forgery {
            Some(Forgery::Audience(audience)) => claims["aud"] = json!([audience]),
            Some(Forgery::Subject(subject)) => claims["sub"] = json!(subject),
            _ => {}
        }
        let forged = matches!(self.forgery, Some(Forgery::Signature | Forgery::UnknownKey));
        if forged && self.stranger.is_none() {
            self.stranger = Some(self.jwt_key()?);
        }
        let own = self.keys.get(&self.trust_domain);
        let published = own.and_then(|keys| keys.jwt.last());
        let published = published.context("no key for JWT-SVIDs")?;
        let key = match &self.stranger {
            Some(stranger) if forged => stranger,
            _ => published,
        };
        let named = match self.forgery {
            Some(Forgery::UnknownKey) => key,
            _ => published,
        };
        let mut header = Header::new(key.algorithm);
        header.kid = Some(named.id.clone());
        let token = encode(&header, &claims, &key.private).context("sign a JWT-SVID")?;
        Ok(Jwt {
            token,
            issued_at,
            expires_at,
        })
    }

    /// An X.509-SVID with a key of its own.
    pub(super) fn certify(&mut self, spiffe_id: &str, ttl: Duration) -> Result<Certificate> {
        let issued_at = match self.forgery {
            Some(Forgery::Expired) => self
                .now()
                .saturating_sub(seconds(ttl))
                .saturating_sub(LONG_EXPIRED),
            _ => self.now(),
        };
        let expires_at = issued_at.saturating_add(seconds(ttl));
        let subject = match &self.forgery {
            Some(Forgery::Subject(subject)) => subject,
            _ => spiffe_id,
        };
        let mut params = spire_params(subject)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyAgreement,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        // SPIRE backdates certificates by ten seconds, for clocks that differ a little.
        params.not_before = instant(issued_at.saturating_sub(10)).into();
        params.not_after = instant(expires_at).into();
        let stranger = match self.forgery {
            Some(Forgery::Signature) => Some(X509Key::generate(&self.trust_domain)?),
            _ => None,
        };
        let published = self.own().x509.last().context("no X.509 authority")?;
        let authority = stranger.as_ref().unwrap_or(published);
        let key = KeyPair::generate().context("make the key of an X.509-SVID")?;
        let leaf = params
            .signed_by(&key, &authority.issuer)
            .context("sign an X.509-SVID")?;
        let key = match self.forgery {
            Some(Forgery::PrivateKey) => KeyPair::generate().context("make another key")?,
            _ => key,
        };
        Ok(Certificate {
            chain: vec![leaf.der().to_vec()],
            key: key.serialize_der(),
            issued_at,
            expires_at,
        })
    }

    /// JWKS documents by trust domain, as SPIRE's agent gives them: without `alg` and `use`.
    pub(super) fn jwt_bundles(&self) -> HashMap<String, Vec<u8>> {
        let document = |keys: &Keys| {
            let keys: Vec<Value> = keys.jwt.iter().map(JwtKey::in_bundle).collect();
            json!({ "keys": keys }).to_string().into_bytes()
        };
        self.keys
            .iter()
            .map(|(trust_domain, keys)| (format!("spiffe://{trust_domain}"), document(keys)))
            .collect()
    }

    /// DER certificates one after the other, by trust domain.
    pub(super) fn x509_bundles(&self) -> HashMap<String, Vec<u8>> {
        let authorities = |keys: &Keys| keys.x509.iter().flat_map(|key| key.der.clone()).collect();
        self.keys
            .iter()
            .map(|(trust_domain, keys)| (format!("spiffe://{trust_domain}"), authorities(keys)))
            .collect()
    }

    /// The trust domain's authorities, each DER.
    pub(super) fn x509_authorities(&self) -> Vec<Vec<u8>> {
        let keys = self.keys.get(&self.trust_domain).map(|keys| &keys.x509);
        let keys = keys.into_iter().flatten();
        keys.map(|key| key.der.clone()).collect()
    }

    /// The name under which bundles have this trust domain.
    pub(super) fn trust_domain_id(&self) -> String {
        format!("spiffe://{}", self.trust_domain)
    }

    /// The trust domain's JWKS document, as SPIRE's OIDC Discovery Provider serves it.
    pub(super) fn jwks(&self) -> Value {
        let keys = self.keys.get(&self.trust_domain).map(|keys| &keys.jwt);
        let keys: Vec<&Jwk> = keys.into_iter().flatten().map(|key| &key.public).collect();
        json!({ "keys": keys })
    }

    fn own(&mut self) -> &mut Keys {
        self.keys
            .entry(self.trust_domain.clone())
            .or_insert_with(|| Keys {
                jwt: Vec::new(),
                x509: Vec::new(),
            })
    }

    fn jwt_key(&mut self) -> Result<JwtKey> {
        self.serial += 1;
        JwtKey::generate(format!("jwt-{}", self.serial), self.key_type)
    }
}

impl JwtKey {
    fn generate(id: String, key_type: KeyType) -> Result<Self> {
        let (algorithm, private) = match key_type {
            KeyType::Rsa2048 => {
                let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
                    .context("make an RSA key")?;
                let key = EncodingKey::from_rsa_pem(key.serialize_pem().as_bytes());
                (Algorithm::RS256, key.context("read back an RSA key")?)
            }
            KeyType::EcP256 => {
                let key = KeyPair::generate().context("make a P-256 key")?;
                (
                    Algorithm::ES256,
                    EncodingKey::from_ec_der(&key.serialize_der()),
                )
            }
        };
        let mut public =
            Jwk::from_encoding_key(&private, algorithm).context("the public half of a key")?;
        public.common.key_id = Some(id.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self {
            id,
            algorithm,
            private,
            public,
        })
    }

    fn in_bundle(&self) -> Value {
        let mut key = json!(self.public);
        if let Some(members) = key.as_object_mut() {
            members.retain(|name, _| name != "alg" && name != "use");
        }
        key
    }
}

impl X509Key {
    fn generate(trust_domain: &str) -> Result<Self> {
        let mut params = spire_params(&format!("spiffe://{trust_domain}"))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("make an authority's key")?;
        let certificate = params.self_signed(&key).context("sign an authority")?;
        Ok(Self {
            der: certificate.der().to_vec(),
            issuer: Issuer::new(params, key),
        })
    }
}

/// What all certificates of SPIRE have: its subject, and the SPIFFE ID as their only name.
fn spire_params(spiffe_id: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "US");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "SPIRE");
    let name = spiffe_id.try_into().context("a SPIFFE ID is ASCII")?;
    params.subject_alt_names = vec![SanType::URI(name)];
    Ok(params)
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn instant(second: i64) -> SystemTime {
    let after = Duration::from_secs(u64::try_from(second).unwrap_or_default());
    SystemTime::UNIX_EPOCH
        .checked_add(after)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
