//! The proxy between a client that speaks as Argo CD does and TLS servers.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod authorization;
mod credentials;
mod program;
mod streams;
mod world;
