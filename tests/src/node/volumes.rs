//! Inline CSI volumes: what kubelet asks of a driver for one pod.
//!
//! Flows in: a pod, its volumes' CSIDriver objects. Flows out: calls to the drivers' sockets, with the
//! pod's identity and tokens where the CSIDriver asks for them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{CSIVolumeSource, Pod};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Shared;
use super::{csi, tokens};

/// What of a CSIDriver decides how its volumes are published. Read without the typed API, whose version
/// lacks the newest of these fields.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Driver {
    pod_info_on_mount: bool,
    requires_republish: bool,
    token_requests: Vec<Audience>,
    service_account_token_in_secrets: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Audience {
    audience: String,
    expiration_seconds: Option<i64>,
}

const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// Publishes every inline CSI volume of the pod.
pub(super) async fn publish(shared: &Shared, pod: &Pod) -> Result<()> {
    for (name, source) in inline(pod) {
        let driver = driver(shared, &source.driver).await?;
        publish_one(shared, pod, name, source, &driver).await?;
    }
    Ok(())
}

/// Publishes those again whose driver wants it; whether there are any.
pub(super) async fn republish(shared: &Shared, pod: &Pod) -> Result<bool> {
    let mut any = false;
    for (name, source) in inline(pod) {
        let driver = driver(shared, &source.driver).await?;
        if driver.requires_republish {
            publish_one(shared, pod, name, source, &driver).await?;
            any = true;
        }
    }
    Ok(any)
}

/// Takes every inline CSI volume of the pod back, and its folders.
pub(super) async fn unpublish(shared: &Shared, pod: &Pod) -> Result<()> {
    let uid = pod.uid().unwrap_or_default();
    for (name, source) in inline(pod) {
        let target = shared.csi_target(&uid, name);
        let Some(folder) = target.parent().filter(|folder| folder.exists()) else {
            continue;
        };
        csi::unpublish(socket(shared, source)?, &volume_id(&uid, name), &target)
            .await
            .with_context(|| format!("unpublish volume {name} of pod {}", pod.name_any()))?;
        // Not recursively, as kubelet: what the driver left mounted must not be emptied.
        if target.exists() {
            fs::remove_dir(&target).with_context(|| format!("remove {}", target.display()))?;
        }
        fs::remove_dir(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

async fn publish_one(
    shared: &Shared,
    pod: &Pod,
    name: &str,
    source: &CSIVolumeSource,
    driver: &Driver,
) -> Result<()> {
    let uid = pod.uid().unwrap_or_default();
    let target = shared.csi_target(&uid, name);
    if let Some(folder) = target.parent() {
        // The driver makes the last component; its parent has to exist.
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    // What kubelet knows itself overrides the volume's attributes.
    let mut context: HashMap<String, String> = source
        .volume_attributes
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    if driver.pod_info_on_mount {
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone());
        for (key, value) in [
            ("pod.name", pod.name_any()),
            ("pod.namespace", pod.namespace().unwrap_or_default()),
            ("pod.uid", uid.clone()),
            ("serviceAccount.name", account.unwrap_or_default()),
            ("ephemeral", "true".to_owned()),
        ] {
            context.insert(format!("csi.storage.k8s.io/{key}"), value);
        }
    }
    let mut secrets = HashMap::new();
    if !driver.token_requests.is_empty() {
        let given = requested_tokens(shared, pod, &driver.token_requests).await?;
        let place = if driver.service_account_token_in_secrets {
            &mut secrets
        } else {
            &mut context
        };
        place.insert(TOKENS.to_owned(), given);
    }
    csi::publish(
        socket(shared, source)?,
        csi::Publish {
            volume_id: volume_id(&uid, name),
            target: &target,
            read_only: source.read_only.unwrap_or_default(),
            context,
            secrets,
        },
    )
    .await
    .with_context(|| format!("publish volume {name} of pod {}", pod.name_any()))
}

/// `{"<audience>": {"token": …, "expirationTimestamp": …}}`, as CSIDriver's tokenRequests specifies.
async fn requested_tokens(shared: &Shared, pod: &Pod, wanted: &[Audience]) -> Result<String> {
    let mut given = serde_json::Map::new();
    for wanted in wanted {
        let audience = Some(wanted.audience.as_str()).filter(|audience| !audience.is_empty());
        let token = tokens::request(shared, pod, audience, wanted.expiration_seconds).await?;
        given.insert(
            wanted.audience.clone(),
            json!({ "token": token.token, "expirationTimestamp": token.expiration_timestamp }),
        );
    }
    serde_json::to_string(&given).context("write the pod's tokens")
}

async fn driver(shared: &Shared, name: &str) -> Result<Driver> {
    let kind = GroupVersionKind::gvk("storage.k8s.io", "v1", "CSIDriver");
    let drivers: Api<DynamicObject> = Api::all_with(
        shared.kubelet.clone(),
        &ApiResource::from_gvk_with_plural(&kind, "csidrivers"),
    );
    let object = drivers
        .get(name)
        .await
        .with_context(|| format!("read CSIDriver {name}"))?;
    let spec = object.data.get("spec").cloned().unwrap_or_default();
    serde_json::from_value(spec).with_context(|| format!("read the spec of CSIDriver {name}"))
}

fn inline(pod: &Pod) -> impl Iterator<Item = (&str, &CSIVolumeSource)> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .filter_map(|volume| Some((volume.name.as_str(), volume.csi.as_ref()?)))
}

fn socket<'a>(shared: &'a Shared, source: &CSIVolumeSource) -> Result<&'a Path> {
    shared
        .drivers
        .get(&source.driver)
        .map(std::path::PathBuf::as_path)
        .with_context(|| {
            format!(
                "no driver {} is registered on node {}",
                source.driver, shared.name
            )
        })
}

/// As kubelet names an inline volume: stable for the pod and the volume, different for every other.
fn volume_id(pod_uid: &str, volume: &str) -> String {
    let digest = Sha256::digest(format!("{pod_uid}{volume}"));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("csi-{hex}")
}
