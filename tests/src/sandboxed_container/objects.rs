//! The ConfigMaps and Secrets that a pod refers to, read once each, as its node.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};

/// Content by key.
pub(super) type Data = BTreeMap<String, Vec<u8>>;

/// Which of the two kinds of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    ConfigMap,
    Secret,
}

pub(super) struct Objects {
    client: Client,
    namespace: String,
    known: HashMap<(Kind, String), Option<Data>>,
}

impl Objects {
    pub(super) fn new(client: Client, namespace: String) -> Self {
        Self {
            client,
            namespace,
            known: HashMap::new(),
        }
    }

    /// The object's content. `None` when there is none and the reference is optional.
    pub(super) async fn data(
        &mut self,
        kind: Kind,
        name: &str,
        optional: bool,
    ) -> Result<Option<&Data>> {
        let key = (kind, name.to_owned());
        if !self.known.contains_key(&key) {
            let data = self
                .read(kind, name)
                .await
                .with_context(|| format!("read {kind:?} {}/{name}", self.namespace))?;
            self.known.insert(key.clone(), data);
        }
        match self.known.get(&key) {
            Some(Some(data)) => Ok(Some(data)),
            _ if optional => Ok(None),
            _ => anyhow::bail!("there is no {kind:?} {}/{name}", self.namespace),
        }
    }

    async fn read(&self, kind: Kind, name: &str) -> Result<Option<Data>> {
        let client = self.client.clone();
        Ok(match kind {
            Kind::ConfigMap => Api::<ConfigMap>::namespaced(client, &self.namespace)
                .get_opt(name)
                .await?
                .map(|object| {
                    let text = object.data.into_iter().flatten();
                    let binary = object.binary_data.into_iter().flatten();
                    text.map(|(key, value)| (key, value.into_bytes()))
                        .chain(binary.map(|(key, value)| (key, value.0)))
                        .collect()
                }),
            Kind::Secret => Api::<Secret>::namespaced(client, &self.namespace)
                .get_opt(name)
                .await?
                .map(|object| {
                    let data = object.data.into_iter().flatten();
                    data.map(|(key, value)| (key, value.0)).collect()
                }),
        })
    }
}
