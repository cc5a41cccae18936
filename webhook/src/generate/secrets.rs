//! Argo CD's Secrets for the commands: YAML or JSON text, or the cluster,
//! flows in, Secrets as the API has them flow out, each with its namespace.
//!
//! What is no Secret of Argo CD is left out. Values may be credentials: errors
//! name object and key only, and everything read is wiped.

use std::collections::BTreeMap;

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use control_plane_core::{
    derive::object_name,
    secret::{SECRET_TYPE, SecretKind},
    settings::{Namespace, is_dns_label, is_dns_subdomain},
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, api::ListParams};
use serde_json::Value;
use shared::errors::{Code, Named};
use zeroize::Zeroize;

use crate::wipe::wipe;

/// Hands every Secret of Argo CD in these namespaces to `take`.
///
/// # Errors
/// When the API server does not answer, or refuses.
pub async fn live(
    client: &Client,
    namespaces: &[Namespace],
    mut take: impl FnMut(&Secret),
) -> anyhow::Result<()> {
    let selector = format!("{SECRET_TYPE} in (repository,repo-creds,cluster)");
    for namespace in namespaces {
        let api = Api::<Secret>::namespaced(client.clone(), namespace.as_str());
        let list = api.list(&ListParams::default().labels(&selector)).await;
        let list = list.with_context(|| format!("list the Secrets of namespace {namespace}"))?;
        for mut secret in list.items {
            take(&secret);
            wipe(&mut secret);
        }
    }
    Ok(())
}

/// Hands every Secret of Argo CD in a text to `take`: documents of YAML, or
/// JSON, and the items of Lists. A Secret without a namespace is in `namespace`.
/// Returns what cannot be read; `source` names the text in that.
pub fn parse(
    source: &str,
    text: &str,
    namespace: &Namespace,
    mut take: impl FnMut(&Secret),
) -> Vec<Named> {
    let mut problems = Vec::new();
    let options = serde_saphyr::options! {
        // As Go's parser reads it: `y` is a name.
        strict_booleans: true,
        // The text is the user's own.
        budget: None,
        with_snippet: false,
    };
    let mut bytes = text.as_bytes();
    for document in serde_saphyr::read_with_options::<_, Value>(&mut bytes, options) {
        match document {
            Ok(document) => {
                let document = Wiped(document);
                each_secret(&document.0, &mut |object| match secret(object, namespace) {
                    Ok(mut secret) => {
                        take(&secret);
                        wipe(&mut secret);
                    }
                    Err(found) => problems.extend(found),
                });
            }
            Err(error) => {
                // The parser's words may quote a value.
                let line = error.location().map_or(0, |location| location.line());
                let detail = format!("{source}, line {line}: not YAML");
                problems.push(Named::new(Code::InvalidSecret, detail));
                break;
            }
        }
    }
    problems
}

/// A document whose values are overwritten when it is dropped.
struct Wiped(Value);

impl Drop for Wiped {
    fn drop(&mut self) {
        overwrite(&mut self.0);
    }
}

fn overwrite(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(overwrite),
        Value::Object(members) => members.values_mut().for_each(overwrite),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn each_secret(object: &Value, take: &mut impl FnMut(&Value)) {
    match object["kind"].as_str() {
        Some("Secret") => {
            let label = object["metadata"]["labels"][SECRET_TYPE].as_str();
            if label.and_then(SecretKind::from_label).is_some() {
                take(object);
            }
        }
        Some("List" | "SecretList") => {
            for item in object["items"].as_array().into_iter().flatten() {
                each_secret(item, take);
            }
        }
        _ => {}
    }
}

/// Reads one Secret by hand, because serde's errors quote values.
fn secret(object: &Value, namespace: &Namespace) -> Result<Secret, Vec<Named>> {
    let metadata = &object["metadata"];
    let text = |field: &str| metadata[field].as_str();
    let namespace = text("namespace").unwrap_or(namespace.as_str());
    let name = text("name").unwrap_or_default();
    // Both are shown in comments and become parts of names.
    let shown = object_name(
        &namespace.escape_debug().to_string(),
        &name.escape_debug().to_string(),
    );
    let mut problems = Vec::new();
    let mut problem = |field: &str, reason: &str| {
        let detail = format!("{shown}, {field}: {reason}");
        problems.push(Named::new(Code::InvalidSecret, detail));
    };
    if !is_dns_label(namespace) {
        problem("metadata.namespace", "not the name of a namespace");
    }
    if !is_dns_subdomain(name) {
        problem("metadata.name", "not the name of a Secret");
    }
    let mut data = BTreeMap::new();
    // As the API server does it: stringData wins.
    for (field, decode) in [
        ("data", decoded as fn(&str) -> _),
        ("stringData", |text| Some(text.as_bytes().to_vec())),
    ] {
        for (key, value) in object[field].as_object().into_iter().flatten() {
            match value.as_str().map(decode) {
                Some(Some(bytes)) => {
                    data.insert(key.clone(), ByteString(bytes));
                }
                Some(None) => problem(&format!("{field}.{}", key.escape_debug()), "not Base64"),
                None => problem(&format!("{field}.{}", key.escape_debug()), "not text"),
            }
        }
    }
    let mut secret = Secret {
        data: Some(data),
        ..Secret::default()
    };
    if !problems.is_empty() {
        wipe(&mut secret);
        return Err(problems);
    }
    secret.metadata.namespace = Some(namespace.to_owned());
    secret.metadata.name = Some(name.to_owned());
    let label = metadata["labels"][SECRET_TYPE].as_str();
    let label = (SECRET_TYPE.to_owned(), label.unwrap_or_default().to_owned());
    secret.metadata.labels = Some(BTreeMap::from([label]));
    Ok(secret)
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    // Go's decoder, and so the API server, passes over line ends.
    let lines: Vec<&str> = text.split(['\n', '\r']).collect();
    STANDARD.decode(lines.concat()).ok()
}

#[cfg(test)]
mod tests;
