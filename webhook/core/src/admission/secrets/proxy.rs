//! Which value a Secret's `proxy` gets: what the author wrote and what was
//! there before flow in, keep, carry over, draw or refuse flows out. Pure.
//!
//! Whoever writes a Secret knows nothing of its key: GitOps tools and operators
//! write it again and again without. So the value that was there before stays,
//! whatever comes, for as long as it fits.

use crate::proxy_key::{self, Subject, Written};

/// The version of the Secret before an update.
pub(super) struct Before<'a> {
    /// Its `proxy`.
    pub(super) proxy: Option<&'a str>,
    /// It was for the same project, URL and type.
    pub(super) is_same_place: bool,
}

/// What becomes of `proxy`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// It is as it should be.
    Keep,
    /// The one from before counts.
    CarryOver(&'a str),
    /// It needs a new key.
    Draw,
    /// It is a proxy of the author's own.
    Conflict,
}

/// Decides about the `proxy` of a Secret that the credential proxy serves.
/// `rotates` says that the author asks for a new key.
pub(super) fn entry<'a>(
    written: Option<&str>,
    before: Option<&Before<'a>>,
    subject: &Subject<'_>,
    rotates: bool,
) -> Entry<'a> {
    // Another Secret's value comes along when a Secret is copied.
    if written.is_some_and(|written| proxy_key::written_for(written).is_none()) {
        return Entry::Conflict;
    }
    let fits = |value| matches!(proxy_key::judge(value, subject), Written::Fits(_));
    let former = before.and_then(|before| before.proxy);
    // Also one that was made for the new place: others have read it since.
    if rotates || before.is_some_and(|before| !before.is_same_place) {
        // A second look at the same request finds the key of the first.
        let is_new = fits(written) && written != former;
        return if is_new { Entry::Keep } else { Entry::Draw };
    }
    let is_of_earlier_version = matches!(proxy_key::judge(former, subject), Written::Unmarked(_));
    match former {
        Some(former) if fits(Some(former)) || is_of_earlier_version => {
            if written == Some(former) {
                Entry::Keep
            } else {
                Entry::CarryOver(former)
            }
        }
        _ if fits(written) => Entry::Keep,
        _ => Entry::Draw,
    }
}
