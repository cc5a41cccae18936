//! The client of the API server, as the environment says.

use anyhow::Context;
use kube::Client;

/// The way to the API server, by the environment.
///
/// # Errors
/// When there is none.
pub async fn client() -> anyhow::Result<Client> {
    Client::try_default().await.context(
        "there is no way to the API server: run in a pod with a service account, or set KUBECONFIG",
    )
}
