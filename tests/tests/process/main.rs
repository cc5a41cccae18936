//! The process tier: every trial against one running scene of real components.
//!
//! ```text
//!   main ─▶ sandbox ─▶ peers, programs ─▶ Scene ─▶ trials, four at a time ─▶ exit code
//! ```
//!
//! Each module has a table of [`Case`]s. A new trial is an async function and
//! a line in its module's table.

mod additions;
mod api;
mod case;
mod scene;
mod snapshot;
mod webhook;

mod argocd;
mod bad_input;
mod demo;
mod identity;
mod injection;
mod policies;
mod rotation;
mod secrets;
mod workloads;

use std::net::Ipv4Addr;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use harness::sandbox::{Isolation, Sandbox, interrupted};
use libtest_mimic::Arguments;
use tokio::runtime::Runtime;

use self::case::{Case, Stage};
use self::scene::Prepared;

/// Trials wait far more than they compute.
const THREADS: usize = 4;

/// As shells number an end by SIGINT.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("process tier: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let cases = cases();
    let selected = || cases.iter().filter(|case| case.is_selected(&arguments));
    if arguments.list || selected().count() == 0 {
        let trials = cases.iter().map(Case::name_only).collect();
        return Ok(libtest_mimic::run(&arguments, trials).exit_code());
    }

    let sandbox = Sandbox::enter(
        Isolation::Processes,
        Ipv4Addr::LOCALHOST,
        &harness::scene::HOSTS,
    )?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_provider| anyhow!("another crypto provider is installed already"))?;
    let prepared = Prepared::new(sandbox.run_dir())?;
    let runtime = Runtime::new().context("start the runtime")?;
    runtime.spawn(async {
        if interrupted().await.is_ok() {
            // With this process the sandbox ends, and with it every component.
            std::process::exit(INTERRUPTED);
        }
    });
    let stage = runtime.block_on(Stage::set(prepared, selected()))?;
    let trials = cases
        .iter()
        .map(|case| stage.trial(case, runtime.handle()))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(stage);
    Ok(conclusion.exit_code())
}

/// Every trial, in the order of their beginning: the long ones first, those
/// that need the scene for themselves, then those that need the machine.
fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        rotation::cases(),
        argocd::cases(),
        injection::cases(),
        workloads::cases(),
        secrets::cases(),
        identity::cases(),
        policies::cases(),
        bad_input::cases(),
        demo::cases(),
    ]
    .into_iter()
    .flatten()
    .collect();
    cases.sort_by_key(Case::turn);
    cases
}
