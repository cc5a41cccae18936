//! Writes objects and keeps the admission warnings, which typed clients drop.

use anyhow::{Context as _, Result};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

const JSON: &str = "application/json";

/// An object as it was stored, and what the API server warned about.
#[derive(Debug)]
pub struct Answer<K> {
    /// The stored object.
    pub object: K,
    /// Texts of the `Warning` headers.
    pub warnings: Vec<String>,
}

/// Creates `object` in its own namespace.
///
/// # Errors
/// With the API server's refusal.
pub async fn create<K>(client: &Client, object: &K) -> Result<Answer<K>>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
{
    let url = K::url_path(&(), object.namespace().as_deref());
    send(client, "POST", &url, JSON, object).await
}

/// Replaces `object`, which has to carry its resource version or none.
///
/// # Errors
/// With the API server's refusal.
pub async fn replace<K>(client: &Client, object: &K) -> Result<Answer<K>>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
{
    let url = K::url_path(&(), object.namespace().as_deref());
    send(
        client,
        "PUT",
        &format!("{url}/{}", object.name_any()),
        JSON,
        object,
    )
    .await
}

/// Sends `body`, an object or a patch, and returns the object that was made of
/// it. `url` is the API server's path, with a query if there is one.
///
/// # Errors
/// With the API server's refusal, a [`kube::Error::Api`].
pub async fn send<B, K>(
    client: &Client,
    method: &str,
    url: &str,
    content_type: &str,
    body: &B,
) -> Result<Answer<K>>
where
    B: Serialize,
    K: DeserializeOwned,
{
    let body = serde_json::to_vec(body).context("write the object")?;
    let request = http::Request::builder()
        .method(method)
        .uri(url)
        .header("content-type", content_type)
        .body(body.into())
        .context("make the request")?;
    let response = client
        .send(request)
        .await
        .with_context(|| format!("{method} {url}"))?;
    let warnings = response.headers().get_all("warning");
    let warnings = warnings
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(text)
        .collect();
    let status = response.status();
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await?
        .to_bytes();
    if !status.is_success() {
        let refusal: kube::core::Status =
            serde_json::from_slice(&body).with_context(|| format!("{method} {url}: {status}"))?;
        return Err(anyhow::Error::new(kube::Error::Api(Box::new(refusal))));
    }
    let object = serde_json::from_slice(&body).context("read the stored object")?;
    Ok(Answer { object, warnings })
}

/// `299 - "text"`, RFC 7234 §5.5: the quoted text without its escapes.
fn text(header: &str) -> String {
    let quoted = header.split_once('"').map_or(header, |(_, rest)| rest);
    let quoted = quoted.strip_suffix('"').unwrap_or(quoted);
    quoted.replace("\\\"", "\"").replace("\\\\", "\\")
}
