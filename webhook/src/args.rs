//! The command line: arguments flow in, the part of the program that they ask
//! for runs. The only place that knows every subcommand.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{
    config::ServeArgs,
    generate::{self, Generate, Outcome},
    log, run,
};

/// The control plane of argocd-workload-identity.
#[derive(Debug, Parser)]
#[command(name = "argocd-identity", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run admission, controller, identity API and issuer.
    Serve(Box<ServeArgs>),
    /// Print or write what other systems need to work with this installation.
    #[command(subcommand)]
    Generate(Generate),
}

impl Args {
    /// Does what the arguments say. An error is one line on stderr.
    pub async fn run(self) -> ExitCode {
        let outcome = match self.command {
            Command::Serve(args) => serve(*args).await,
            Command::Generate(what) => {
                generate::run(what, &mut io::stdout(), &mut io::stderr()).await
            }
        };
        match outcome {
            Ok(Outcome::Clean) => ExitCode::SUCCESS,
            Ok(Outcome::Flawed) => ExitCode::FAILURE,
            Err(error) => {
                // Nobody is left to tell when this fails.
                let _ = writeln!(io::stderr(), "argocd-identity: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

async fn serve(args: ServeArgs) -> anyhow::Result<Outcome> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    log::init(filter, io::stderr());
    run::run(args).await.map(|()| Outcome::Clean)
}
