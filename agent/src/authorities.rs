//! Watches the roots that users gave Argo CD for single hosts: the ConfigMaps
//! `argocd-tls-certs-cm` of all namespaces flow in, PEM texts by namespace and
//! host name flow out. Exchanges of a namespace's bindings trust them, as Argo
//! CD does (Argo CD, "Repositories using self-signed TLS certificates").

use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

use crate::exchange::http::Authorities;

/// The ConfigMap's name. The agent's role has it, and nothing else.
const NAME: &str = "argocd-tls-certs-cm";
/// A text that is longer is no host's roots.
const LONGEST: usize = 256 << 10;

/// Watches until the receivers are gone.
pub async fn watch(client: Client, maps: watch::Sender<Arc<Authorities>>) {
    let api: Api<ConfigMap> = Api::all(client);
    let named = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let mut events = pin!(watcher(api, named).default_backoff());
    let mut current = Authorities::new();
    let mut listing = Authorities::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listing = Authorities::new(),
            Ok(watcher::Event::InitApply(object)) => apply(&mut listing, &object),
            Ok(watcher::Event::InitDone) => current = std::mem::take(&mut listing),
            Ok(watcher::Event::Apply(object)) => apply(&mut current, &object),
            Ok(watcher::Event::Delete(object)) => remove(&mut current, &object),
            Err(error) => {
                tracing::warn!(%error, "watch of {NAME}; it is tried again");
                continue;
            }
        }
        maps.send_if_modified(|map| {
            let changed = **map != current;
            if changed {
                *map = Arc::new(current.clone());
            }
            changed
        });
        if maps.is_closed() {
            return;
        }
    }
}

fn apply(authorities: &mut Authorities, object: &ConfigMap) {
    remove(authorities, object);
    let namespace = object.namespace().unwrap_or_default();
    for (host, pem) in object.data.iter().flatten() {
        if pem.len() > LONGEST {
            tracing::warn!(namespace, host, "{NAME}: this entry is too long");
            continue;
        }
        let place = (namespace.clone(), host.to_ascii_lowercase());
        authorities.insert(place, pem.as_str().into());
    }
}

fn remove(authorities: &mut Authorities, object: &ConfigMap) {
    let namespace = object.namespace().unwrap_or_default();
    authorities.retain(|(of, _), _| *of != namespace);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config_map(namespace: &str, data: Value) -> ConfigMap {
        let metadata = json!({"namespace": namespace, "name": NAME});
        serde_json::from_value(json!({"metadata": metadata, "data": data})).unwrap()
    }

    fn shown(authorities: &Authorities) -> Vec<(&str, &str, &str)> {
        authorities
            .iter()
            .map(|((namespace, host), pem)| (namespace.as_str(), host.as_str(), &**pem))
            .collect()
    }

    #[test]
    fn a_changed_map_replaces_its_namespaces_entries_only() {
        let mut all = Authorities::new();
        apply(
            &mut all,
            &config_map("a", json!({"Quay.test": "1", "b.test": "2"})),
        );
        apply(&mut all, &config_map("b", json!({"quay.test": "3"})));
        assert_eq!(
            shown(&all),
            [
                ("a", "b.test", "2"),
                ("a", "quay.test", "1"),
                ("b", "quay.test", "3")
            ]
        );
        apply(&mut all, &config_map("a", json!({"quay.test": "4"})));
        assert_eq!(
            shown(&all),
            [("a", "quay.test", "4"), ("b", "quay.test", "3")]
        );
        remove(&mut all, &config_map("a", Value::Null));
        assert_eq!(shown(&all), [("b", "quay.test", "3")]);
        apply(
            &mut all,
            &config_map("b", json!({"long.test": "x".repeat(LONGEST + 1)})),
        );
        assert_eq!(shown(&all), []);
    }
}
