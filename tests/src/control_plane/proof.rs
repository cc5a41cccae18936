//! Whether an API server trusts an issuer: by its own word, not by a clock.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

/// Of kube-apiserver: when it read an issuer's keys last, with a label that says how that ended.
const KEYS_READ: &str =
    "apiserver_authentication_jwt_authenticator_jwks_fetch_last_timestamp_seconds{";
const WELL: &str = "result=\"success\"";
/// Longer than any start takes.
const LIFE: SignedDuration = SignedDuration::from_mins(10);

/// By what an API server shows that it takes an issuer's tokens.
pub struct Proof {
    token: String,
    shown: Shown,
}

enum Shown {
    /// It takes the token's bearer for this user.
    User(String),
    /// It has read the issuer's keys to refuse the token, which nobody signed.
    Keys,
}

impl Proof {
    /// A token of the issuer's, and the user that its bearer is to the API server.
    #[must_use]
    pub fn token_of(user: String, token: String) -> Self {
        Self {
            token,
            shown: Shown::User(user),
        }
    }

    /// Where the issuer gives nobody a token yet: an API server that verifies signatures with the issuer's keys
    /// lacks nothing.
    #[must_use]
    pub fn without_token(issuer_url: &str, audience: &str) -> Self {
        let now = Timestamp::now();
        let claims = json!({
            "iss": issuer_url,
            "sub": "nobody",
            "aud": [audience],
            "iat": now.as_second(),
            "exp": (now + LIFE).as_second(),
        });
        let part = |text: String| URL_SAFE_NO_PAD.encode(text);
        let header = part(json!({ "alg": "RS256", "typ": "JWT" }).to_string());
        let (claims, signature) = (part(claims.to_string()), part("not a signature".into()));
        Self {
            token: format!("{header}.{claims}.{signature}"),
            shown: Shown::Keys,
        }
    }

    /// What is shown to the API server.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Looks once; `shown` shows the token, `admin` has all rights.
    pub(super) async fn holds(&self, shown: &Client, admin: &Client) -> Result<()> {
        let answer = who(shown).await;
        match &self.shown {
            Shown::User(user) => {
                let found = answer?;
                ensure!(found == *user, "it takes {user} for {found}");
            }
            Shown::Keys => {
                let metrics = http::Request::get("/metrics").body(Vec::new())?;
                let metrics = admin.request_text(metrics).await.context("read metrics")?;
                let mut read = metrics.lines().filter(|line| line.starts_with(KEYS_READ));
                ensure!(
                    read.any(|line| line.contains(WELL)),
                    "it has not read its issuer's keys"
                );
            }
        }
        Ok(())
    }
}

/// Whom an API server takes the client for.
async fn who(client: &Client) -> Result<String> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let answer = reviews
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await
        .context("ask who one is")?;
    let user = answer.status.and_then(|status| status.user_info);
    user.and_then(|user| user.username).context("nobody")
}

/// Looks once whether an issuer serves its discovery document and a key.
pub(super) async fn documents(http: &reqwest::Client, issuer_url: &str) -> Result<()> {
    let read = async |url: &str| -> Result<Value> {
        let answer = http.get(url).send().await?.error_for_status()?;
        answer.json().await.with_context(|| format!("read {url}"))
    };
    let discovery = read(&format!("{issuer_url}/.well-known/openid-configuration")).await?;
    let keys = discovery["jwks_uri"].as_str().context("no jwks_uri")?;
    let keys = read(keys).await?;
    let has_keys = keys["keys"].as_array().is_some_and(|keys| !keys.is_empty());
    ensure!(has_keys, "no keys: {keys}");
    Ok(())
}
