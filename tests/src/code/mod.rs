//! A code host: git over HTTPS and a Helm repository, for the robots of a registry.
//!
//! ```text
//!   Argo CD ──TLS──▶ gate: a robot's Basic credential, what it may read ──▶ Apache on loopback
//!                                                                            ├ /charts/  files
//!                                                                            └ /git/     git http-backend
//! ```
//!
//! Flows in: content by team, requests. Flows out: the content, `401` and `403` as any such host answers them,
//! and a journal of who read what. Web server and git's half are real; the gate stands in for the host's own
//! accounts.

mod apache;
mod content;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::http::header::WWW_AUTHENTICATE;
use axum::response::{IntoResponse as _, Response};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;

use crate::chart::Chart;
use crate::control_plane::ServerCertificate;
use crate::folders::create;
use crate::process::Process;
use crate::quay::{Accounts, lock};
use crate::relay::relay;

/// Its host name. Nothing resolves it but the tests' own hosts files and clients.
pub const HOST: &str = "code.example.test";

/// A running code host. It stops when this is dropped.
pub struct CodeHost {
    gate: Arc<Gate>,
    handle: Handle<SocketAddr>,
    folder: PathBuf,
    _apache: Process,
}

/// What [`CodeHost::start`] needs.
pub struct Options<'a> {
    /// A folder of its own, which anybody may enter.
    pub folder: &'a Path,
    /// A serving certificate for [`HOST`].
    pub certificate: &'a ServerCertificate,
    /// Whose robots it knows.
    pub accounts: Accounts,
}

/// One answered request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Path without query.
    pub path: String,
    /// The robot, if its credential was valid.
    pub robot: Option<String>,
    /// HTTP status of the answer.
    pub status: u16,
}

struct Gate {
    /// `code.example.test:<port>`.
    host: String,
    apache: String,
    accounts: Accounts,
    client: reqwest::Client,
    journal: Mutex<Vec<Request>>,
}

impl CodeHost {
    /// Starts both servers on free ports of loopback; both answer when this returns.
    ///
    /// # Errors
    /// When a port cannot be had or Apache does not get ready, with the end of its log.
    pub async fn start(options: Options<'_>) -> Result<Self> {
        let folder = create(options.folder.to_owned())?;
        let (apache, url) = apache::start(&folder).await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for it")?;
        listener
            .set_nonblocking(true)
            .context("prepare the socket")?;
        let port = listener.local_addr().context("it has no address")?.port();
        let gate = Arc::new(Gate {
            host: format!("{HOST}:{port}"),
            apache: url,
            accounts: options.accounts,
            client: reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .context("make an HTTP client")?,
            journal: Mutex::default(),
        });
        let (certificate, key) = (&options.certificate.certificate, &options.certificate.key);
        let tls = RustlsConfig::from_pem(certificate.clone().into(), key.clone().into())
            .await
            .context("read the code host's certificate")?;
        let handle = Handle::new();
        let routes = Router::new().fallback(answer).with_state(Arc::clone(&gate));
        let server = axum_server::from_tcp_rustls(listener, tls)
            .context("serve the code host")?
            .handle(handle.clone())
            .serve(routes.into_make_service());
        tokio::spawn(server);
        Ok(Self {
            gate,
            handle,
            folder,
            _apache: apache,
        })
    }

    /// Publishes the chart's files in a git repository of the team whose folder this is, and returns its URL.
    ///
    /// # Errors
    /// With git's own words.
    pub fn git_repository(&self, team: &str, name: &str, chart: &Chart<'_>) -> Result<String> {
        let below = content::repository(&self.folder, team, name, |to| chart.write(to))?;
        Ok(format!("https://{}/{below}", self.gate.host))
    }

    /// As [`CodeHost::git_repository`], for a chart that consists of others: charts and the URLs of their
    /// repositories.
    ///
    /// # Errors
    /// With git's own words.
    pub fn umbrella(
        &self,
        team: &str,
        chart: &Chart<'_>,
        dependencies: &[(&Chart<'_>, &str)],
    ) -> Result<String> {
        let write = |to: &Path| chart.write_umbrella(to, dependencies);
        let below = content::repository(&self.folder, team, chart.name, write)?;
        Ok(format!("https://{}/{below}", self.gate.host))
    }

    /// Publishes the chart in a Helm repository of the team whose folder this is, and returns its URL.
    ///
    /// # Errors
    /// With Helm's own words.
    pub fn helm_repository(&self, helm: &Path, team: &str, chart: &Chart<'_>) -> Result<String> {
        let below = content::charts(&self.folder, helm, team, chart)?;
        Ok(format!("https://{}/{below}", self.gate.host))
    }

    /// Every request answered so far, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.gate.journal).clone()
    }
}

impl Drop for CodeHost {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

async fn answer(State(gate): State<Arc<Gate>>, request: HttpRequest) -> Response {
    let path = request.uri().path().to_owned();
    let robot = gate.accounts.robot(request.headers());
    // `/<service>/<team>/…`
    let file = path.splitn(3, '/').nth(2).unwrap_or_default();
    let response = match &robot {
        None => {
            let challenge = [(WWW_AUTHENTICATE, "Basic realm=\"code\"")];
            (StatusCode::UNAUTHORIZED, challenge).into_response()
        }
        Some(robot) if robot.may_read(file) => {
            relay(&gate.client, &gate.apache, &gate.host, request).await
        }
        Some(_) => StatusCode::FORBIDDEN.into_response(),
    };
    lock(&gate.journal).push(Request {
        path,
        robot: robot.map(|robot| robot.name),
        status: response.status().as_u16(),
    });
    response
}
