//! The credential files as their consumers read them, parsed independently of
//! the product.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::hosts;
use jiff::Timestamp;
use serde::Deserialize;

/// A user name and a password that is a JWT.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) token: String,
    /// `exp` of the token.
    pub(crate) expires_at: Timestamp,
}

/// What exec-auth prints.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ExecToken {
    pub(crate) api_version: String,
    pub(crate) token: String,
    /// `exp` of the token.
    pub(crate) expires_at: Timestamp,
    /// What client-go is told.
    pub(crate) published: Timestamp,
    pub(crate) subject: String,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: i64,
}

/// The logins of a Docker configuration file, by host.
pub(crate) fn docker_config(path: &Path) -> Result<BTreeMap<String, Login>> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    logins(&bytes)
}

/// The logins of a Docker configuration, by host. Those of guides and pages, whose trials put some beside, are left out:
/// not every cloud's password is a token that can be read.
pub(crate) fn logins(bytes: &[u8]) -> Result<BTreeMap<String, Login>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        auths: BTreeMap<String, Entry>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        auth: String,
    }
    let file: File = serde_json::from_slice(bytes).context("a torn Docker configuration")?;
    let login = |entry: Entry| {
        let decoded = STANDARD.decode(entry.auth).context("a torn login")?;
        let decoded = String::from_utf8(decoded).context("a torn login")?;
        let (user, token) = decoded.split_once(':').context("a torn login")?;
        anyhow::Ok(Login {
            user: user.to_owned(),
            token: token.to_owned(),
            expires_at: expiry(&claims(token)?)?,
        })
    };
    let is_own = |host: &str| hosts::ALL.iter().all(|(name, _)| *name != host);
    let logins = file.auths.into_iter().filter(|(host, _)| is_own(host));
    logins
        .map(|(host, entry)| Ok((host, login(entry)?)))
        .collect()
}

/// The token of an ExecCredential.
pub(crate) fn exec_token(bytes: &[u8]) -> Result<ExecToken> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct File {
        kind: String,
        api_version: String,
        status: Status,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Status {
        token: String,
        expiration_timestamp: Timestamp,
    }
    let file: File = serde_json::from_slice(bytes).context("a torn ExecCredential")?;
    ensure!(file.kind == "ExecCredential", "kind {}", file.kind);
    let claims = claims(&file.status.token)?;
    Ok(ExecToken {
        api_version: file.api_version,
        expires_at: expiry(&claims)?,
        published: file.status.expiration_timestamp,
        subject: claims.sub,
        token: file.status.token,
    })
}

fn claims(token: &str) -> Result<Claims> {
    jsonwebtoken::dangerous::insecure_decode_claims(token).context("a torn token")
}

fn expiry(claims: &Claims) -> Result<Timestamp> {
    Timestamp::from_second(claims.exp).context("a token's exp is no time")
}
