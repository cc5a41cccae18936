//! Credentials change while they are in use.

use crate::case::Case;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    Vec::new()
}
