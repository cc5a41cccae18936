//! The real registry behind a cloud's token realm.
//!
//! Flows in: who a client of the realm is and what it may pull, and charts. Flows out: registry tokens, and the
//! registry's content. The registry verifies each token itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::response::Response;
use serde_json::json;

use super::journal::Grant;
use crate::chart::Chart;
use crate::folders::create;
use crate::quay::basic;
use crate::quay::robots::{covers, parse_scopes};
use crate::quay::tokens::{Access, ISSUER, Rejection, RobotClaims, SigningKey};
use crate::registry::{Registry, TokenAuth};
use crate::relay;

/// How long registry tokens live.
pub(crate) const LIFE: Duration = Duration::from_secs(300);

pub(crate) struct Front {
    host: String,
    folder: PathBuf,
    registry: Registry,
    key: SigningKey,
    client: reqwest::Client,
}

impl Front {
    /// Starts the registry of `host`, whose realm is at `realm`, a path.
    pub(crate) async fn start(
        binary: &Path,
        folder: &Path,
        host: &str,
        realm: &str,
    ) -> Result<Self> {
        let key = SigningKey::generate("registry")?;
        let auth = TokenAuth {
            realm: format!("https://{host}{realm}"),
            service: host.to_owned(),
            issuer: ISSUER.into(),
            jwks: key.jwks()?,
        };
        let folder = folder.join(host);
        Ok(Self {
            host: host.to_owned(),
            registry: Registry::start(binary, &folder, &auth).await?,
            folder,
            key,
            client: reqwest::Client::builder().no_proxy().build()?,
        })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// A registry token with those of the scopes that `pull` covers; the others are left out.
    pub(super) fn token<'a>(
        &self,
        account: &str,
        pull: &[String],
        scopes: impl IntoIterator<Item = &'a str>,
    ) -> Result<(String, Grant)> {
        let mut access = parse_scopes(scopes);
        let names = |access: &[Access]| access.iter().map(|it| it.name.clone()).collect();
        let asked = names(&access);
        access.retain(|it| covers(pull, &it.name));
        for it in &mut access {
            it.actions = vec!["pull".into()];
        }
        let token = self
            .key
            .registry_token(&self.host, account, &access, LIFE)?;
        let grant = Grant {
            account: account.to_owned(),
            asked,
            granted: names(&access),
        };
        Ok((token, grant))
    }

    /// A token of the registry's own that stands for `subject`.
    pub(crate) fn password(&self, subject: &str, life: Duration) -> Result<String> {
        self.key.robot_token(&self.host, subject, life)
    }

    /// Whom a token of [`Front::password`] stands for, while it is valid.
    pub(crate) fn owner(&self, password: &str) -> Option<String> {
        match self.key.verify_robot_token(password) {
            Ok(RobotClaims { sub, .. }) => Some(sub),
            Err(Rejection::UnknownKey | Rejection::Invalid) => None,
        }
    }

    /// The registry's own answer.
    pub(crate) async fn content(&self, request: Request) -> Response {
        relay::relay(&self.client, &self.registry.url(), &self.host, request).await
    }

    /// The account whose registry token comes along, if it is valid.
    pub(crate) fn account(&self, headers: &HeaderMap) -> Option<String> {
        let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        let is_bearer = scheme.eq_ignore_ascii_case("bearer");
        self.owner(token).filter(|_| is_bearer)
    }

    /// Puts a chart below `path` there, as its owner does: Helm shows a registry token of its own.
    pub(crate) fn push(&self, helm: &Path, chart: &Chart<'_>, path: &str) -> Result<()> {
        let access = Access {
            kind: "repository",
            name: format!("{path}/{}", chart.name),
            actions: vec!["pull".into(), "push".into()],
        };
        let token = self
            .key
            .registry_token(&self.host, "publisher", &[access], LIFE)?;
        let url = self.registry.url();
        let address = url.trim_start_matches("http://");
        let login = json!({ "auths": { address: { "registrytoken": token } } });
        let folder = create(self.folder.join("charts"))?;
        fs::write(folder.join("registry.json"), login.to_string()).context("write a login")?;
        chart.push_in_the_open(helm, &folder, &url, path)
    }
}

/// The user and password of a request.
pub(crate) fn login(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    basic(encoded).filter(|_| scheme.eq_ignore_ascii_case("basic"))
}
