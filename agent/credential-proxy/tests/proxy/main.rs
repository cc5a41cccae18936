//! The proxy between a client that speaks as Argo CD does and TLS servers.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod authorization;
mod certificates;
mod credentials;
mod load;
mod plain;
mod process;
mod program;
mod proxies;
mod realms;
mod streams;
mod world;
