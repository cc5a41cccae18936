//! What agent and credential proxy have in common on their way out: which
//! addresses they do not connect to, and what a registry's challenge says.
//! Pure: text and addresses flow in, verdicts and named errors flow out.

pub mod addresses;
pub mod challenge;
