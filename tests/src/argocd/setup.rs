//! What an installation of Argo CD consists of: objects on the cluster, and the content of its image.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::{Component, Options};
use crate::control_plane::apply;
use crate::peers::Peers;
use crate::sandboxed_container::Image;

/// The user of Argo CD's image.
const USER: i64 = 999;

/// Applies install.yaml, which has the CRDs, and what an installation brings besides: the Redis password,
/// which an init container of the Redis pod would make, and trusted certificates.
pub(super) async fn install(client: &Client, options: &Options<'_>, password: &str) -> Result<()> {
    let manifest = options.peers.argocd_module().join("manifests/install.yaml");
    let manifest =
        fs::read_to_string(&manifest).with_context(|| format!("read {}", manifest.display()))?;
    apply(client, options.namespace, &manifest)
        .await
        .context("apply Argo CD's install.yaml")?;
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": "argocd-redis" },
        "stringData": { "auth": password },
    });
    patch::<Secret>(
        client,
        options.namespace,
        "argocd-redis",
        &Patch::Apply(secret),
    )
    .await?;
    let certificates = json!({ "data": options.trusted });
    patch::<ConfigMap>(
        client,
        options.namespace,
        "argocd-tls-certs-cm",
        &Patch::Merge(certificates),
    )
    .await
}

async fn patch<K>(
    client: &Client,
    namespace: &str,
    name: &str,
    patch: &Patch<serde_json::Value>,
) -> Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let how = match patch {
        Patch::Apply(_) => PatchParams::apply("argocd-workload-identity-tests").force(),
        _ => PatchParams::default(),
    };
    Api::<K>::namespaced(client.clone(), namespace)
        .patch(name, &how, patch)
        .await
        .with_context(|| format!("write {namespace}/{name}"))?;
    Ok(())
}

/// Of Argo CD's image: its programs, their names, and the two scripts that it calls for signatures.
pub(super) fn image(peers: &Peers, folder: &Path) -> Result<Image> {
    let mut programs: BTreeMap<String, PathBuf> =
        [("argocd", peers.argocd()), ("helm", peers.helm())]
            .map(|(name, path)| (name.to_owned(), path.to_owned()))
            .into();
    for script in ["gpg-wrapper.sh", "git-verify-wrapper.sh"] {
        // Go's module cache keeps no file executable.
        let (from, to) = (
            peers.argocd_module().join("hack").join(script),
            folder.join(script),
        );
        fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} executable", to.display()))?;
        programs.insert(script.to_owned(), to);
    }
    let links = Component::ALL
        .into_iter()
        .map(|component| (component.name().to_owned(), "argocd".to_owned()));
    Ok(Image {
        programs,
        links: links.collect(),
        environment: [("USER".to_owned(), "argocd".to_owned())].into(),
        home: PathBuf::from("/home/argocd"),
        user: USER,
    })
}

/// The services by which Argo CD's components know each other, and what the caller wants.
pub(super) fn hosts(wanted: Vec<(String, Ipv4Addr)>) -> Vec<(String, Ipv4Addr)> {
    [
        "argocd-redis",
        "argocd-repo-server",
        "argocd-server",
        "argocd-dex-server",
    ]
    .map(|name| (name.to_owned(), Ipv4Addr::LOCALHOST))
    .into_iter()
    .chain(wanted)
    .collect()
}
