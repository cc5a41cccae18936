//! The real registry behind a cloud's token realm.
//!
//! Flows in: who a client of the realm is and what it may pull. Flows out: registry tokens, and the registry's content.
//! The registry verifies each token itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::extract::Request;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use reqwest::header::{CONTENT_TYPE, LOCATION};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::quay::basic;
use crate::quay::robots::{covers, parse_scopes};
use crate::quay::tokens::{Access, ISSUER, Rejection, RobotClaims, SigningKey};
use crate::registry::{Registry, TokenAuth};
use crate::relay;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// How long registry tokens live.
pub(crate) const LIFE: Duration = Duration::from_secs(300);

pub(crate) struct Front {
    host: String,
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
        Ok(Self {
            host: host.to_owned(),
            registry: Registry::start(binary, &folder.join(host), &auth).await?,
            key,
            client: reqwest::Client::builder().no_proxy().build()?,
        })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// A registry token with those of the scopes that `pull` covers; the others are left out.
    pub(crate) fn token<'a>(
        &self,
        subject: &str,
        pull: &[String],
        scopes: impl IntoIterator<Item = &'a str>,
    ) -> Result<String> {
        let access: Vec<_> = parse_scopes(scopes)
            .into_iter()
            .filter(|access| covers(pull, &access.name))
            .map(|access| Access {
                actions: vec!["pull".into()],
                ..access
            })
            .collect();
        self.key.registry_token(&self.host, subject, &access, LIFE)
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

    /// Puts an image without layers there, as its owner does.
    pub(crate) async fn publish(&self, repository: &str, tag: &str) -> Result<()> {
        let access = Access {
            kind: "repository",
            name: repository.to_owned(),
            actions: vec!["pull".into(), "push".into()],
        };
        let token = self
            .key
            .registry_token(&self.host, "publisher", &[access], LIFE)?;
        let config = b"{}";
        let digest = format!("sha256:{}", hex(&Sha256::digest(config)));
        let url = format!("{}/v2/{repository}", self.registry.url());

        let upload = self.client.post(format!("{url}/blobs/uploads/"));
        let upload = upload.bearer_auth(&token).send().await?;
        ensure!(upload.status() == StatusCode::ACCEPTED, "begin an upload");
        let place = upload.headers().get(LOCATION).context("no upload URL")?;
        let upload = self
            .client
            .put(format!("{}&digest={digest}", place.to_str()?))
            .bearer_auth(&token)
            .body(config.as_slice());
        ensure!(
            upload.send().await?.status() == StatusCode::CREATED,
            "upload"
        );

        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest,
                "size": config.len(),
            },
            "layers": [],
        });
        let put = self
            .client
            .put(format!("{url}/manifests/{tag}"))
            .bearer_auth(&token)
            .header(CONTENT_TYPE, MANIFEST)
            .body(manifest.to_string());
        ensure!(put.send().await?.status() == StatusCode::CREATED, "tag");
        Ok(())
    }
}

/// The user and password of a request.
pub(crate) fn login(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    basic(encoded).filter(|_| scheme.eq_ignore_ascii_case("basic"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
