//! Secrets as lists of keys and values: written by a trial, read from the API.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use control_plane_core::secret::SECRET_TYPE;
use serde_json::{Value, json};

use crate::scene::Scene;

/// Keys and values.
pub(super) type Values = BTreeMap<String, String>;

/// The keys and values of a list.
pub(super) fn values(pairs: &[(&str, &str)]) -> Values {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// The values with other ones in place of some; an empty one is left out.
pub(super) fn with(mut values: Values, pairs: &[(&str, &str)]) -> Values {
    for (key, value) in pairs {
        if value.is_empty() {
            values.remove(*key);
        } else {
            values.insert((*key).to_owned(), (*value).to_owned());
        }
    }
    values
}

/// A Helm repository in the scene's registry, as in the Quay guide without its
/// project.
pub(super) fn repository(scene: &Scene) -> Values {
    let host = scene.around.targets.quay.host();
    values(&[
        ("type", "helm"),
        ("url", &format!("oci://{host}/prod/charts")),
        ("useWorkloadIdentity", "true"),
        ("workloadIdentityProvider", "spiffe"),
        ("workloadIdentityAudience", "quay.example.test"),
        (
            "workloadIdentityRegistryAuthURL",
            &scene.around.targets.quay.federation_url(),
        ),
        ("workloadIdentityRegistryService", host),
        ("workloadIdentityRegistryUsername", "prod+argocd"),
    ])
}

/// The scene's remote cluster.
pub(super) fn cluster(scene: &Scene) -> Values {
    values(&[
        ("name", "spoke"),
        ("server", &scene.remote.url()),
        ("config", r#"{"tlsClientConfig":{"caData":"Y2E="}}"#),
        ("useWorkloadIdentity", "true"),
        ("workloadIdentityAudience", "spoke"),
    ])
}

/// A Secret with the values as `stringData`.
pub(super) fn secret(name: &str, secret_type: &str, values: &Values) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name, "labels": { SECRET_TYPE: secret_type } },
        "stringData": values,
    })
}

/// The Secret with its `stringData` as `data`.
pub(super) fn encoded(mut secret: Value) -> Value {
    let values = secret["stringData"].take();
    let data: serde_json::Map<_, _> = values
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), json!(STANDARD.encode(value.as_str()?)))))
        .collect();
    secret["data"] = Value::Object(data);
    if let Some(secret) = secret.as_object_mut() {
        secret.remove("stringData");
    }
    secret
}

/// The values of a stored Secret.
pub(super) fn stored(secret: &Value) -> Result<Values> {
    let data = secret["data"].as_object().into_iter().flatten();
    data.map(|(key, value)| {
        let text = value.as_str().context("a value is no text")?;
        let bytes = STANDARD.decode(text).context("a value is not base64")?;
        let text = String::from_utf8(bytes).context("a value is not UTF-8")?;
        Ok((key.clone(), text))
    })
    .collect()
}

/// Values and warnings for a snapshot, without this run's ports and keys.
pub(super) fn shown(scene: &Scene, stored: &Values, warnings: &[String]) -> Value {
    let (quay, remote) = (scene.around.targets.quay.host(), scene.remote.port());
    let remote = format!("127.0.0.1:{remote}");
    let stable = |text: &str| {
        text.replace(quay, "quay.example.test:[port]")
            .replace(&remote, "127.0.0.1:[port]")
    };
    let data: BTreeMap<_, _> = stored
        .iter()
        .map(|(key, value)| match key.as_str() {
            "proxy" => (key, without_key(value)),
            _ => (key, stable(value)),
        })
        .collect();
    let warnings: Vec<_> = warnings.iter().map(|warning| stable(warning)).collect();
    json!({ "data": data, "warnings": warnings })
}

/// A proxy without its password.
fn without_key(proxy: &str) -> String {
    let Some((user, host)) = proxy.rsplit_once('@') else {
        return proxy.to_owned();
    };
    match user.rsplit_once(':') {
        Some((user, key)) => format!("{user}:[{} characters]@{host}", key.len()),
        None => proxy.to_owned(),
    }
}
