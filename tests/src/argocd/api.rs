//! A small client of Argo CD's own HTTP API, for what its users do in the UI.

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};

/// A session as `admin`.
pub struct ArgoCdApi {
    http: Client,
    url: String,
    token: String,
}

impl ArgoCdApi {
    pub(super) async fn login(http: Client, url: String, password: &str) -> Result<Self> {
        let mut api = Self {
            http,
            url,
            token: String::new(),
        };
        let login = json!({ "username": "admin", "password": password });
        let session = api
            .call(Method::POST, &["session"], &[], Some(login))
            .await?;
        api.token = session
            .get("token")
            .and_then(Value::as_str)
            .context("Argo CD's login has no token in its answer")?
            .to_owned();
        Ok(api)
    }

    /// One request below /api/v1: `path` is a list of segments, which may hold any character.
    ///
    /// # Errors
    /// With Argo CD's own words when it refuses.
    pub async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<Value>,
    ) -> Result<Value> {
        let path: Vec<String> = path.iter().map(|segment| encoded(segment)).collect();
        let what = format!("{method} /api/v1/{}", path.join("/"));
        let url = format!("{}/api/v1/{}", self.url, path.join("/"));
        let mut request = self
            .http
            .request(method, url)
            .query(query)
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request
            .send()
            .await
            .with_context(|| format!("{what} did not reach Argo CD"))?;
        let status = answer.status();
        let text = answer
            .text()
            .await
            .with_context(|| format!("{what} was cut off"))?;
        ensure!(
            status.is_success(),
            "Argo CD answers {status} to {what}: {text}"
        );
        serde_json::from_str(&text).with_context(|| format!("{what} was not answered in JSON"))
    }

    /// The cluster of that server URL, secrets redacted.
    ///
    /// # Errors
    /// When Argo CD knows no such cluster.
    pub async fn cluster(&self, server: &str) -> Result<Value> {
        self.call(Method::GET, &["clusters", server], &[], None)
            .await
    }

    /// Replaces the fields of a cluster that `fields` names (Argo CD's `updatedFields`), as its UI does.
    ///
    /// # Errors
    /// When Argo CD refuses.
    pub async fn update_cluster(
        &self,
        server: &str,
        fields: &[&str],
        cluster: Value,
    ) -> Result<Value> {
        let query: Vec<(&str, &str)> = fields
            .iter()
            .map(|field| ("updatedFields", *field))
            .collect();
        self.call(Method::PUT, &["clusters", server], &query, Some(cluster))
            .await
    }

    /// "Invalidate cache" of a cluster, which rewrites its Secret.
    ///
    /// # Errors
    /// When Argo CD refuses.
    pub async fn invalidate_cluster_cache(&self, server: &str) -> Result<Value> {
        self.call(
            Method::POST,
            &["clusters", server, "invalidate-cache"],
            &[],
            // Argo CD takes no POST without a JSON body, though it reads nothing of this one.
            Some(json!({})),
        )
        .await
    }

    /// Replaces a repository's settings.
    ///
    /// # Errors
    /// When Argo CD refuses.
    pub async fn update_repository(&self, repository: Value) -> Result<Value> {
        let url = repository
            .get("repo")
            .and_then(Value::as_str)
            .context("a repository needs `repo`, its URL")?
            .to_owned();
        self.call(Method::PUT, &["repositories", &url], &[], Some(repository))
            .await
    }

    /// Connects a repository.
    ///
    /// # Errors
    /// When Argo CD refuses.
    pub async fn create_repository(&self, repository: Value) -> Result<Value> {
        self.call(Method::POST, &["repositories"], &[], Some(repository))
            .await
    }

    /// All repositories, as shown to a user.
    ///
    /// # Errors
    /// When Argo CD refuses.
    pub async fn repositories(&self) -> Result<Value> {
        self.call(Method::GET, &["repositories"], &[], None).await
    }
}

/// A path segment as the UI writes it. A colon, too: Argo CD's gateway takes what follows one for a verb.
fn encoded(segment: &str) -> String {
    let mut encoded = String::new();
    for byte in segment.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_one_segment() {
        assert_eq!(
            encoded("https://a.test:1/x"),
            "https%3A%2F%2Fa.test%3A1%2Fx"
        );
    }
}
