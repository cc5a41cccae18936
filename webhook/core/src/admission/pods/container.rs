//! What one container of the pod gets, and what it already has in the way.

mod variables;

use serde_json::{Value, json};
use shared::{
    errors::{Code, Named},
    layout::{BIN_DIR, BINARIES_PATH, CREDENTIALS_PATH, EXEC_AUTH, SPIFFE_PATH, SPIFFE_SOCKET},
};

use self::variables::{docker_config, env_conflict, overriding, set_unless_other};
pub(super) use self::variables::{trust_warnings, trusting};
use super::{
    PlannedVolume,
    certificates::{CERTIFICATES, CERTIFICATES_VARIABLE},
    view::{Container, PodSpec, VolumeMount},
};
use crate::{
    admission::patch::{Patch, Slot},
    annotations::{Component, SPIFFE_SOCKET_PATH},
};

const SPIFFE_ENDPOINT_SOCKET: &str = "SPIFFE_ENDPOINT_SOCKET";

/// What the containers of the pod shall have.
pub(super) struct Wishes<'p, 'a> {
    pub(super) component: Component,
    pub(super) exec_auth: bool,
    pub(super) spiffe_socket_path: Option<&'p str>,
    pub(super) spec: &'p PodSpec<'a>,
    pub(super) credentials: Option<PlannedVolume<'p>>,
    pub(super) spiffe: Option<PlannedVolume<'p>>,
}

/// What is added to a container.
#[derive(Debug, Default)]
pub(super) struct Additions {
    mounts: Vec<Mount>,
    env: Vec<Value>,
}

#[derive(Debug)]
struct Mount {
    volume: String,
    path: String,
    sub_path: Option<String>,
}

impl Additions {
    /// Whether one of the mounts is of this volume.
    pub(super) fn mounts(&self, volume: &str) -> bool {
        self.mounts.iter().any(|mount| mount.volume == volume)
    }

    /// Turns them into operations on the container at `slot`.
    pub(super) fn write(self, container: &Container<'_>, slot: &Slot, patch: &mut Patch) {
        let env = slot.clone().member("env", container.env.is_some());
        patch.append(&env, self.env);
        let mounts = slot
            .clone()
            .member("volumeMounts", container.volume_mounts.is_some());
        let values = self.mounts.into_iter().map(|mount| {
            let mut value = json!({
                "name": mount.volume, "mountPath": mount.path, "readOnly": true,
            });
            if let Some(sub_path) = mount.sub_path {
                value["subPath"] = json!(sub_path);
            }
            value
        });
        patch.append(&mounts, values.collect());
    }

    fn mount(&mut self, volume: PlannedVolume<'_>, path: &str, sub_path: &str) {
        self.mounts.push(Mount {
            volume: volume.name.to_owned(),
            path: path.to_owned(),
            sub_path: (!sub_path.is_empty()).then(|| sub_path.to_owned()),
        });
    }

    fn set(&mut self, name: &str, value: &str) {
        self.env.push(json!({"name": name, "value": value}));
    }
}

/// Plans what a container gets. What does not fit is left out with a warning.
pub(super) fn plan(
    container: &Container<'_>,
    wishes: &Wishes<'_, '_>,
    warnings: &mut Vec<Named>,
) -> Additions {
    let mut additions = Additions::default();
    if let Some(volume) = wishes.credentials
        && let Err(conflict) = credentials(container, wishes, volume, &mut additions, warnings)
    {
        warnings.push(conflict);
    }
    if let Some(volume) = wishes.spiffe
        && let Err(conflict) = workload_api(container, wishes, volume, &mut additions, warnings)
    {
        warnings.push(conflict);
    }
    additions
}

fn credentials(
    container: &Container<'_>,
    wishes: &Wishes<'_, '_>,
    volume: PlannedVolume<'_>,
    additions: &mut Additions,
    warnings: &mut Vec<Named>,
) -> Result<(), Named> {
    let spec = wishes.spec;
    // Nothing of what follows is of use without the credentials themselves.
    if room(container, spec, volume, CREDENTIALS_PATH, "")? == Room::Free {
        additions.mount(volume, CREDENTIALS_PATH, "");
    }
    match wishes.component {
        Component::RepoServer => docker_config(container, additions, warnings),
        Component::ApplicationController | Component::Server if wishes.exec_auth => {
            exec_auth(container, spec, volume, additions)
        }
        Component::ApplicationController | Component::Server => Ok(()),
    }
    .unwrap_or_else(|conflict| warnings.push(conflict));
    Ok(())
}

