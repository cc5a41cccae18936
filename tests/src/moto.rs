//! moto_server, a program that speaks AWS' protocols: STS, IAM and ECR.
//!
//! Flows in: roles and what they may do. Flows out: sessions, and answers to requests whose signatures moto verifies as
//! botocore makes them. It does not look at web identity tokens, knows no ECR Public, and all passwords of an account
//! are the same, with an expiry in 2015: [`crate::aws`] has those.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::Certificate;
use reqwest::header::AUTHORIZATION;
use serde_json::json;

use crate::control_plane::Authority;
use crate::peers;
use crate::ports;
use crate::process::{Process, tail};

const READY: Duration = Duration::from_secs(60);
const IAM: &str = "iam.amazonaws.com";
const SCOPE: &str =
    "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/iam/aws4_request, Signature=a";
/// The account that everything is in.
pub const ACCOUNT: &str = "123456789012";

/// A running moto_server. It stops when this is dropped.
pub struct Moto {
    /// Where it listens, with TLS.
    pub address: SocketAddr,
    client: reqwest::Client,
    process: Process,
}

impl Moto {
    /// Starts it as each of `hosts`, with a certificate of `authority` and its log below `folder`, and waits until it
    /// answers.
    ///
    /// # Errors
    /// When it cannot be installed, or does not get ready, with the end of its log.
    pub async fn start(authority: &Authority, hosts: &[&str], folder: &Path) -> Result<Self> {
        let packages = tokio::task::spawn_blocking(peers::moto).await??;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?));
        let certificate = authority.issue(&[hosts, &[IAM]].concat())?;
        let (chain, key) = (folder.join("moto.crt"), folder.join("moto.key"));
        std::fs::write(&chain, certificate.certificate).context("write moto's certificate")?;
        std::fs::write(&key, certificate.key).context("write moto's key")?;
        let mut process = Process::start(
            "moto",
            Command::new("python3")
                .args(["-m", "moto.server", "--host", "127.0.0.1", "--port"])
                .arg(address.port().to_string())
                .arg("--ssl-cert")
                .arg(&chain)
                .arg("--ssl-key")
                .arg(&key)
                .env("PYTHONPATH", packages),
            folder,
        )?
        .with_grace(Duration::ZERO);
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([Certificate::from_pem(authority.pem().as_bytes())?])
            .resolve(IAM, address)
            .build()
            .context("make an HTTP client")?;
        let url = format!("https://{IAM}:{}/moto-api/data.json", address.port());
        process
            .ready(READY, || async {
                client.get(&url).send().await?.error_for_status()?;
                Ok(())
            })
            .await?;
        Ok(Self {
            address,
            client,
            process,
        })
    }

    /// Makes a role of [`ACCOUNT`] that may do `actions` on everything; its ARN.
    ///
    /// # Errors
    /// When moto refuses.
    pub async fn add_role(&self, name: &str, actions: &[&str]) -> Result<String> {
        let policy = |action: &[&str]| {
            let statement = json!({ "Effect": "Allow", "Action": action, "Resource": "*" });
            json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string()
        };
        let principal = json!({ "Federated": "*" });
        let trust = json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRoleWithWebIdentity",
        }] });
        self.iam(&[
            ("Action", "CreateRole"),
            ("RoleName", name),
            ("AssumeRolePolicyDocument", &trust.to_string()),
        ])
        .await?;
        if !actions.is_empty() {
            self.iam(&[
                ("Action", "PutRolePolicy"),
                ("RoleName", name),
                ("PolicyName", "all"),
                ("PolicyDocument", &policy(actions)),
            ])
            .await?;
        }
        Ok(format!("arn:aws:iam::{ACCOUNT}:role/{name}"))
    }

    /// From now on one request passes unsigned, as a web identity's does; of every later one signature and permissions
    /// are checked.
    ///
    /// # Errors
    /// When moto does not answer.
    pub async fn verify_after_one(&self) -> Result<()> {
        let url = format!("https://{IAM}:{}/moto-api/reset-auth", self.address.port());
        self.client
            .post(url)
            .body("1")
            .send()
            .await?
            .error_for_status()?;
        Ok(())
    }

    /// The end of its log, for a test that fails.
    #[must_use]
    pub fn log(&self) -> String {
        tail(self.process.log())
    }

    async fn iam(&self, form: &[(&str, &str)]) -> Result<()> {
        let url = format!("https://{IAM}:{}/", self.address.port());
        let form = [form, &[("Version", "2010-05-08")]].concat();
        // By this header moto tells which service is meant; before `verify_after_one` it reads no more of it.
        let request = self.client.post(url).header(AUTHORIZATION, SCOPE);
        let answer = request.form(&form).send().await?;
        let status = answer.status();
        ensure!(
            status.is_success(),
            "moto: {status}: {}",
            answer.text().await?
        );
        Ok(())
    }
}
