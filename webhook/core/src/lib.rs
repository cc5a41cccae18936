//! The decisions of the control plane: Argo CD's objects and the
//! installation's settings flow in as plain data, patches, bindings and named
//! errors flow out.
//!
//! ```text
//! admission ─┐                      ┌─▶ annotations, settings
//! bindings ──┼─▶ derive, proxy_key ─┴─▶ secret
//! identity ──┘
//! all of them ─▶ shared (the contract with the agents)
//! ```
//!
//! Architecture invariant: there is no IO here, no clock and no randomness.
//! Time, keys and random bytes are arguments.

pub mod admission;
pub mod annotations;
pub mod bindings;
pub mod derive;
pub mod identity;
pub mod proxy_key;
pub mod secret;
pub mod settings;