/// Leads Argo CD to the certificates that the credential proxy gives it. Adds
/// nothing where one of the two is in the way.
pub(super) fn proxied(
    container: &Container<'_>,
    spec: &PodSpec<'_>,
    additions: &mut Additions,
) -> Result<(), Named> {
    let (variable, path) = CERTIFICATES_VARIABLE;
    let is_free = room(container, spec, CERTIFICATES, path, "")? == Room::Free;
    set_unless_other(container, variable, path, additions)?;
    if is_free {
        additions.mount(CERTIFICATES, path, "");
    }
    Ok(())
}

/// Mounts the programs at /binaries, or the one program into the folder that
/// the public guides make there.
fn exec_auth(
    container: &Container<'_>,
    spec: &PodSpec<'_>,
    volume: PlannedVolume<'_>,
    additions: &mut Additions,
) -> Result<(), Named> {
    let guides = container.mounts().iter().any(|mount| {
        relation(mount.path(), BINARIES_PATH) == Relation::Same && takes_mounts(spec, mount)
    });
    let (path, sub_path) = if guides {
        (
            format!("{BINARIES_PATH}/{EXEC_AUTH}"),
            format!("{BIN_DIR}/{EXEC_AUTH}"),
        )
    } else {
        (BINARIES_PATH.to_owned(), BIN_DIR.to_owned())
    };
    if room(container, spec, volume, &path, &sub_path)? == Room::Free {
        additions.mount(volume, &path, &sub_path);
    }
    Ok(())
}

/// Points the container to the Workload API. A mount of the SPIFFE CSI driver
/// that is there already is used, wherever it is.
fn workload_api(
    container: &Container<'_>,
    wishes: &Wishes<'_, '_>,
    volume: PlannedVolume<'_>,
    additions: &mut Additions,
    warnings: &mut Vec<Named>,
) -> Result<(), Named> {
    let spec = wishes.spec;
    let mounted: Vec<&str> = container
        .mounts()
        .iter()
        .filter(|mount| is_of(spec, mount, volume) && mount.sub_path().is_empty())
        .map(VolumeMount::path)
        .collect();
    let is_mounted = |socket: &str| {
        let above = |folder: &&str| relation(folder, socket) == Relation::Above;
        mounted.iter().any(above)
    };

    let socket = match wishes.spiffe_socket_path {
        Some(path) => path.to_owned(),
        None => {
            let folder = mounted.first().copied().unwrap_or(SPIFFE_PATH);
            format!("{}/{SPIFFE_SOCKET}", folder.trim_end_matches('/'))
        }
    };
    let endpoint = format!("unix://{socket}");
    let set = container.variable(SPIFFE_ENDPOINT_SOCKET);
    if let Some(set) = set {
        let value = set.value.as_deref().unwrap_or_default();
        // Any endpoint inside a mounted SPIFFE volume serves the purpose.
        let own = value.strip_prefix("unix:");
        if wishes.spiffe_socket_path.is_none() && own.is_some_and(is_mounted) {
            if value == endpoint {
                overriding(container, SPIFFE_ENDPOINT_SOCKET, &endpoint, warnings);
            }
            return Ok(());
        }
        if value != endpoint {
            return Err(env_conflict(container, SPIFFE_ENDPOINT_SOCKET, &endpoint));
        }
    }
    if !is_mounted(&socket) {
        let folder = match socket.rsplit_once('/') {
            Some((folder, _)) if !folder.is_empty() => folder,
            _ => {
                let detail = format!("{SPIFFE_SOCKET_PATH}: the folder of the socket cannot be /");
                return Err(Named::new(Code::InvalidAnnotation, detail));
            }
        };
        if room(container, spec, volume, folder, "")? == Room::Free {
            additions.mount(volume, folder, "");
        }
    }
    if set.is_none() {
        additions.set(SPIFFE_ENDPOINT_SOCKET, &endpoint);
    }
    overriding(container, SPIFFE_ENDPOINT_SOCKET, &endpoint, warnings);
    Ok(())
}

/// Whether a path is free for a mount.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    /// Nothing is there.
    Free,
    /// What shall be there is there.
    Present,
}

