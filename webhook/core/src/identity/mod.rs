//! Identities: reviewed tokens and derived bindings flow in, the right to one
//! token or a named refusal flows out, and which algorithm signs it.

pub mod algorithm;
pub mod authorize;
