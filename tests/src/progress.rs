//! What takes long says so, with the time since the program began.
//!
//! Written straight to [`io::stderr`], which a test runner's capture of
//! `print!` does not reach: a build of several minutes must not look like a hang.

use std::fmt;
use std::io::{self, Write as _};
use std::sync::LazyLock;
use std::time::Instant;

static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Writes one line of progress to standard error: seconds since the first such line, then `what`.
///
/// A closed standard error is no reason to stop a test, so a failed write is ignored.
pub fn step(what: impl fmt::Display) {
    let at = BEGIN.elapsed().as_secs_f64();
    let _ = writeln!(io::stderr().lock(), "[{at:7.1}s] {what}");
}
