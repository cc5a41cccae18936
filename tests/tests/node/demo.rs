//! `cargo demo --node` as somebody who has just cloned the project runs it.

use std::time::Duration;

use anyhow::Result;

use crate::case::{Case, last};
use crate::scene::Ready;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    // It aims at two minutes; this machine may be busy.
    let limit = Duration::from_secs(600);
    vec![
        last!(it_ends_well).within(limit),
        last!(with_spire).within(limit),
        last!(a_crash_leaves_nothing).within(limit),
    ]
}

async fn it_ends_well(prepared: &Ready) -> Result<()> {
    let folder = prepared.folder.join("demo");
    harness::demo::ends_well(env!("CARGO_BIN_EXE_demo"), &["--node"], &folder).await
}

/// The overlay, with the socket of SPIRE on the host.
async fn with_spire(prepared: &Ready) -> Result<()> {
    let folder = prepared.folder.join("demo-spire");
    let arguments = ["--node", "--identity", "spire"];
    harness::demo::ends_well(env!("CARGO_BIN_EXE_demo"), &arguments, &folder).await
}

async fn a_crash_leaves_nothing(prepared: &Ready) -> Result<()> {
    let folder = prepared.folder.join("demo");
    harness::demo::crash_leaves_nothing(env!("CARGO_BIN_EXE_demo"), &["--node"], &folder).await
}
