//! Stock Argo CD's own doings: what its API writes into our Secrets, what its
//! components find after a restart, and what it says when it may not pull.

mod clusters;
mod pulls;
mod repositories;
mod restarts;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::case::Case;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    [
        clusters::cases(),
        repositories::cases(),
        pulls::cases(),
        restarts::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The server that Argo CD itself runs in.
const IN_CLUSTER: &str = "https://kubernetes.default.svc";

/// Keys and values of a stored Secret.
fn data(secret: &Value) -> Result<Map<String, Value>> {
    let data = secret["data"]
        .as_object()
        .context("a Secret without data")?;
    let decode = |(key, value): (&String, &Value)| {
        let bytes = STANDARD.decode(value.as_str().unwrap_or_default())?;
        anyhow::Ok((key.clone(), String::from_utf8(bytes)?.into()))
    };
    data.iter().map(decode).collect()
}

/// Makes sure that everything of `before` is in `after`; tells what is there besides.
fn kept(before: &Map<String, Value>, after: &Map<String, Value>) -> Result<Vec<String>> {
    for (key, value) in before {
        ensure!(
            after.get(key) == Some(value),
            "{key} was {value} and is {:?}",
            after.get(key)
        );
    }
    let new = after.keys().filter(|key| !before.contains_key(*key));
    Ok(new.cloned().collect())
}
