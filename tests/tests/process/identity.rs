//! What the identity API gives, and what it refuses: the running control plane,
//! asked with tokens that the real API server made.
//!
//! Every refusal differs in one thing from a request that is granted.

pub(crate) mod bench;
mod bindings;
mod callers;
mod consumers;
mod forgery;
mod issued;
mod keys;
mod mirror;
mod requests;
mod service_accounts;

use crate::case::Case;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    [
        issued::cases(),
        callers::cases(),
        consumers::cases(),
        mirror::cases(),
        requests::cases(),
        bindings::cases(),
        service_accounts::cases(),
        keys::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
