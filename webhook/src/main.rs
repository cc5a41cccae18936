//! The binary `argocd-identity`: see the library for what it does.

use std::process::ExitCode;

use clap::Parser;
use webhook::args::Args;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // The one crypto provider of the process; an error means that one is set.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    args.run().await
}
