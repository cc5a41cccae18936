//! `generate spire`: Argo CD's Secrets flow in, the registration entries for
//! exactly their identities flow out, and what would keep SPIRE from issuing
//! them or targets from taking them.
//!
//! Architecture invariant: who is registered comes from [`Derivation`], as in
//! admission, controller and identity API; nothing here makes a SPIFFE ID of a
//! Secret.
//!
//! [`Derivation`]: control_plane_core::derive::Derivation

pub mod args;
pub mod identities;
pub mod lint;
mod manifests;
mod plan;
pub mod server_config;
mod shell;

use std::{
    io::{self, Read, Write},
    path::Path,
};

use anyhow::Context;
use zeroize::Zeroizing;

use self::{
    args::{Format, Settings},
    identities::Identities,
};
use super::{Outcome, secrets};
use crate::kube::client::client;

pub use args::SpireArgs;

/// Runs the command.
///
/// # Errors
/// When a setting cannot be used, or a file or the cluster cannot be read.
pub async fn run(
    args: SpireArgs,
    out: &mut impl Write,
    err: &mut impl Write,
) -> anyhow::Result<Outcome> {
    let settings = Settings::try_from(args)?;
    let identities = collect(&settings).await?;
    let config = match &settings.server_config {
        Some(path) => Some(
            std::fs::read_to_string(path)
                .with_context(|| format!("--spire-server-config {}", path.display()))?,
        ),
        None => None,
    };
    let findings = lint::findings(&settings, &identities, config.as_deref());
    for problem in &identities.problems {
        writeln!(err, "error: {problem}")?;
    }
    for finding in &findings {
        writeln!(err, "finding: {finding}")?;
    }
    if !settings.lint_only {
        out.write_all(render(&settings, &identities).as_bytes())?;
    }
    Ok(Outcome::flawed_if(
        !identities.problems.is_empty() || settings.lint_only && !findings.is_empty(),
    ))
}

async fn collect(settings: &Settings) -> anyhow::Result<Identities> {
    let derivation = &settings.derivation;
    let mut identities = Identities::default();
    if settings.files.is_empty() {
        let client = client().await?;
        let take = |secret: &_| identities.add(derivation, secret);
        secrets::live(&client, &settings.namespaces, take).await?;
    }
    for path in &settings.files {
        let text = read(path).with_context(|| format!("--filename {}", path.display()))?;
        let source = path.display().to_string();
        let take = |secret: &_| identities.add(derivation, secret);
        // Settings have at least the default namespace.
        let problems = secrets::parse(&source, &text, &settings.namespaces[0], take);
        identities.problems.extend(problems);
    }
    Ok(identities)
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    if path == Path::new("-") {
        let mut text = Zeroizing::new(String::new());
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map(Zeroizing::new)
}

fn render(settings: &Settings, identities: &Identities) -> String {
    match settings.format {
        Format::ClusterStaticEntries => manifests::static_entries(settings, identities),
        Format::EntryCreate => shell::entry_create(settings, identities),
        Format::ClusterSpiffeIds => manifests::spiffe_ids(settings, identities),
    }
}

#[cfg(test)]
mod tests;
