//! This tier's cases: the harness's, with this tier's scene.

use harness::trials;

use crate::scene::Scene;

pub(crate) use harness::trials::{exclusive, last, shared};

/// A trial of this tier.
pub(crate) type Case = trials::Case<Scene>;
