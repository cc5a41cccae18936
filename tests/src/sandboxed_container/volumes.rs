//! A pod's volumes as folders, with the content that kubelet would put there.
//!
//! Content is written once, when the container starts; only service account tokens are kept fresh.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Volume,
};
use kube::ResourceExt;

use super::environment::field;
use super::objects::{Data, Kind, Objects};
use super::{Options, TokenFile};

/// Where a volume's content is on this machine.
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Whether a mount of it can ever be written to.
    pub(super) writable: bool,
}

pub(super) struct Volumes {
    pub(super) sources: HashMap<String, Source>,
    /// What keeps the tokens in them fresh.
    pub(super) tokens: Vec<TokenFile>,
}

/// Prepares every volume that the container mounts.
pub(super) async fn prepare(
    options: &Options<'_>,
    container: &Container,
    folder: &Path,
    objects: &mut Objects,
) -> Result<Volumes> {
    let mut prepared = Volumes {
        sources: HashMap::new(),
        tokens: Vec::new(),
    };
    let volumes = options
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.as_ref());
    for volume in volumes.into_iter().flatten() {
        let mounted = |container: &Container| {
            let mounts = container.volume_mounts.iter().flatten();
            mounts
                .map(|mount| &mount.name)
                .any(|name| name == &volume.name)
        };
        if mounted(container) {
            let path = folder.join("volumes").join(&volume.name);
            let source = one(options, volume, path, objects, &mut prepared.tokens)
                .await
                .with_context(|| format!("prepare volume {}", volume.name))?;
            prepared.sources.insert(volume.name.clone(), source);
        }
    }
    Ok(prepared)
}

async fn one(
    options: &Options<'_>,
    volume: &Volume,
    path: PathBuf,
    objects: &mut Objects,
    tokens: &mut Vec<TokenFile>,
) -> Result<Source> {
    let mut writable = false;
    if let Some(csi) = &volume.csi {
        let uid = options.pod.uid().context("the pod has no UID")?;
        return Ok(Source {
            path: options.node.csi_target(&uid, &volume.name),
            writable: csi.read_only != Some(true),
        });
    }
    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    if volume.empty_dir.is_some() {
        // As kubelet makes it for a pod without fsGroup.
        mode(&path, 0o777)?;
        writable = true;
    } else if let Some(map) = &volume.config_map {
        let data = objects
            .data(Kind::ConfigMap, &map.name, map.optional == Some(true))
            .await?;
        files(
            &path,
            data,
            map.items.as_deref(),
            map.optional == Some(true),
        )?;
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let data = objects
            .data(Kind::Secret, name, secret.optional == Some(true))
            .await?;
        files(
            &path,
            data,
            secret.items.as_deref(),
            secret.optional == Some(true),
        )?;
    } else if let Some(downward) = &volume.downward_api {
        fields(&path, options.pod, downward.items.as_deref())?;
    } else if let Some(projected) = &volume.projected {
        project(options, projected, &path, objects, tokens).await?;
    } else {
        bail!("this kind of volume is not supported here");
    }
    Ok(Source { path, writable })
}

async fn project(
    options: &Options<'_>,
    projected: &ProjectedVolumeSource,
    path: &Path,
    objects: &mut Objects,
    tokens: &mut Vec<TokenFile>,
) -> Result<()> {
    for source in projected.sources.iter().flatten() {
        if let Some(token) = &source.service_account_token {
            let seconds = token.expiration_seconds.unwrap_or(3600);
            let audience = token
                .audience
                .as_deref()
                .filter(|audience| !audience.is_empty());
            let file = path.join(&token.path);
            tokens.push(
                options
                    .node
                    .token_file(options.pod, audience, seconds, &file)
                    .await?,
            );
        } else if let Some(map) = &source.config_map {
            let data = objects
                .data(Kind::ConfigMap, &map.name, map.optional == Some(true))
                .await?;
            files(path, data, map.items.as_deref(), map.optional == Some(true))?;
        } else if let Some(secret) = &source.secret {
            let data = objects
                .data(Kind::Secret, &secret.name, secret.optional == Some(true))
                .await?;
            files(
                path,
                data,
                secret.items.as_deref(),
                secret.optional == Some(true),
            )?;
        } else if let Some(downward) = &source.downward_api {
            fields(path, options.pod, downward.items.as_deref())?;
        } else {
            bail!("this kind of projected source is not supported here");
        }
    }
    Ok(())
}

/// Writes an object's keys as files: all of them, or the chosen ones under their paths.
fn files(
    folder: &Path,
    data: Option<&Data>,
    items: Option<&[KeyToPath]>,
    optional: bool,
) -> Result<()> {
    let Some(data) = data else { return Ok(()) };
    let Some(items) = items else {
        return data
            .iter()
            .try_for_each(|(key, value)| write(folder, key, value));
    };
    for item in items {
        match data.get(&item.key) {
            Some(value) => write(folder, &item.path, value)?,
            None if optional => {}
            None => bail!("there is no key {}", item.key),
        }
    }
    Ok(())
}

fn fields(folder: &Path, pod: &Pod, items: Option<&[DownwardAPIVolumeFile]>) -> Result<()> {
    for item in items.into_iter().flatten() {
        let reference = item
            .field_ref
            .as_ref()
            .context("only fieldRef is supported here")?;
        write(
            folder,
            &item.path,
            field(pod, &reference.field_path)?.as_bytes(),
        )?;
    }
    Ok(())
}

fn write(folder: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
    mode(&path, 0o644)
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}
