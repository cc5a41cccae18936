//! Argo CD and Helm with what other exchanges than Quay's give.

mod acr;
mod clouds;
mod gar;
mod keycloak;
mod page;
mod realm;

use crate::case::Case;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    [
        keycloak::cases(),
        realm::cases(),
        gar::cases(),
        acr::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
