//! Argo CD and Helm with what other exchanges than Quay's give.

mod keycloak;
mod realm;

use crate::case::Case;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    [keycloak::cases(), realm::cases()]
        .into_iter()
        .flatten()
        .collect()
}
