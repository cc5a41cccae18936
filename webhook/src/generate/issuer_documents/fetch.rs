//! A running control plane's address flows in, the documents that it serves
//! flow out, once they are seen to be this issuer's and public.

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};
use control_plane_core::settings::IssuerUrl;
use reqwest::{Certificate, Client, redirect::Policy};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::Documents;
use crate::issuer::documents::{DISCOVERY_PATH, KEYS_PATH};

const DEADLINE: Duration = Duration::from_secs(10);
/// Far more than two documents of a few keys have.
const LARGEST: usize = 1 << 20;
/// Members of a public key (RFC 7517 section 4, RFC 7518 section 6); every
/// other one may be private.
const PUBLIC: [&str; 10] = [
    "kty", "use", "key_ops", "alg", "kid", "n", "e", "crv", "x", "y",
];

/// Fetches both documents.
///
/// # Errors
/// When the control plane cannot be reached over verified TLS, or what it
/// serves is not this issuer's or not public.
pub(super) async fn documents(
    base: &Url,
    ca_file: Option<&Path>,
    issuer: &IssuerUrl,
) -> anyhow::Result<Documents> {
    let builder = Client::builder()
        .https_only(true)
        .redirect(Policy::none())
        .timeout(DEADLINE);
    let builder = match ca_file {
        Some(path) => {
            let what = || format!("--ca-file {}", path.display());
            let pem = std::fs::read(path).with_context(what)?;
            let roots = Certificate::from_pem_bundle(&pem).with_context(what)?;
            builder.tls_certs_merge(roots)
        }
        None => builder,
    };
    let client = builder.build().context("make a TLS client")?;
    let base = base.as_str().trim_end_matches('/');
    let documents = Documents {
        discovery: get(&client, &format!("{base}{DISCOVERY_PATH}")).await?,
        keys: get(&client, &format!("{base}{KEYS_PATH}")).await?,
    };
    check(&documents, issuer)?;
    Ok(documents)
}

async fn get(client: &Client, url: &str) -> anyhow::Result<Vec<u8>> {
    let answer = async {
        let mut response = client.get(url).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            ensure!(
                body.len() + chunk.len() <= LARGEST,
                "the answer is too long"
            );
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    };
    answer.await.with_context(|| format!("--fetch: GET {url}"))
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Map<String, Value>>,
}

fn check(documents: &Documents, issuer: &IssuerUrl) -> anyhow::Result<()> {
    let discovery: Discovery = serde_json::from_slice(&documents.discovery)
        .context("--fetch: what was served is no discovery document")?;
    ensure!(
        discovery.issuer == issuer.as_str(),
        "--fetch: the control plane is the issuer `{}`, and --issuer-url is `{issuer}`",
        discovery.issuer.escape_debug()
    );
    ensure!(
        discovery.jwks_uri == issuer.join(KEYS_PATH),
        "--fetch: the keys are at `{}`, which is not below the issuer",
        discovery.jwks_uri.escape_debug()
    );
    let set: KeySet = serde_json::from_slice(&documents.keys)
        .context("--fetch: what was served is no key set")?;
    ensure!(!set.keys.is_empty(), "--fetch: the key set is empty");
    for member in set.keys.iter().flat_map(Map::keys) {
        ensure!(
            PUBLIC.contains(&member.as_str()),
            "--fetch: a key has the member `{}`, which may be private",
            member.escape_debug()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(discovery: &str, keys: &str) -> Result<(), String> {
        let documents = Documents {
            discovery: discovery.into(),
            keys: keys.into(),
        };
        let issuer =
            control_plane_core::settings::one("issuer-url", "https://id.example.org").unwrap();
        check(&documents, &issuer).map_err(|error| error.to_string())
    }

    #[test]
    fn only_public_documents_of_this_issuer_are_taken() {
        let good =
            r#"{"issuer":"https://id.example.org","jwks_uri":"https://id.example.org/keys"}"#;
        let keys = r#"{"keys":[{"kty":"RSA","kid":"a","n":"AA","e":"AQAB"}]}"#;
        assert_eq!(checked(good, keys), Ok(()));
        for (discovery, keys, reason) in [
            (
                good.replace("id.example", "other.example"),
                keys,
                "is the issuer",
            ),
            (
                good.replace("/keys", "/others"),
                keys,
                "not below the issuer",
            ),
            ("<html>".to_owned(), keys, "no discovery document"),
            (good.to_owned(), r#"{"keys":[]}"#, "empty"),
            (
                good.to_owned(),
                r#"{"keys":[{"kty":"RSA","d":"AA"}]}"#,
                "member `d`",
            ),
            (good.to_owned(), "{}", "no key set"),
        ] {
            let error = checked(&discovery, keys).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
