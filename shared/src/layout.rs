//! Where things are in a consumer pod, and what they are called.
//!
//! The credential volume as the pod sees it:
//!
//! ```text
//! /var/run/workload-identity/      read-only; a tmpfs that the agent mounts
//!   docker/config.json             credentials of no project
//!   clusters/<secret name>.json    ExecCredential of one cluster Secret
//!   bin/exec-auth                  prints one of those for client-go
//! ```
//!
//! The view that only the credential proxy's container mounts:
//!
//! ```text
//! /var/run/workload-identity-proxy/
//!   <binding>.json                 see `proxy_view`
//! ```

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Version of this layout; the value of the label `workload-identity.dev/injected`.
pub const CONTRACT_VERSION: &str = "v1";
/// Name of the CSI driver that serves credential volumes.
pub const CSI_DRIVER: &str = "csi.workload-identity.dev";
/// Audience of the pod tokens that kubelet hands to the driver, and of the agent's own token.
pub const TOKEN_AUDIENCE: &str = "argocd-identity";
/// Name of the injected volume in the pod.
pub const VOLUME_NAME: &str = "workload-identity";
/// Where a consumer container mounts its credential volume.
pub const CREDENTIALS_PATH: &str = "/var/run/workload-identity";
/// Folder of the Docker configuration, relative to the volume; the value of `DOCKER_CONFIG`.
pub const DOCKER_DIR: &str = "docker";
/// The Docker configuration file, relative to the volume.
pub const DOCKER_CONFIG: &str = "docker/config.json";
/// Folder of the cluster credentials, relative to the volume.
pub const CLUSTERS_DIR: &str = "clusters";
/// Folder of the programs, relative to the volume.
pub const BIN_DIR: &str = "bin";
/// The exec plugin's file name.
pub const EXEC_AUTH: &str = "exec-auth";
/// The name under which the public guides call the exec plugin.
pub const EXEC_AUTH_ALIAS: &str = "k8s-spiffe-workload-jwt-exec-auth";
/// Where the public guides, and so the injected pods, have the exec plugin.
pub const BINARIES_PATH: &str = "/binaries";
/// The volume attribute that says which view of the credentials a volume is.
pub const VIEW_ATTRIBUTE: &str = "view";
/// Value of [`VIEW_ATTRIBUTE`]: what the credential proxy serves. Without the
/// attribute it is the view of Argo CD's own containers.
pub const PROXY_VIEW: &str = "proxy";
/// Name of the credential proxy's volume in the pod.
pub const PROXY_VOLUME_NAME: &str = "workload-identity-proxy";
/// Where the credential proxy mounts its view.
pub const PROXY_VIEW_PATH: &str = "/var/run/workload-identity-proxy";
/// Name of the credential proxy's container.
pub const PROXY_CONTAINER: &str = "credential-proxy";
/// The credential proxy's program in its image.
pub const PROXY_PROGRAM: &str = "/usr/local/bin/credential-proxy";
/// Name of the volume with the credential proxy's own state, in memory.
pub const PROXY_STATE_VOLUME_NAME: &str = "credential-proxy-state";
/// Where the credential proxy mounts that volume.
pub const PROXY_STATE_PATH: &str = "/var/run/credential-proxy";
/// Name of the volume with the certificates that Argo CD verifies servers with.
pub const TLS_DATA_VOLUME_NAME: &str = "workload-identity-tls";
/// Where both containers mount that volume; the value of `ARGOCD_TLS_DATA_PATH`.
pub const TLS_DATA_PATH: &str = "/var/run/workload-identity-tls";
/// Folder in that volume with nothing but the proxy's own authority. No host can
/// have a file of this name.
pub const AUTHORITY_DIR: &str = "_authority";
/// The authority's file in that folder.
pub const AUTHORITY_FILE: &str = "ca.pem";
/// Where Argo CD's image has the roots that every program trusts.
pub const SYSTEM_CERTIFICATES_PATH: &str = "/etc/ssl/certs";
/// The credential proxy's address in the pod's network.
pub const PROXY_ADDRESS: &str = "127.0.0.1:15080";
/// Name of the upstream SPIFFE CSI driver.
pub const SPIFFE_CSI_DRIVER: &str = "csi.spiffe.io";
/// Name of the injected SPIFFE volume.
pub const SPIFFE_VOLUME_NAME: &str = "spiffe-workload-api";
/// Where the SPIFFE volume is mounted.
pub const SPIFFE_PATH: &str = "/spiffe-workload-api";
/// File name of the Workload API socket in the SPIFFE volume.
pub const SPIFFE_SOCKET: &str = "spire-agent.sock";

/// Longest file stem that is kept as it is. With `.json` and a temporary
/// suffix it stays below the 255 bytes that Linux allows.
const LONGEST_STEM: usize = 200;

/// A name that is safe as a single path component.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileStem(String);

/// The name cannot be used as a file name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` cannot be a file name: {reason}", .name.escape_debug())]
pub struct InvalidFileName {
    name: String,
    reason: &'static str,
}

impl FileStem {
    /// Takes the name of a Kubernetes object. Names over 200 bytes become a
    /// prefix and a SHA-256 of the whole, so that two never share a file.
    ///
    /// # Errors
    /// When the name is empty, starts with a dot, or has `/`, `\` or a control
    /// character.
    pub fn new(name: &str) -> Result<Self, InvalidFileName> {
        let refuse = |reason| {
            Err(InvalidFileName {
                name: name.chars().take(64).collect(),
                reason,
            })
        };
        if name.is_empty() {
            return refuse("it is empty");
        }
        if name.starts_with('.') {
            return refuse("it starts with a dot");
        }
        if name
            .chars()
            .any(|c| matches!(c, '/' | '\\') || c.is_control())
        {
            return refuse("it has a separator or a control character");
        }
        if name.len() <= LONGEST_STEM {
            return Ok(Self(name.to_owned()));
        }
        let mut stem: String = name
            .char_indices()
            .take_while(|(at, c)| at + c.len_utf8() <= LONGEST_STEM - 65)
            .map(|(_, c)| c)
            .collect();
        stem.push('-');
        for byte in Sha256::digest(name.as_bytes()) {
            stem.push_str(&format!("{byte:02x}"));
        }
        Ok(Self(stem))
    }

    /// The stem as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The ExecCredential file of a cluster Secret, relative to the volume.
///
/// # Errors
/// When the Secret's name cannot be a file name.
pub fn cluster_file(secret_name: &str) -> Result<PathBuf, InvalidFileName> {
    let stem = FileStem::new(secret_name)?;
    Ok(Path::new(CLUSTERS_DIR).join(format!("{}.json", stem.as_str())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_would_leave_the_folder() {
        for name in ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0b", "a\nb"] {
            assert!(cluster_file(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn long_names_stay_apart() {
        let (a, b) = (
            format!("{}a", "x".repeat(252)),
            format!("{}b", "x".repeat(252)),
        );
        let (a, b) = (cluster_file(&a).unwrap(), cluster_file(&b).unwrap());
        assert_ne!(a, b);
        assert!(a.file_name().unwrap().len() < 230);
    }

    proptest! {
        #[test]
        fn a_name_is_one_component_or_an_error(name in any::<String>()) {
            if let Ok(path) = cluster_file(&name) {
                let parts: Vec<_> = path.components().collect();
                prop_assert_eq!(parts.len(), 2);
                prop_assert!(path.starts_with(CLUSTERS_DIR));
                prop_assert!(path.file_name().unwrap().len() <= 220);
            }
        }
    }
}
