//! The client of the API server, as the environment says.

use std::time::Duration;

use anyhow::Context;
use kube::{Client, Config};

/// The API server ends a watch after at most 295 s, and whoever waits longer for
/// a byte of it waits for a connection that is dead.
pub const SILENCE: Duration = Duration::from_secs(310);

/// A client that gives up a connection on which nothing comes any more: a list
/// or watch that hangs before its first byte would stand still for good.
///
/// # Errors
/// When the configuration cannot be used.
pub fn steady(mut config: Config) -> Result<Client, kube::Error> {
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    Client::try_from(config)
}

/// The way to the API server, by the environment.
///
/// # Errors
/// When there is none.
pub async fn client() -> anyhow::Result<Client> {
    let config = Config::infer().await.context(
        "there is no way to the API server: run in a pod with a service account, or set KUBECONFIG",
    )?;
    steady(config).context("the way to the API server cannot be used")
}
