//! The user's commands beside `serve`: a command line flows in, documents flow
//! out to stdout or a folder, what is wrong flows out to stderr.
//!
//! ```text
//! files, stdin or the cluster ─▶ secrets ─▶ spire::identities (pure) ─┬▶ spire::plan ─▶ manifests | shell
//!                                                                     └▶ spire::lint ─▶ findings
//! the issuer's keys ─▶ issuer_documents ─▶ the files of a static host
//! ```

pub mod duration;
pub mod issuer_documents;
pub mod secrets;
pub mod spire;

use std::io::Write;

use clap::Subcommand;

/// What is to be generated.
#[derive(Debug, Subcommand)]
pub enum Generate {
    /// Print the registration entries that SPIRE needs for the identities of
    /// Argo CD's Secrets, and nothing more.
    Spire(Box<spire::SpireArgs>),
    /// Write the issuer's public documents for a static host.
    IssuerDocuments(Box<issuer_documents::DocumentsArgs>),
}

/// How a command ended that ran to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There is nothing to complain about.
    Clean,
    /// Something is wrong, and stderr says what.
    Flawed,
}

impl Outcome {
    fn flawed_if(flawed: bool) -> Self {
        if flawed { Self::Flawed } else { Self::Clean }
    }
}

/// Runs a command. Documents go to `out`, complaints to `err`.
///
/// # Errors
/// When a setting cannot be used, or a file or the cluster cannot be read.
pub async fn run(
    command: Generate,
    out: &mut impl Write,
    err: &mut impl Write,
) -> anyhow::Result<Outcome> {
    match command {
        Generate::Spire(args) => spire::run(*args, out, err).await,
        Generate::IssuerDocuments(args) => issuer_documents::run(*args, out, err).await,
    }
}
