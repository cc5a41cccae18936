//! The public guides to registries, section by section: their YAML under their hosts' own names reaches the state that
//! their text promises.

mod ecr;
mod quay;

use crate::case::Case;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    [quay::cases(), ecr::cases()]
        .into_iter()
        .flatten()
        .collect()
}
