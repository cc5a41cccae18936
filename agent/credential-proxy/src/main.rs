//! `credential-proxy`: see the library for what it does.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    // The one crypto provider of the process; an error means that one is set.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    credential_proxy::run::main().await
}
