//! A container's environment and command line, as kubelet would compute them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};
use kube::ResourceExt;

use super::Options;
use super::objects::{Data, Kind, Objects};

pub(super) type Environment = BTreeMap<String, String>;

/// What kubelet and the container runtime add to every container. Of the services, only the API server's:
/// no other has an address here.
pub(super) fn of_kubelet(options: &Options<'_>) -> Environment {
    let port = options.api_server_port.to_string();
    [
        ("KUBERNETES_SERVICE_HOST", "127.0.0.1".to_owned()),
        ("KUBERNETES_SERVICE_PORT", port.clone()),
        ("KUBERNETES_SERVICE_PORT_HTTPS", port),
        ("HOSTNAME", options.pod.name_any()),
        ("HOME", options.image.home.display().to_string()),
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The whole environment: `base`, then envFrom, then env, each over the one before.
pub(super) async fn resolve(
    pod: &Pod,
    container: &Container,
    base: Environment,
    objects: &mut Objects,
) -> Result<Environment> {
    let mut resolved = base;
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let data = if let Some(map) = &from.config_map_ref {
            objects
                .data(Kind::ConfigMap, &map.name, map.optional == Some(true))
                .await?
        } else if let Some(secret) = &from.secret_ref {
            objects
                .data(Kind::Secret, &secret.name, secret.optional == Some(true))
                .await?
        } else {
            None
        };
        for (key, value) in data.into_iter().flatten() {
            resolved.insert(format!("{prefix}{key}"), text(key, value)?);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => referenced(pod, source, objects)
                .await
                .with_context(|| format!("resolve variable {}", variable.name))?,
            (value, None) => Some(expand(value.as_deref().unwrap_or_default(), &resolved)),
        };
        if let Some(value) = value {
            resolved.insert(variable.name.clone(), value);
        }
    }
    Ok(resolved)
}

/// The container's command and arguments. An image's own entrypoint is not known here, so a container
/// that has neither cannot be run; Argo CD's image has one (tini) that only passes its arguments on.
pub(super) fn command_line(
    container: &Container,
    environment: &Environment,
) -> Result<Vec<String>> {
    let words: Vec<String> = container
        .command
        .iter()
        .chain(&container.args)
        .flatten()
        .map(|word| expand(word, environment))
        .collect();
    if words.is_empty() {
        bail!("it has neither command nor args");
    }
    Ok(words)
}

/// The value behind `valueFrom`; `None` for an optional reference to what is not there.
async fn referenced(
    pod: &Pod,
    source: &EnvVarSource,
    objects: &mut Objects,
) -> Result<Option<String>> {
    let (kind, name, key, optional) = if let Some(reference) = &source.config_map_key_ref {
        (
            Kind::ConfigMap,
            &reference.name,
            &reference.key,
            reference.optional,
        )
    } else if let Some(reference) = &source.secret_key_ref {
        (
            Kind::Secret,
            &reference.name,
            &reference.key,
            reference.optional,
        )
    } else if let Some(reference) = &source.field_ref {
        return field(pod, &reference.field_path).map(Some);
    } else {
        bail!("this kind of valueFrom is not supported here");
    };
    let optional = optional == Some(true);
    match objects
        .data(kind, name, optional)
        .await?
        .and_then(|data: &Data| data.get(key))
    {
        Some(value) => text(key, value).map(Some),
        None if optional => Ok(None),
        None => bail!("{kind:?} {name} has no key {key}"),
    }
}

/// A pod's field by the downward API's path.
pub(super) fn field(pod: &Pod, path: &str) -> Result<String> {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let key = |prefix: &str| {
        path.strip_prefix(prefix)?
            .strip_prefix("['")?
            .strip_suffix("']")
    };
    if let Some(key) = key("metadata.labels") {
        return Ok(pod.labels().get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = key("metadata.annotations") {
        return Ok(pod.annotations().get(key).cloned().unwrap_or_default());
    }
    let value = match path {
        "metadata.name" => Some(pod.name_any()),
        "metadata.namespace" => pod.namespace(),
        "metadata.uid" => pod.uid(),
        "metadata.labels" => Some(listed(pod.labels())),
        "metadata.annotations" => Some(listed(pod.annotations())),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.podIP" => status.and_then(|status| status.pod_ip.clone()),
        "status.hostIP" => status.and_then(|status| status.host_ip.clone()),
        _ => bail!("the field {path} is not supported here"),
    };
    value.with_context(|| format!("the pod has no {path}"))
}

/// As the downward API writes a map: one `key="value"` a line.
fn listed(map: &BTreeMap<String, String>) -> String {
    map.iter()
        .map(|(key, value)| format!("{key}={value:?}\n"))
        .collect()
}

/// Replaces `$(NAME)` by the variable's value; `$$` is a dollar sign; unknown names stay as they are.
fn expand(text: &str, environment: &Environment) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match environment.get(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded + rest
}

fn text(key: &str, value: &[u8]) -> Result<String> {
    String::from_utf8(value.to_vec())
        .ok()
        .with_context(|| format!("the value of {key} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_as_kubernetes_documents() {
        let environment = Environment::from([("A".to_owned(), "1".to_owned())]);
        for (text, expected) in [
            ("x-$(A)-$(B)", "x-1-$(B)"),
            ("$$(A)", "$(A)"),
            ("cost: $5", "cost: $5"),
            ("$(A", "$(A"),
            ("$", "$"),
        ] {
            assert_eq!(expand(text, &environment), expected, "{text}");
        }
    }

    #[test]
    fn fields_of_the_downward_api() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "p", "namespace": "n", "labels": { "app.kubernetes.io/name": "x" } },
            "spec": { "containers": [], "nodeName": "node-1" },
        }))
        .unwrap();
        assert_eq!(
            field(&pod, "metadata.labels['app.kubernetes.io/name']").unwrap(),
            "x"
        );
        assert_eq!(field(&pod, "spec.nodeName").unwrap(), "node-1");
        assert!(field(&pod, "status.podIP").is_err());
        assert!(field(&pod, "limits.cpu").is_err());
    }
}
