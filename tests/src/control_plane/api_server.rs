//! One kube-apiserver process and the clients and kubeconfigs for it.
//!
//! What every cluster of the tests has in common is here; [`super::ControlPlane`] and
//! [`super::RemoteCluster`] add what makes each of them what it is.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddrV4;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use kube::config::AuthInfo;
use kube::{Client, Config};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::json;

use super::authority::Authority;
use super::etcd::Etcd;
use crate::peers::Peers;
use crate::process::Process;

/// Time that a kube-apiserver may take until it is ready, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Names that every API server's certificate is valid for.
const NAMES: &[&str] = &[
    "localhost",
    "127.0.0.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// A user of the static token file.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) token: String,
    name: String,
    group: &'static str,
}

impl User {
    /// A member of `system:masters`.
    pub(super) fn admin() -> Result<Self> {
        Self::new("admin".to_owned(), "system:masters")
    }

    /// What a kubelet of that node is.
    pub(super) fn node(node: &str) -> Result<Self> {
        Self::new(format!("system:node:{node}"), "system:nodes")
    }

    fn new(name: String, group: &'static str) -> Result<Self> {
        let mut random = [0; 24];
        aws_lc_rs::rand::fill(&mut random).context("draw a token")?;
        Ok(Self {
            token: URL_SAFE_NO_PAD.encode(random),
            name,
            group,
        })
    }
}

/// How one API server differs from another.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    pub(super) name: &'a str,
    /// Where it listens, and what others call it by.
    pub(super) address: SocketAddrV4,
    pub(super) service_account_issuer: &'a str,
    pub(super) extra_names: &'a [String],
    pub(super) users: &'a [User],
    pub(super) flags: Vec<OsString>,
}

/// A running kube-apiserver. Ends when dropped.
#[derive(Debug)]
pub(super) struct ApiServer {
    process: Process,
    dir: PathBuf,
    address: SocketAddrV4,
    authority: Authority,
    admin_token: String,
}

impl ApiServer {
    /// Starts it in `<dir>/<name>`; the first of the users is the admin. Returns before it is ready.
    pub(super) fn start(
        dir: &Path,
        peers: &Peers,
        etcd: &Etcd,
        settings: Settings<'_>,
    ) -> Result<Self> {
        let dir = dir.join(settings.name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("create {}", dir.display()))?;
        let authority = Authority::new(&format!("{} test CA", settings.name))?;
        let names: Vec<&str> = NAMES
            .iter()
            .copied()
            .chain(settings.extra_names.iter().map(String::as_str))
            .collect();
        let address = settings.address;
        let ip = address.ip().to_string();
        let names: Vec<&str> = names.into_iter().chain([ip.as_str()]).collect();
        let server = authority.issue(&names)?;
        // RSA, because that is what almost every real cluster signs its tokens with.
        let signer = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
            .context("generate a service account key")?;
        let users: String = settings
            .users
            .iter()
            .map(|user| format!("{0},{1},{1},{2}\n", user.token, user.name, user.group))
            .collect();
        let admin_token = settings
            .users
            .first()
            .map(|user| user.token.clone())
            .context("an API server needs an admin")?;

        let mut command = Command::new(peers.kube_apiserver());
        let mut file = |flag: &str, name: &str, content: &str| -> Result<()> {
            let path = dir.join(name);
            write_private(&path, content)?;
            command.arg(flag).arg(path);
            Ok(())
        };
        file("--tls-cert-file", "tls.crt", &server.certificate)?;
        file("--tls-private-key-file", "tls.key", &server.key)?;
        file("--token-auth-file", "users.csv", &users)?;
        file(
            "--service-account-signing-key-file",
            "sa.key",
            &signer.serialize_pem(),
        )?;
        file(
            "--service-account-key-file",
            "sa.pub",
            &signer.public_key_pem(),
        )?;
        write_private(&dir.join("ca.crt"), authority.pem())?;
        command
            .args(["--etcd-servers", etcd.url()])
            .args(["--etcd-prefix", &format!("/{}", settings.name)])
            .args(["--bind-address", &ip, "--advertise-address", &ip])
            .args(["--secure-port", &address.port().to_string()])
            .args(["--service-cluster-ip-range", "10.96.0.0/16"])
            .args(["--service-account-issuer", settings.service_account_issuer])
            // Tokens must live as long as they say: expiry is what the tests are about.
            .arg("--service-account-extend-token-expiration=false")
            .args(["--authorization-mode", "Node,RBAC"])
            // Added to those that are on by default.
            .args(["--enable-admission-plugins", "NodeRestriction"])
            .arg("--allow-privileged=true")
            .arg("--profiling=false")
            .args(&settings.flags);
        if address.ip().is_loopback() {
            // No Endpoints object may hold such an address.
            command.args(["--endpoint-reconciler-type", "none"]);
        }
        // It needs seconds to end in good order, for nothing: its state is thrown away.
        let process = Process::start(settings.name, &mut command, &dir)?.with_grace(Duration::ZERO);
        Ok(Self {
            process,
            dir,
            address,
            authority,
            admin_token,
        })
    }

    /// Waits until every one of its own readiness checks passes.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let authority =
            reqwest::Certificate::from_pem(self.ca_pem().as_bytes()).context("read the test CA")?;
        let http = reqwest::Client::builder()
            .tls_certs_only([authority])
            .no_proxy()
            .build()
            .context("make an HTTP client")?;
        let url = format!("{}/readyz", self.url());
        let (http, url, token) = (&http, &url, self.admin_token.clone());
        let token = &token;
        self.process
            .ready(LIMIT, || async move {
                let answer = http.get(url).bearer_auth(token).send().await?;
                let status = answer.status();
                let text = answer.text().await?;
                ensure!(status.is_success(), "{status}: {text}");
                Ok(())
            })
            .await
    }

    /// The process, to wait for what only this kind of cluster has to be able to do.
    pub(super) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(super) fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn admin_token(&self) -> &str {
        &self.admin_token
    }

    pub(super) fn client_with_token(&self, token: &str) -> Result<Client> {
        let url = self.url().parse().context("address of the API server")?;
        let mut config = Config::new(url);
        config.root_cert = Some(vec![self.authority.der().to_vec()]);
        config.auth_info = AuthInfo {
            token: Some(token.to_owned().into()),
            ..AuthInfo::default()
        };
        Client::try_from(config).context("make a Kubernetes client")
    }

    pub(super) fn kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{
                "name": name,
                "cluster": {
                    "server": self.url(),
                    "certificate-authority-data": STANDARD.encode(self.ca_pem()),
                },
            }],
            "users": [{ "name": name, "user": { "token": token } }],
            "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        });
        let path = self.dir.join(format!("{name}.kubeconfig"));
        write_private(&path, &config.to_string())?;
        Ok(path)
    }
}

/// Writes a file that only its owner may read: most of these are keys or tokens.
pub(super) fn write_private(path: &Path, content: &str) -> Result<()> {
    let write = || {
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?
            .write_all(content.as_bytes())
    };
    write().with_context(|| format!("write {}", path.display()))
}
