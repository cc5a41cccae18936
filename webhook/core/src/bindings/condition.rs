//! The words that conditions are made of.

/// The condition that says whether credentials are where they are needed.
pub const READY: &str = "Ready";
/// The condition that says whether something is wrong.
pub const DEGRADED: &str = "Degraded";

pub(super) const TRUE: &str = "True";
pub(super) const FALSE: &str = "False";
pub(super) const UNKNOWN: &str = "Unknown";

pub(super) const NO_CONSUMER: &str = "no-consumer";
pub(super) const PENDING: &str = "pending";
pub(super) const IS_READY: &str = "ready";
pub(super) const AS_EXPECTED: &str = "as-expected";

/// What conditions are made of besides the catalogue's codes and sentences.
pub(super) const WORDS: [&str; 7] = [
    TRUE,
    FALSE,
    UNKNOWN,
    NO_CONSUMER,
    PENDING,
    IS_READY,
    AS_EXPECTED,
];
