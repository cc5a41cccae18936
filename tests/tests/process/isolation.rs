//! Several projects with different identities on one host, native OCI, Helm over HTTP and git: each reads its
//! own and nothing else, and Argo CD never has a credential.

mod dependencies;
mod disturbances;
mod kinds;
mod memory;
mod pasting;
mod projects;
mod side;

use crate::case::Case;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    [
        projects::cases(),
        kinds::cases(),
        dependencies::cases(),
        pasting::cases(),
        disturbances::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
