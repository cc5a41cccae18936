//! Where the main container finds the certificates that the credential proxy
//! writes beside it.

use shared::layout::{
    AUTHORITY_DIR, SYSTEM_CERTIFICATES_PATH, TLS_DATA_PATH, TLS_DATA_VOLUME_NAME,
};

use super::PlannedVolume;

/// The volume with them.
pub(super) const CERTIFICATES: PlannedVolume<'static> = PlannedVolume {
    name: TLS_DATA_VOLUME_NAME,
    // Of no CSI driver.
    driver: "",
    is_new: true,
};

/// The variable that leads Argo CD to them (common/common.go), and its value.
pub(super) const CERTIFICATES_VARIABLE: (&str, &str) = ("ARGOCD_TLS_DATA_PATH", TLS_DATA_PATH);

/// What programs trust that Argo CD starts without naming a file (Helm, when it
/// builds dependencies): Go reads `SSL_CERT_DIR` at each program's start.
pub(super) fn trusted_folders() -> String {
    format!("{SYSTEM_CERTIFICATES_PATH}:{}", authority_folder())
}

/// The folder with the certificate of the pod's own authority alone.
pub(super) fn authority_folder() -> String {
    format!("{TLS_DATA_PATH}/{AUTHORITY_DIR}")
}
