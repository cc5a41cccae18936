//! CredentialBindings: what is known of Secrets, bindings, pods and nodes flows
//! in, which bindings to look at and what to do about each flow out.
//!
//! ```text
//! events ─▶ world ─▶ queue ─▶ (a look at the Secret) ─▶ plan ─▶ manifests
//!             │ claims                                    │
//!             └──────────────── snapshot ────────────────▶└▶ status ─▶ conditions
//! ```
//!
//! Architecture invariant: work is proportional to what has changed. The world
//! keeps what routes events and decides, not the objects.

pub mod binding;
pub mod claims;
pub mod condition;
mod listed;
pub mod manifests;
pub mod plan;
pub mod pod;
pub mod queue;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod world;

/// Field manager of what the controller applies; also its name in events.
pub const FIELD_MANAGER: &str = "argocd-identity";
