//! The agent's sources of SPIFFE identities against a SPIRE agent's two APIs ([`harness::spire`]): what comes of
//! each registration, refusal, fault and forgery, with real sockets, keys and time. Needs no root.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod scene;

mod checks;
mod crowd;
mod delivery;
mod registration;
mod restarts;
mod silence;
mod statuses;
