//! The program's log: events flow in, lines of JSON flow out.

use std::{
    io::Write,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Logs from now on what `filter` lets through, a line of JSON for each event.
pub fn init(filter: EnvFilter, writer: impl Write + Send + 'static) {
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(Lines(Mutex::new(writer)))
        .init();
}

/// A writer that one event at a time has.
struct Lines<W>(Mutex<W>);

impl<'w, W: Write + 'w> MakeWriter<'w> for Lines<W> {
    type Writer = Line<'w, W>;

    fn make_writer(&'w self) -> Line<'w, W> {
        // Each event is a single write, so a panic leaves whole lines.
        Line(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Line<'w, W>(MutexGuard<'w, W>);

impl<W: Write> Write for Line<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}
