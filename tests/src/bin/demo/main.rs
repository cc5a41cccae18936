//! `cargo demo`: the whole job on real components, told step by step.
//!
//! Ends with the line `demo: ok`, or with exit code 1 and the error that
//! stopped it.

mod injected;
mod secrets;
mod story;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use harness::sandbox::{Isolation, Sandbox, interrupted};
use harness::scene;

use self::story::Story;

/// Stock Argo CD syncs a private Helm chart to a remote cluster, with no stored credential anywhere.
#[derive(Debug, Parser)]
#[command(name = "cargo demo")]
struct Arguments {
    /// Leave everything running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Write times and credentials as JSON to this file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match play(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            story::say(format_args!("demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn play(arguments: &Arguments) -> Result<()> {
    let sandbox = Sandbox::enter(Isolation::Processes, Ipv4Addr::LOCALHOST, &scene::HOSTS)?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_provider| anyhow!("another crypto provider is installed already"))?;
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    runtime.block_on(async {
        tokio::select! {
            ended = Story::default().play(sandbox.run_dir(), arguments) => ended,
            ended = interrupted() => {
                ended?;
                if arguments.keep { Ok(()) } else { Err(anyhow!("interrupted")) }
            }
        }
    })
}
