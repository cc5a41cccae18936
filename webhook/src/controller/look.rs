//! What one look at a Secret found, and what that depended on: while nothing of
//! it changes, nobody has to look again.

use std::{
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
};

use control_plane_core::{
    bindings::{plan::Meaning, world::Snapshot},
    derive::meaning::Found,
    proxy_key::accepted::Former,
};
use jiff::Timestamp;
use shared::errors::Named;

/// What a look at a Secret found.
#[derive(Debug, Clone)]
pub(super) struct Look {
    /// What the look depended on, by [`Look::causes`].
    pub(super) causes: Option<u64>,
    pub(super) meaning: Meaning,
    pub(super) lacks: Option<Box<Named>>,
    pub(super) notices: Box<[Named]>,
}

impl Look {
    pub(super) fn new(around: &Snapshot, found: &Found, now: Timestamp) -> Self {
        Self {
            causes: Self::causes(around, former(around), now),
            meaning: Meaning::from(&found.derived),
            lacks: found.lacks.clone().map(Box::new),
            notices: found.notices.as_slice().into(),
        }
    }

    /// Tells what a look depends on from what it was before; `None` while that
    /// is not known.
    pub(super) fn causes(
        around: &Snapshot,
        former: Option<&Former>,
        now: Timestamp,
    ) -> Option<u64> {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let (secret, account) = (around.secret.as_ref()?, around.account.as_ref()?);
        let until = former.and_then(|former| former.until);
        let is_over = until.is_some_and(|until| until <= now);
        Some(KEYS.hash_one((secret, account, former, is_over)))
    }
}

/// What is remembered of the binding that is there.
pub(super) fn former(around: &Snapshot) -> Option<&Former> {
    let binding = around.binding.as_deref()?;
    binding.spec.as_ref().map(|spec| &spec.former)
}
