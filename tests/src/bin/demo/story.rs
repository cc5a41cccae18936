//! What is told, step by step, and what is left of it at the end.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Writes one line to standard output. Nobody listening is no reason to stop.
pub(crate) fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// What the report file has.
#[derive(Debug, Serialize)]
pub(crate) struct Story {
    #[serde(skip)]
    begin: Instant,
    steps: Vec<Step>,
    credentials: Vec<Credential>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Step {
    seconds: f64,
    what: String,
}

/// A credential as the table at the end shows it.
#[derive(Debug, Serialize)]
pub(crate) struct Credential {
    pub(crate) target: String,
    pub(crate) identity: String,
    pub(crate) expires: String,
    pub(crate) rotations: u64,
}

impl Default for Story {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            steps: Vec::new(),
            credentials: Vec::new(),
            seconds: 0.0,
        }
    }
}

impl Story {
    /// Tells one step.
    pub(crate) fn step(&mut self, what: impl Into<String>) {
        let (seconds, what) = (self.begin.elapsed().as_secs_f64(), what.into());
        say(format_args!("[{seconds:6.1}s] {what}"));
        self.steps.push(Step { seconds, what });
    }

    /// Tells a line that belongs to the step before.
    pub(crate) fn detail(&self, line: impl fmt::Display) {
        say(format_args!("            {line}"));
    }

    /// Shows the credentials, writes the report and says that all is well.
    pub(crate) fn end(mut self, credentials: Vec<Credential>, report: Option<&Path>) -> Result<()> {
        self.credentials = credentials;
        self.print_table();
        self.seconds = self.begin.elapsed().as_secs_f64();
        if let Some(path) = report {
            let json = serde_json::to_vec_pretty(&self).context("write the report")?;
            fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
        }
        say("demo: ok");
        Ok(())
    }

    fn print_table(&self) {
        let row = |a: &str, b: &str, c: &str, d: &str| {
            say(format_args!("{a:<43}  {b:<66}  {c:<20}  {d}"))
        };
        say("");
        row("TARGET", "IDENTITY", "EXPIRES", "ROTATIONS");
        for it in &self.credentials {
            row(
                &it.target,
                &it.identity,
                &it.expires,
                &it.rotations.to_string(),
            );
        }
        say("");
    }
}
