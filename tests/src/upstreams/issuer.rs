//! An issuer of identity tokens: a subject and an audience flow in, a signed token flows out, and the documents that
//! verify it are on a server of their own.

use std::time::Duration;

use agent::identity::IdentityToken;
use anyhow::{Context as _, Result};
use axum::routing::get;
use axum::{Json, Router};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::{Server, Upstreams};

/// The issuer's host name.
const HOST: &str = "issuer.example.test";

/// An issuer as those see it who trust it.
#[derive(Debug, Clone)]
pub struct Trusted {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// The keys that verify them.
    pub keys: JwkSet,
}

/// A running issuer.
pub struct Issuer {
    key: EncodingKey,
    keys: JwkSet,
    public: String,
    _server: Server,
}

impl Issuer {
    /// Makes a key (RS256, as SPIRE and clusters have) and serves its documents.
    ///
    /// # Errors
    /// When the key or the server cannot be made.
    pub async fn start(world: &Upstreams) -> Result<Self> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).context("make a key")?;
        let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes())?;
        let mut public = Jwk::from_encoding_key(&key, Algorithm::RS256)?;
        public.common.key_id = Some(HOST.into());
        let keys = JwkSet { keys: vec![public] };
        let discovery = json!({
            "issuer": Self::url(),
            "jwks_uri": format!("{}/keys", Self::url()),
            "authorization_endpoint": "urn:kubernetes:programmatic_authorization",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        });
        let document = serde_json::to_value(&keys)?;
        let answer = |document: Value| get(|| async move { Json(document) });
        let routes = Router::new()
            .route("/.well-known/openid-configuration", answer(discovery))
            .route("/keys", answer(document));
        Ok(Self {
            key,
            keys,
            public: pair.public_key_pem(),
            _server: world.serve(&[HOST], routes).await?,
        })
    }

    /// The `iss` of its tokens.
    #[must_use]
    pub fn url() -> String {
        format!("https://{HOST}")
    }

    /// The keys that verify its tokens.
    #[must_use]
    pub fn keys(&self) -> &JwkSet {
        &self.keys
    }

    /// What a registry that trusts it knows of it.
    #[must_use]
    pub fn trusted(&self) -> Trusted {
        Trusted {
            issuer: Self::url(),
            keys: self.keys.clone(),
        }
    }

    /// The key that verifies its tokens, PEM.
    #[must_use]
    pub fn public_key_pem(&self) -> &str {
        &self.public
    }

    /// A token that expires after `life`.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, subject: &str, audience: &str, life: Duration) -> Result<IdentityToken> {
        let now = Timestamp::now();
        let expires_at = now + SignedDuration::try_from(life)?;
        let token = self.sign(&json!({
            "iss": Self::url(),
            "sub": subject,
            "aud": [audience],
            "iat": now.as_second(),
            "exp": expires_at.as_second(),
        }))?;
        Ok(IdentityToken {
            token: token.into(),
            expires_at: Timestamp::from_second(expires_at.as_second())?,
        })
    }

    /// A token with exactly these claims.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(HOST.into());
        encode(&header, claims, &self.key).context("sign a token")
    }
}
