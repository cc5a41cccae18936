//! `cargo demo`: the whole job on real components, told step by step.
//!
//! Ends with the line `demo: ok`, or with exit code 1 and the error that
//! stopped it.

mod certificate;
mod injected;
mod job;
mod node;
mod processes;
mod secrets;
mod story;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use harness::cluster::ADDRESS;
use harness::identities::Choice;
use harness::sandbox::{Isolation, Sandbox, interrupted};
use harness::{node_scene, scene};

/// Stock Argo CD syncs a private Helm chart to a remote cluster, with no stored credential anywhere.
#[derive(Debug, Parser)]
#[command(name = "cargo demo")]
struct Arguments {
    /// Run it in real pods: on a node with kubelet and containerd, in a network of its own.
    #[arg(long)]
    node: bool,
    #[command(flatten)]
    identity: Choice,
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
    let sandbox = if arguments.node {
        if Sandbox::is_outside() {
            Sandbox::require_root()?;
            node_scene::Prepared::new()?;
        }
        Sandbox::enter(Isolation::Node, ADDRESS, &node_scene::HOSTS, &[])?
    } else {
        Sandbox::enter(
            Isolation::Processes,
            Ipv4Addr::LOCALHOST,
            &scene::HOSTS,
            &[],
        )?
    };
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_provider| anyhow!("another crypto provider is installed already"))?;
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let told = async {
        let folder = sandbox.run_dir();
        if arguments.node {
            node::play(folder, arguments).await
        } else {
            processes::play(folder, arguments).await
        }
    };
    runtime.block_on(async {
        tokio::select! {
            ended = told => ended,
            ended = interrupted() => {
                ended?;
                if arguments.keep { Ok(()) } else { Err(anyhow!("interrupted")) }
            }
        }
    })
}

/// Tells how to look around, and waits for Ctrl-C.
async fn keep(kubeconfig: &Path) {
    story::say(format_args!(
        "\nexport KUBECONFIG={}\n",
        kubeconfig.display()
    ));
    story::say("Everything keeps running until Ctrl-C.");
    std::future::pending().await
}
