//! The binary `argocd-identity`: see the library for what it does.

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use webhook::{config::Cli, run};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    // The one crypto provider of the process; an error means that one is set.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run::run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("argocd-identity: {error:#}");
            ExitCode::FAILURE
        }
    }
}
