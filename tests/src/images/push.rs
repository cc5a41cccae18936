//! A built image in; the same image in a registry out (OCI distribution specification 1.1, "Push").

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest;
use futures::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Body, Client, Response, StatusCode, Url};
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use super::Reference;

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
/// Bytes of a layer that are in memory at a time.
const PIECE: usize = 1024 * 1024;

/// An image whose digests are known, and whose layer is a file.
#[derive(Debug)]
pub struct Built {
    pub(super) reference: Reference,
    pub(super) layer: Blob,
    pub(super) config: Blob,
    pub(super) manifest: Blob,
}

#[derive(Debug)]
pub(super) struct Blob {
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) source: Source,
}

#[derive(Debug)]
pub(super) enum Source {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Built {
    /// What pods call it.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The manifest's digest, as `sha256:<hex>`: what a pod's `imageID` ends in.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// Uploads it under its reference's name and tag, without what is there already. `registry` is the
    /// URL of a registry that lets anybody write, without a path.
    ///
    /// # Errors
    /// When the registry does not answer or refuses; the error names the step.
    pub async fn push(&self, registry: &str) -> Result<()> {
        let Reference { name, tag, .. } = &self.reference;
        let repository = Repository {
            client: Client::builder()
                .no_proxy()
                .build()
                .context("make an HTTP client")?,
            url: format!("{registry}/v2/{name}"),
        };
        let what = || format!("push {}", self.reference);
        for blob in [&self.layer, &self.config] {
            repository.upload(blob).await.with_context(what)?;
        }
        repository.tag(&self.manifest, tag).await.with_context(what)
    }
}

struct Repository {
    client: Client,
    url: String,
}

impl Repository {
    async fn upload(&self, blob: &Blob) -> Result<()> {
        let known = self
            .client
            .head(format!("{}/blobs/{}", self.url, blob.digest));
        if known.send().await.context("ask for a blob")?.status() == StatusCode::OK {
            return Ok(());
        }
        let begin = Url::parse(&format!("{}/blobs/uploads/", self.url)).context("registry URL")?;
        let answer = self
            .client
            .post(begin.clone())
            .header(CONTENT_LENGTH, 0)
            .send()
            .await
            .context("begin an upload")?;
        let answer = expect(answer, StatusCode::ACCEPTED)
            .await
            .context("begin an upload")?;
        let location = answer
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok())
            .context("the registry names no place for an upload")?;
        let mut place = begin
            .join(location)
            .with_context(|| format!("upload location {location}"))?;
        place.query_pairs_mut().append_pair("digest", &blob.digest);
        let answer = self
            .client
            .put(place)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, blob.size)
            .body(blob.body().await?)
            .send()
            .await
            .context("upload a blob")?;
        expect(answer, StatusCode::CREATED)
            .await
            .context("upload a blob")?;
        Ok(())
    }

    async fn tag(&self, manifest: &Blob, tag: &str) -> Result<()> {
        let answer = self
            .client
            .put(format!("{}/manifests/{tag}", self.url))
            .header(CONTENT_TYPE, MANIFEST_TYPE)
            .body(manifest.body().await?)
            .send()
            .await
            .context("upload the manifest")?;
        expect(answer, StatusCode::CREATED)
            .await
            .context("upload the manifest")?;
        Ok(())
    }
}

impl Blob {
    pub(super) fn from_json(value: &Value) -> Result<Self> {
        let bytes = serde_json::to_vec(value).context("write JSON")?;
        Ok(Self {
            digest: name(digest::digest(&digest::SHA256, &bytes)),
            size: bytes.len() as u64,
            source: Source::Bytes(bytes),
        })
    }

    pub(super) fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.size })
    }

    async fn body(&self) -> Result<Body> {
        let path = match &self.source {
            Source::Bytes(bytes) => return Ok(bytes.clone().into()),
            Source::File(path) => path,
        };
        let mut file = File::open(path)
            .await
            .with_context(|| format!("open {}", path.display()))?;
        file.set_max_buf_size(PIECE);
        let pieces = stream::try_unfold(file, |mut file| async {
            let mut piece = Vec::with_capacity(PIECE);
            let length = file.read_buf(&mut piece).await?;
            Ok::<_, std::io::Error>((length > 0).then_some((piece, file)))
        });
        Ok(Body::wrap_stream(pieces))
    }
}

/// `sha256:<hex>`.
pub(super) fn name(digest: digest::Digest) -> String {
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", hex.collect::<String>())
}

async fn expect(answer: Response, status: StatusCode) -> Result<Response> {
    if answer.status() == status {
        return Ok(answer);
    }
    let got = answer.status();
    let text = answer.text().await.unwrap_or_default();
    bail!("the registry answers {got}: {text}")
}
