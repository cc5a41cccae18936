//! Argo CD and Helm with what other exchanges than Quay's give.

mod realm;

use crate::case::Case;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    realm::cases()
}
