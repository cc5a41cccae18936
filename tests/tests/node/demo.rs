//! `cargo demo --node` as somebody who has just cloned the project runs it.

use std::time::Duration;

use anyhow::Result;

use crate::case::{Case, last};
use crate::scene::Ready;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    // It aims at two minutes; this machine may be busy.
    vec![last!(it_ends_well).within(Duration::from_secs(600))]
}

async fn it_ends_well(prepared: &Ready) -> Result<()> {
    let folder = prepared.folder.join("demo");
    harness::demo::ends_well(env!("CARGO_BIN_EXE_demo"), &["--node"], &folder).await
}