/// Looks whether `sub_path` of `volume` can be mounted at `path`.
///
/// Beside another mount at the same path, two things would keep the container
/// from starting: a mount below ours, and ours below one that is read-only,
/// because the runtime cannot make the mount point in either case.
fn room(
    container: &Container<'_>,
    spec: &PodSpec<'_>,
    volume: PlannedVolume<'_>,
    path: &str,
    sub_path: &str,
) -> Result<Room, Named> {
    let mut above: Option<&VolumeMount<'_>> = None;
    let mut below: Option<&VolumeMount<'_>> = None;
    for mount in container.mounts() {
        match relation(mount.path(), path) {
            Relation::Same if is_of(spec, mount, volume) && mount.sub_path() == sub_path => {
                return Ok(Room::Present);
            }
            Relation::Same => return Err(mount_conflict(container, mount, path)),
            Relation::Above => {
                // The deepest one holds the mount point.
                above = above
                    .into_iter()
                    .chain([mount])
                    .max_by_key(|mount| parts(mount.path()).count());
            }
            Relation::Below => below = Some(mount),
            Relation::Apart => {}
        }
    }
    match below.or(above.filter(|mount| !takes_mounts(spec, mount))) {
        Some(mount) => Err(mount_conflict(container, mount, path)),
        None => Ok(Room::Free),
    }
}

/// Whether a mount point can be made inside this mount.
fn takes_mounts(spec: &PodSpec<'_>, mount: &VolumeMount<'_>) -> bool {
    let is_empty_dir = |name: &str| {
        let mut volumes = spec.volumes().iter();
        volumes.any(|volume| &*volume.name == name && volume.is_empty_dir())
    };
    !mount.is_read_only() && is_empty_dir(&mount.name)
}

/// Whether a mount is of this volume, or of another one of its driver. A pod
/// may also mount a volume of the planned name without having it.
fn is_of(spec: &PodSpec<'_>, mount: &VolumeMount<'_>, volume: PlannedVolume<'_>) -> bool {
    let mut volumes = spec.volumes().iter();
    &*mount.name == volume.name
        || volumes.any(|other| *other.name == *mount.name && other.is_of_driver(volume.driver))
}

/// Where one path is, seen from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Same,
    /// It contains the other.
    Above,
    /// The other contains it.
    Below,
    Apart,
}

/// Compares two paths component by component. /var/run is a link to /run in
/// Argo CD's image, as in most others, so both count as the same place.
fn relation(one: &str, other: &str) -> Relation {
    match compare(parts(one), parts(other)) {
        Relation::Apart => compare(parts(resolve(one)), parts(resolve(other))),
        relation => relation,
    }
}

fn compare<'p>(
    mut one: impl Iterator<Item = &'p str>,
    mut other: impl Iterator<Item = &'p str>,
) -> Relation {
    loop {
        match (one.next(), other.next()) {
            (None, None) => return Relation::Same,
            (None, Some(_)) => return Relation::Above,
            (Some(_), None) => return Relation::Below,
            (Some(a), Some(b)) if a == b => {}
            (Some(_), Some(_)) => return Relation::Apart,
        }
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !matches!(*part, "" | "."))
}

fn resolve(path: &str) -> &str {
    path.strip_prefix("/var")
        .filter(|rest| *rest == "/run" || rest.starts_with("/run/"))
        .unwrap_or(path)
}

fn mount_conflict(container: &Container<'_>, mount: &VolumeMount<'_>, path: &str) -> Named {
    let (name, other) = (&container.name, mount.path());
    let detail = if relation(other, path) == Relation::Same {
        format!("{name}: {path} is left out")
    } else {
        format!("{name}: {path} is left out, {other} is in its way")
    };
    Named::new(Code::MountConflict, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_by_component() {
        for (one, other, expected) in [
            ("/binaries", "/binaries", Relation::Same),
            ("/binaries//", "/binaries", Relation::Same),
            ("/bin", "/binaries", Relation::Apart),
            ("/", "/binaries", Relation::Above),
            ("/binaries/x", "/binaries", Relation::Below),
            ("/run", "/var/run/workload-identity", Relation::Above),
            ("/var", "/var/run/workload-identity", Relation::Above),
            ("/var/running", "/run/ning", Relation::Apart),
            ("/run/workload-identity", CREDENTIALS_PATH, Relation::Same),
        ] {
            assert_eq!(relation(one, other), expected, "{one} {other}");
        }
    }
}
