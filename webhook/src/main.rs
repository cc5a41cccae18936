//! The binary `argocd-identity`: see the library for what it does.

use std::{io, process::ExitCode};

use clap::Parser;
use tracing_subscriber::EnvFilter;
use webhook::{
    cli::{self, Outcome},
    config::{Cli, Command, ServeArgs},
    log, run,
};

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    // The one crypto provider of the process; an error means that one is set.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let outcome = match command {
        Command::Serve(args) => serve(*args).await,
        Command::Generate(what) => cli::run(what, &mut io::stdout(), &mut io::stderr()).await,
    };
    match outcome {
        Ok(Outcome::Clean) => ExitCode::SUCCESS,
        Ok(Outcome::Flawed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("argocd-identity: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: ServeArgs) -> anyhow::Result<Outcome> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    log::init(filter, io::stderr());
    run::run(args).await.map(|()| Outcome::Clean)
}
