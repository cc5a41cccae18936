//! Registers the driver with kubelet, without a sidecar. A socket in kubelet's
//! folder of plugins flows out; whether kubelet took the driver flows in.
//!
//! Kubelet watches that folder. A socket that appears there is asked who it is
//! (GetInfo) and told what became of it (NotifyRegistrationStatus); a socket
//! that disappears is deregistered, and from then on pods' events say that the
//! driver is not found. So the socket is there exactly while the driver serves.

pub mod proto;

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use shared::errors::{Code, Named};
use shared::layout;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use self::proto::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use super::services::registration_server::{Registration as Service, RegistrationServer};
use super::socket::{self, Bound, Standing};

/// End of the socket's name. Kubelet dials the path without naming an authority, so its gRPC library sends
/// the percent-encoded path as `:authority`; to the HTTP library here a percent sign is valid before an `@`
/// only (docs/decisions/0009).
const SOCKET: &str = "@registration.sock";

/// The kind of plugin, a word of kubelet's.
const PLUGIN_TYPE: &str = "CSIPlugin";
/// The version of CSI that kubelet has to know.
const CSI_VERSION: &str = "1.0.0";
/// First wait after a refusal. Kubelet asks again by itself, but after a while
/// only every two minutes.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// Longest wait after a refusal.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// A kubelet that runs asks a new socket within seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether the socket is still there.
const LOOK: Duration = Duration::from_secs(10);
/// What is said about [`State::Displaced`].
const DISPLACED: &str = "another process has taken over the registration socket";
/// The setting that errors name.
const FLAG: &str = "--registration-dir";

/// Where to register, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Kubelet's `plugins_registry`, as this process sees it.
    pub directory: PathBuf,
    /// The driver's socket, as kubelet sees it.
    pub csi_socket_on_host: String,
}

/// How the registration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Kubelet has not come yet.
    Waiting,
    /// Kubelet knows the driver.
    Registered,
    /// Kubelet refused, in these words.
    Refused(String),
    /// Another process put its own socket in the place of ours.
    Displaced,
}

impl State {
    /// What is missing, for a person; `None` when nothing is.
    pub fn missing(&self) -> Option<String> {
        match self {
            Self::Registered => None,
            Self::Waiting => Some("kubelet has not registered the CSI driver yet".to_owned()),
            Self::Refused(words) => Some(refusal(words).to_string()),
            Self::Displaced => Some(refusal(DISPLACED).to_string()),
        }
    }
}

fn refusal(words: &str) -> Named {
    let driver = layout::CSI_DRIVER;
    Named::new(
        Code::RegistrationRefused,
        format!("driver {driver}: {words}"),
    )
}

impl Registration {
    fn socket(&self) -> PathBuf {
        self.directory
            .join(format!("{}{SOCKET}", layout::CSI_DRIVER))
    }

    /// Removes the socket that an earlier process left, so that kubelet does
    /// not call a driver that does not serve yet.
    ///
    /// # Errors
    /// When there is something else in its place, or it cannot be removed.
    pub fn remove_stale(&self) -> anyhow::Result<()> {
        socket::remove_stale(&self.socket(), FLAG)
    }

    /// Keeps the driver registered until `shutdown`, then removes the socket.
    /// The driver's own socket has to be bound before.
    pub async fn run(self, state: watch::Sender<State>, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut wait = FIRST_WAIT;
        loop {
            tokio::select! {
                // Dropping the attempt removes its socket.
                () = &mut shutdown => return,
                result = self.attempt(&state, &mut wait) => if let Err(error) = result {
                    tracing::error!("{error:#}");
                    state.send_replace(State::Refused(format!("{error:#}")));
                    tokio::select! {
                        () = &mut shutdown => return,
                        () = sleep(wait) => wait = (wait * 2).min(LONGEST_WAIT),
                    }
                },
            }
            state.send_replace(State::Waiting);
        }
    }

    /// Serves one socket until it is of no use any more.
    async fn attempt(
        &self,
        state: &watch::Sender<State>,
        wait: &mut Duration,
    ) -> anyhow::Result<()> {
        let path = self.socket();
        // Bound before the server, so dropped after it: no socket outlives its file.
        let (listener, bound) = socket::bind(&path, FLAG)?;
        tokio::select! {
            result = self.serve(listener, state.clone()) => result,
            () = exhausted(state.subscribe(), wait) => {
                tracing::info!(socket = %path.display(), "kubelet is offered a new socket");
                Ok(())
            }
            () = lost(&bound, state) => Ok(()),
        }
    }

    async fn serve(
        &self,
        listener: UnixListener,
        state: watch::Sender<State>,
    ) -> anyhow::Result<()> {
        let plugin = Plugin {
            endpoint: self.csi_socket_on_host.clone(),
            state,
        };
        Server::builder()
            .add_service(RegistrationServer::new(plugin))
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .context("serve the registration socket")
    }
}

/// Returns when kubelet has refused for `wait`, or not come at all. A refused
/// socket stays in between: kubelet may change its mind.
async fn exhausted(mut state: watch::Receiver<State>, wait: &mut Duration) {
    let start = Instant::now();
    let mut refused_at = None;
    loop {
        let deadline = match &*state.borrow_and_update() {
            State::Waiting => Some(start + PATIENCE),
            State::Refused(_) => Some(*refused_at.get_or_insert_with(Instant::now) + *wait),
            State::Registered => {
                *wait = FIRST_WAIT;
                refused_at = None;
                None
            }
            State::Displaced => None,
        };
        match deadline {
            // An error means that nobody can say anything any more.
            None => drop(state.changed().await),
            Some(deadline) => {
                if timeout_at(deadline, state.changed()).await.is_err() {
                    *wait = (*wait * 2).min(LONGEST_WAIT);
                    return;
                }
            }
        }
    }
}

/// Returns when somebody removed the socket: kubelet has forgotten the driver.
/// While another process has its own there, that one serves the node; two that
/// replace each other would serve nobody.
async fn lost(bound: &Bound, state: &watch::Sender<State>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        match bound.standing() {
            Standing::Ours => {}
            Standing::Gone => {
                tracing::warn!("somebody removed the registration socket");
                return;
            }
            Standing::Replaced => {
                if state.send_replace(State::Displaced) != State::Displaced {
                    let error = refusal(DISPLACED);
                    tracing::error!(code = %error.code, "{error}");
                }
            }
        }
    }
}

/// Answers kubelet.
struct Plugin {
    endpoint: String,
    state: watch::Sender<State>,
}

#[tonic::async_trait]
impl Service for Plugin {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: PLUGIN_TYPE.to_owned(),
            name: layout::CSI_DRIVER.to_owned(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec![CSI_VERSION.to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        let state = match status.plugin_registered {
            true => {
                tracing::info!(driver = layout::CSI_DRIVER, "registered with kubelet");
                State::Registered
            }
            false => {
                let error = refusal(&status.error);
                tracing::error!(code = %error.code, "{error}");
                State::Refused(status.error)
            }
        };
        self.state.send_replace(state);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
