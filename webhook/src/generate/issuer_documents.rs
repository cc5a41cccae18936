//! `generate issuer-documents`: the issuer's keys flow in, its two public
//! documents flow out as files, for a static host at the issuer URL.
//!
//! The documents are those of [`documents`], byte for byte: verifiers see no
//! difference between the control plane and the static host.

mod fetch;
mod files;

use std::{io::Write, path::PathBuf};

use anyhow::Context;
use clap::Args;
use control_plane_core::settings::{IssuerUrl, Namespace, one};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serde::Serialize;
use url::Url;
use zeroize::Zeroizing;

use super::Outcome;
use crate::{
    issuer::{
        documents::{self, DISCOVERY_PATH, KEYS_PATH},
        keys::{PUBLISHED, PublicJwk, SECRET, SECRET_KEY},
    },
    kube::client::client,
    wipe::wipe,
};

/// Settings as they are typed.
#[derive(Debug, Clone, Args)]
pub struct DocumentsArgs {
    /// Issuer of the tokens, as the control plane has it.
    #[arg(long, env = "ARGOCD_IDENTITY_ISSUER_URL")]
    pub issuer_url: String,

    /// Folder that the static host shows at the issuer URL.
    #[arg(long)]
    pub output: PathBuf,

    /// Take the key from this PEM file and not from the cluster; may be
    /// repeated, the signing key first.
    #[arg(long, conflicts_with = "fetch")]
    pub key_file: Vec<PathBuf>,

    /// Take the documents from this running control plane, an https URL.
    #[arg(long)]
    pub fetch: Option<Url>,

    /// CA of that control plane, besides the system's, in PEM.
    #[arg(long, requires = "fetch")]
    pub ca_file: Option<PathBuf>,

    /// Namespace of the installation, where the issuer's Secret is.
    #[arg(
        long,
        env = "ARGOCD_IDENTITY_NAMESPACE",
        default_value = "argocd-identity"
    )]
    pub installation_namespace: String,

    /// Write nothing; exit with 1 if the files differ.
    #[arg(long)]
    pub check: bool,
}

/// Both documents, as they are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    discovery: Vec<u8>,
    keys: Vec<u8>,
}

impl Documents {
    /// The documents of an issuer with these keys.
    ///
    /// # Errors
    /// When they cannot be written as JSON.
    pub fn new(issuer: &IssuerUrl, keys: Vec<PublicJwk>) -> anyhow::Result<Self> {
        let mut distinct = Vec::new();
        for key in keys {
            if !distinct.contains(&key) {
                distinct.push(key);
            }
        }
        Ok(Self {
            discovery: json(&documents::discovery(issuer).with_keys(&distinct))?,
            keys: json(&documents::key_set(distinct))?,
        })
    }

    /// Each with its path below the issuer, the keys first: a verifier that
    /// comes in between finds no discovery document without them.
    fn files(&self) -> [(&'static str, &[u8]); 2] {
        [(KEYS_PATH, &self.keys), (DISCOVERY_PATH, &self.discovery)]
    }
}

fn json(document: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    serde_json::to_vec(document).context("write JSON")
}

/// Runs the command.
///
/// # Errors
/// When a setting cannot be used, there is no key, or a file cannot be written.
pub async fn run(
    args: DocumentsArgs,
    out: &mut impl Write,
    err: &mut impl Write,
) -> anyhow::Result<Outcome> {
    let issuer: IssuerUrl = one("issuer-url", &args.issuer_url)?;
    let documents = match &args.fetch {
        Some(url) => fetch::documents(url, args.ca_file.as_deref(), &issuer).await?,
        None if args.key_file.is_empty() => {
            let namespace = one("installation-namespace", &args.installation_namespace)?;
            Documents::new(&issuer, of_cluster(client().await?, &namespace).await?)?
        }
        None => Documents::new(&issuer, of_files(&args.key_file)?)?,
    };
    let mut differing = false;
    for (path, content) in documents.files() {
        let file = args.output.join(path.trim_start_matches('/'));
        let shown = file.display();
        match (files::read(&file)?.as_deref() == Some(content), args.check) {
            (true, _) => writeln!(out, "{shown}: unchanged")?,
            (false, false) => {
                files::write(&file, content)?;
                writeln!(out, "{shown}: written")?;
            }
            (false, true) => {
                differing = true;
                writeln!(err, "{shown}: is not what the issuer has now")?;
            }
        }
    }
    Ok(Outcome::flawed_if(differing))
}

fn of_files(paths: &[PathBuf]) -> anyhow::Result<Vec<PublicJwk>> {
    let of_file = |path: &PathBuf| {
        let pem = std::fs::read(path).map(Zeroizing::new)?;
        anyhow::Ok(PublicJwk::from_pem(&pem)?)
    };
    paths
        .iter()
        .map(|path| of_file(path).with_context(|| format!("--key-file {}", path.display())))
        .collect()
}

async fn of_cluster(client: Client, namespace: &Namespace) -> anyhow::Result<Vec<PublicJwk>> {
    let object = format!("Secret {namespace}/{SECRET}");
    let api = Api::<Secret>::namespaced(client, namespace.as_str());
    let mut secret = api.get(SECRET).await.with_context(|| object.clone())?;
    let keys = public_halves(&secret);
    wipe(&mut secret);
    keys.context(object)
}

/// Public halves of the signing key, and then of every key that the Secret
/// keeps besides.
fn public_halves(secret: &Secret) -> anyhow::Result<Vec<PublicJwk>> {
    let data = secret.data.as_ref();
    let signing = data.and_then(|data| data.get_key_value(SECRET_KEY));
    let signing = signing.with_context(|| format!("it has no key {SECRET_KEY}"))?;
    let others = data.into_iter().flatten();
    let others = others.filter(|(name, _)| name.ends_with(PUBLISHED));
    std::iter::once(signing)
        .chain(others)
        .map(|(name, pem)| PublicJwk::from_pem(&pem.0).with_context(|| format!("key {name}")))
        .collect()
}

#[cfg(test)]
mod tests;
