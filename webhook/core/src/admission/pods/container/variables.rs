//! The variables that a container gets, beside those that it has: in `env`,
//! where they stay, or in sources of `envFrom` that nobody here can look into.

use shared::{
    errors::{Code, Named},
    layout::{CREDENTIALS_PATH, DOCKER_DIR},
};

use super::{Additions, Relation, relation};
use crate::admission::pods::{
    certificates::{CERTIFICATES_VARIABLE, authority_folder, trusted_folders},
    view::{Container, VolumeMount},
};

const DOCKER_CONFIG: &str = "DOCKER_CONFIG";
const SSL_CERT_DIR: &str = "SSL_CERT_DIR";
/// The home of the user in Argo CD's image.
const HOME: &str = "/home/argocd";

/// Leads Helm to the pod-wide Docker configuration.
pub(super) fn docker_config(
    container: &Container<'_>,
    additions: &mut Additions,
    warnings: &mut Vec<Named>,
) -> Result<(), Named> {
    let folder = format!("{CREDENTIALS_PATH}/{DOCKER_DIR}");
    if container.variable(DOCKER_CONFIG).is_none()
        && let Some(mount) = docker_config_at_home(container)
    {
        let detail = format!(
            "{}: {DOCKER_CONFIG}={folder} is left out, for it would hide {}",
            container.name,
            mount.path()
        );
        return Err(Named::new(Code::MountConflict, detail));
    }
    set_unless_other(container, DOCKER_CONFIG, &folder, additions)?;
    overriding(container, DOCKER_CONFIG, &folder, warnings);
    Ok(())
}

/// A mount that brings a Docker configuration of the user's own.
fn docker_config_at_home<'p, 'a>(container: &'p Container<'a>) -> Option<&'p VolumeMount<'a>> {
    let home = container.variable("HOME");
    let home = home.and_then(|home| home.value.as_deref());
    let folder = format!("{}/.docker", home.unwrap_or(HOME));
    let is_there = |mount: &&VolumeMount<'_>| {
        matches!(
            relation(mount.path(), &folder),
            Relation::Same | Relation::Below
        )
    };
    container.mounts().iter().find(is_there)
}

/// Says which sources of `envFrom` may hold a variable that is set to this
/// `value`: Kubernetes prefers `env`, so theirs would count no more. Nobody here
/// can look into them.
pub(super) fn overriding(
    container: &Container<'_>,
    name: &str,
    value: &str,
    warnings: &mut Vec<Named>,
) {
    let warning = |source| {
        let detail = format!("{}: {name}={value}, envFrom has {source}", container.name);
        Named::new(Code::EnvFromOverridden, detail)
    };
    warnings.extend(container.sources_of(name).map(warning));
}

/// Adds the folders of trusted authorities, where nothing else is set.
pub(in crate::admission::pods) fn trusting(container: &Container<'_>, additions: &mut Additions) {
    if container.variable(SSL_CERT_DIR).is_none() {
        additions.set(SSL_CERT_DIR, &trusted_folders());
    }
}

/// What a container beside the credential proxy may miss; `is_new` where the
/// proxy is just being added, with the variables that it needs.
pub(in crate::admission::pods) fn trust_warnings(
    container: &Container<'_>,
    is_new: bool,
    warnings: &mut Vec<Named>,
) {
    let folders = trusted_folders();
    let (variable, path) = CERTIFICATES_VARIABLE;
    for (name, value) in [(variable, path), (SSL_CERT_DIR, &*folders)] {
        let is_ours = match container.variable(name) {
            Some(set) => set.value.as_deref() == Some(value),
            None => is_new,
        };
        if is_ours {
            overriding(container, name, value, warnings);
        }
    }
    // A setting of the user's stays: then only what reads the other variable
    // trusts the credential proxy, which is all but Helm's building of
    // dependencies.
    if let Some(set) = container.variable(SSL_CERT_DIR) {
        let own = set.value.as_deref();
        let authority = authority_folder();
        let mut parts = own.unwrap_or_default().split(':');
        if !parts.any(|part| relation(part, &authority) == Relation::Same) {
            let own: String = own.unwrap_or("\u{2026}").chars().take(200).collect();
            let own = own.escape_debug();
            let detail = format!(
                "{}: {SSL_CERT_DIR}={own}:{authority}; as it is, Helm builds no dependencies \
                 through the credential proxy, which trusts argocd-tls-certs-cm and none of these folders",
                container.name
            );
            warnings.push(Named::new(Code::EnvConflict, detail));
        }
    }
}

/// Sets a variable that is not set, or has this value already.
pub(super) fn set_unless_other(
    container: &Container<'_>,
    name: &str,
    value: &str,
    additions: &mut Additions,
) -> Result<(), Named> {
    match container.variable(name) {
        None => additions.set(name, value),
        Some(set) if set.value.as_deref() == Some(value) => {}
        Some(_) => return Err(env_conflict(container, name, value)),
    }
    Ok(())
}

pub(super) fn env_conflict(container: &Container<'_>, name: &str, value: &str) -> Named {
    let detail = format!("{}: {name}={value}", container.name);
    Named::new(Code::EnvConflict, detail)
}
