//! `cargo demo` as somebody who has just cloned the project runs it, with each source of identities; SPIRE's Delegated
//! Identity API is the node tier's.

use std::time::Duration;

use anyhow::Result;

use crate::case::{Case, last};
use crate::scene::Prepared;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    // It aims at a minute; this machine may be busy.
    let limit = Duration::from_secs(600);
    vec![
        last!(it_ends_well).within(limit),
        last!(with_the_workload_api).within(limit),
        last!(with_service_accounts).within(limit),
    ]
}

async fn it_ends_well(prepared: &Prepared) -> Result<()> {
    play(prepared, "demo", &[]).await
}

async fn with_the_workload_api(prepared: &Prepared) -> Result<()> {
    let arguments = ["--identity", "workload-api"];
    play(prepared, "demo-workload-api", &arguments).await
}

async fn with_service_accounts(prepared: &Prepared) -> Result<()> {
    let arguments = ["--identity", "service-account"];
    play(prepared, "demo-service-account", &arguments).await
}

async fn play(prepared: &Prepared, name: &str, arguments: &[&str]) -> Result<()> {
    let folder = prepared.folder.join(name);
    harness::demo::ends_well(env!("CARGO_BIN_EXE_demo"), arguments, &folder).await
}
