//! `exec-auth`: prints the ExecCredential that the agent wrote for a cluster,
//! in the version that the caller wants. client-go runs it in Argo CD's
//! application-controller and server (exec plugin).
//!
//! Arguments and environment flow in, one line of JSON flows out. It opens no
//! connection and needs no privilege: the credential is in the pod's volume.

use std::io::Write;
use std::process::ExitCode;

mod arguments;
mod claims;
mod credential;

use shared::errors::{Code, Named};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exec-auth: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Named> {
    let request = arguments::read(std::env::args().skip(1), |name| std::env::var(name).ok())?;
    let credential = credential::wait(&request)?.in_version(request.api_version);
    let unwritable = |error: String| Named::new(Code::CredentialUnreadable, error);
    let json = credential
        .render()
        .map_err(|error| unwritable(error.to_string()))?;
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&json)
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush())
        .map_err(|error| unwritable(format!("standard output: {error}")))
}
