//! Command line and wiring of the program.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::ca::Ca;
use crate::environment::Environment;
use crate::folder;
use crate::forward::Proxy;
use crate::serve::serve;
use crate::sync::{Folders, Follower};
use crate::upstream::Upstream;

/// Between two looks at the folders.
const ROUND: Duration = Duration::from_millis(500);
/// Says, in the state folder, that the folder for Argo CD is complete.
const READY: &str = "ready";

#[derive(Debug, Parser)]
#[command(
    name = "credential-proxy",
    version,
    about = "Credential proxy of repo-server"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve.
    Run(Options),
    /// Succeed when a proxy with the same options is ready (startup probe).
    Ready(Place),
}

#[derive(Debug, Clone, Args)]
struct Place {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:15080")]
    listen: SocketAddr,
    /// Folder of the sidecar alone, in memory, for the CA's key.
    #[arg(long)]
    state: PathBuf,
}

#[derive(Debug, Clone, Args)]
struct Options {
    #[command(flatten)]
    place: Place,
    /// The volume view: one JSON file per binding.
    #[arg(long)]
    view: PathBuf,
    /// The mounted argocd-tls-certs-cm.
    #[arg(long, default_value = "/app/config/tls")]
    tls_source: PathBuf,
    /// The folder that ARGOCD_TLS_DATA_PATH names in Argo CD's container; SSL_CERT_DIR names its folder _authority.
    #[arg(long)]
    tls_data: PathBuf,
    /// How many seconds a request waits for the first credential.
    #[arg(long, default_value_t = 20)]
    wait: u64,
    /// How many seconds running transfers have left after SIGTERM.
    #[arg(long, default_value_t = 25)]
    grace: u64,
}

/// Runs the program. Needs a crypto provider to be installed.
pub async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(options) => {
            log();
            let outcome = run(options).await;
            outcome.map_err(|error| tracing::error!(error = format!("{error:#}"), "ended"))
        }
        // For kubelet's event, not for a log.
        Command::Ready(place) => ready(&place).map_err(|error| eprintln!("{error:#}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(()) => ExitCode::FAILURE,
    }
}

fn log() {
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
}

fn ready(place: &Place) -> anyhow::Result<()> {
    ensure!(
        place.state.join(READY).exists(),
        "the folder for Argo CD is not complete"
    );
    TcpStream::connect_timeout(&place.listen, Duration::from_secs(1))
        .with_context(|| format!("nothing listens on {}", place.listen))?;
    Ok(())
}

async fn run(options: Options) -> anyhow::Result<()> {
    ensure!(
        options.place.listen.ip().is_loopback(),
        "--listen {}: the proxy serves its own pod only",
        options.place.listen
    );
    raise_descriptor_limit();
    let ready = options.place.state.join(READY);
    let _ = fs::remove_file(&ready);
    let ca = Ca::open(&options.place.state)
        .with_context(|| format!("--state {}", options.place.state.display()))?;
    let system = rustls_native_certs::load_native_certs().certs;
    let folders = Folders {
        view: options.view,
        source: options.tls_source,
        tls_data: options.tls_data,
    };
    folder::write_authority(&folders.tls_data, ca.pem())
        .with_context(|| format!("--tls-data {}", folders.tls_data.display()))?;
    let (mut follower, followed) = Follower::new(folders, ca.pem(), folder::pem(&system));
    // Empty is fine; absent means that the volume is not mounted.
    follower.round().context("first look at the folders")?;
    let environment = Environment::read(|name| std::env::var(name).ok());
    let upstream = Upstream::new(environment, system);
    let wait = Duration::from_secs(options.wait);
    let proxy = Arc::new(Proxy::new(followed, ca, upstream, wait));
    let listener = TcpListener::bind(options.place.listen)
        .await
        .with_context(|| format!("--listen {}", options.place.listen))?;
    fs::write(&ready, b"").with_context(|| format!("{}", ready.display()))?;
    tracing::info!(listen = %options.place.listen, "ready");
    let mut terminate = signal(SignalKind::terminate())?;
    let (stop, stopping) = watch::channel(false);
    let grace = Duration::from_secs(options.grace);
    let served = serve(proxy, listener, stopping, grace);
    let terminated = async {
        terminate.recv().await;
        forget(&ready);
        tracing::info!("no new connections; running transfers may end");
        stop.send_replace(true);
    };
    tokio::select! {
        // Ends when it was told to.
        _ = async { tokio::join!(served, terminated) } => {}
        () = follow(follower) => {}
    }
    forget(&ready);
    Ok(())
}

/// Every connection takes two descriptors, one on each side. Go's programs
/// raise their soft limit in the same way.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "limit of open files");
    }
}

fn forget(ready: &Path) {
    let _ = fs::remove_file(ready);
}

/// Looks at the folders until the future is dropped.
pub async fn follow(mut follower: Follower) {
    loop {
        tokio::time::sleep(ROUND).await;
        let round = tokio::task::spawn_blocking(move || {
            let result = follower.round();
            (follower, result)
        });
        follower = match round.await {
            Ok((follower, result)) => {
                if let Err(error) = result {
                    tracing::warn!(%error, "folders");
                }
                follower
            }
            Err(error) => {
                tracing::error!(%error, "folders");
                return;
            }
        };
    }
}
