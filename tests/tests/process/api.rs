//! The Kubernetes API as JSON on the wire: objects flow in as a user writes
//! them, what was stored flows out with the warnings. No typed client drops or
//! defaults a field in between.

use anyhow::{Context as _, Result, bail};
use harness::admission::{self, Answer};
use kube::Client;
use kube::core::Status;
use serde_json::{Value, json};

const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

/// A client of one API server.
#[derive(Clone)]
pub(crate) struct Rest {
    client: Client,
}

impl Rest {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates an object in the collection at `path`.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Answer<Value>> {
        admission::send(&self.client, "POST", path, JSON, object).await
    }

    /// Goes all the way that a creation goes, but for the storage.
    pub(crate) async fn try_create(&self, path: &str, object: &Value) -> Result<Answer<Value>> {
        self.create(&format!("{path}?dryRun=All"), object).await
    }

    /// Replaces the object at `path`.
    pub(crate) async fn replace(&self, path: &str, object: &Value) -> Result<Answer<Value>> {
        admission::send(&self.client, "PUT", path, JSON, object).await
    }

    /// Applies to the object at `path`, as `kubectl apply --server-side` does.
    pub(crate) async fn apply(&self, path: &str, object: &Value) -> Result<Answer<Value>> {
        let path = format!("{path}?fieldManager=trial&force=true");
        admission::send(&self.client, "PATCH", &path, APPLY, object).await
    }

    /// Merges into the object at `path`, as `kubectl apply` does.
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Result<Answer<Value>> {
        admission::send(&self.client, "PATCH", path, MERGE, patch).await
    }

    /// Deletes the object at `path`.
    pub(crate) async fn delete(&self, path: &str) -> Result<Answer<Value>> {
        let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions" });
        admission::send(&self.client, "DELETE", path, JSON, &options).await
    }

    /// Reads the object or the list at `path`.
    pub(crate) async fn read(&self, path: &str) -> Result<Value> {
        let request = http::Request::get(path)
            .body(Vec::new())
            .context("make the request")?;
        Ok(self.client.request(request).await?)
    }
}

/// What the API server said against a request.
pub(crate) fn refusal(outcome: Result<Answer<Value>>) -> Result<Status> {
    let error = match outcome {
        Ok(answer) => bail!("it was not refused: {}", answer.object),
        Err(error) => error,
    };
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => Ok((**status).clone()),
        _ => Err(error.context("it failed, but not by a refusal")),
    }
}

/// The catalogue codes that the warnings of this project begin with.
pub(crate) fn codes(warnings: &[String]) -> Vec<&str> {
    let code = |warning: &'_ String| {
        let (code, _) = warning.split_once(": ")?;
        Some(code.len()).filter(|_| shared::errors::Code::from_name(code).is_some())
    };
    warnings
        .iter()
        .filter_map(|warning| warning.get(..code(warning)?))
        .collect()
}
