//! The process tier: every trial against one running scene of real components.
//!
//! Each module has a table of [`Case`]s, which [`harness::trials`] runs. A new
//! trial is an async function and a line in its module's table.

mod additions;
mod api;
mod case;
mod desk;
mod scene;
mod snapshot;
mod webhook;

mod argocd;
mod bad_input;
mod csi_sanity;
mod demo;
mod exchanges;
mod guides;
mod identity;
mod injection;
mod isolation;
mod kills;
mod policies;
mod rotation;
mod secrets;
mod workloads;

use std::process::ExitCode;

use harness::trials;

use self::case::Case;

fn main() -> ExitCode {
    trials::main("process tier", cases())
}

/// Every trial, the long ones first.
fn cases() -> Vec<Case> {
    [
        rotation::cases(),
        isolation::cases(),
        guides::cases(),
        exchanges::cases(),
        argocd::cases(),
        injection::cases(),
        workloads::cases(),
        secrets::cases(),
        identity::cases(),
        policies::cases(),
        bad_input::cases(),
        csi_sanity::cases(),
        demo::cases(),
        kills::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
