//! Creates a Secret and tells what it became.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use harness::admission;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;

/// Creates the Secret and returns a line for each value that the API server
/// stored otherwise, and for each warning.
pub(crate) async fn create(client: &Client, text: &str) -> Result<Vec<String>> {
    let wanted: Secret = serde_json::from_str(text).context("read the Secret")?;
    let before: BTreeMap<String, String> = wanted.string_data.clone().unwrap_or_default();
    let answer = admission::create(client, &wanted).await?;
    let mut lines = Vec::new();
    for (key, value) in answer.object.data.into_iter().flatten() {
        let after = String::from_utf8(value.0).context("a value is not text")?;
        match before.get(&key) {
            Some(before) if *before == after => {}
            Some(before) if key == "config" => {
                lines.push(format!("config: {}", added(before, &after)))
            }
            Some(before) => lines.push(format!("{key}: {before} -> {after}")),
            None if key == "proxy" => lines.push(format!("{key}: {} (added)", without_key(&after))),
            None => lines.push(format!("{key}: {after} (added)")),
        }
    }
    lines.extend(
        answer
            .warnings
            .into_iter()
            .map(|warning| format!("warning: {warning}")),
    );
    Ok(lines)
}

/// The proxy's URL with its key left out.
fn without_key(proxy: &str) -> String {
    let Some((user, host)) = proxy.split_once('@') else {
        return proxy.to_owned();
    };
    let name = user.rsplit_once(':').map_or(user, |(name, _key)| name);
    format!("{name}:…@{host}")
}

/// The part of `after` that `before` lacks; the CA's base64 tells nobody anything.
fn added(before: &str, after: &str) -> String {
    let kept = before.trim_end().trim_end_matches('}');
    match after.strip_prefix(kept) {
        Some(rest) => format!("… {}", rest.trim_start_matches('}').trim_start_matches(',')),
        None => after.to_owned(),
    }
}
