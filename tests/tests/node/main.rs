//! The node tier: a real kubelet mounts the credential volume into real pods.
//!
//! Each module has a table of [`Case`]s; a new trial is an async function and a line in its module's table.
//! Consumers are pods of busybox under the service accounts of Argo CD's components; the demo, the last trial,
//! has stock Argo CD in their place.

mod case;
mod mounts;
mod pods;
mod scene;

mod absence;
mod crashes;
mod crowd;
mod demo;
mod full;
mod restarts;
mod strangers;
mod tokens;
mod upgrade;
mod volume;

use std::process::ExitCode;

use harness::trials;

use self::case::Case;

fn main() -> ExitCode {
    trials::main("node tier", cases())
}

/// Every trial, the long ones first.
fn cases() -> Vec<Case> {
    [
        crowd::cases(),
        full::cases(),
        volume::cases(),
        strangers::cases(),
        crashes::cases(),
        upgrade::cases(),
        tokens::cases(),
        restarts::cases(),
        absence::cases(),
        demo::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
