//! Errors flow in, one line for a log flows out.

use std::{error::Error, fmt::Write};

/// An error and its causes, joined by colons. Display names only the step that
/// failed, and JSON logs would lose the rest.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String does not fail.
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read tls.crt")]
    struct Step(#[source] io::Error);

    #[test]
    fn causes_follow_the_step() {
        let error = Step(io::Error::other("gone"));
        assert_eq!(chain(&error), "cannot read tls.crt: gone");
    }
}
