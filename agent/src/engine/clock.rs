//! The two clocks.

use jiff::Timestamp;
use tokio::time::Instant;

use crate::refresh::Now;

/// Reads both clocks. Tests say where the wall clock started, which then moves
/// with tokio's clock, and jumps when they say something else.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pub(super) start: Instant,
    pub(super) fixed_start: Option<fn() -> Timestamp>,
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self {
            start: Instant::now(),
            fixed_start: None,
        }
    }

    pub(super) fn now(&self) -> Now {
        let mono = self.start.elapsed();
        let wall = match self.fixed_start {
            Some(start) => start().checked_add(mono).unwrap_or(Timestamp::MAX),
            None => Timestamp::now(),
        };
        Now { wall, mono }
    }
}
