//! The agent's exchanges against token services and registries: real ones where they can be had, and stand-ins that
//! answer every documented error ([`harness::upstreams`]). Needs no root.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod acr;
mod aws;
mod case;
mod clouds;
mod distribution;
mod gar;
mod guard;
mod keycloak;
mod passthrough;
mod refresh;
mod roads;
