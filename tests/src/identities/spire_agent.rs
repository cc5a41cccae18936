//! A SPIRE agent: the test server, or a real one whose socket is known.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use x509_parser::parse_x509_certificate;

use super::Kind;
use crate::folders::create;
use crate::installation::TRUST_DOMAIN;
use crate::spire::proto::{delegated, workload};
use crate::spire::{DelegatedIdentityClient, Entry, SpiffeWorkloadApiClient, Spire};

/// What SPIRE attests of the credential agent's pod.
pub(super) const AGENT: [&str; 2] = ["k8s:ns:argocd-identity", "k8s:sa:argocd-identity-agent"];
/// For a real agent's answer.
const LIMIT: Duration = Duration::from_secs(10);

/// A SPIRE agent that runs.
pub(super) struct SpireAgent {
    /// Of the Delegated Identity API, or of the Workload API.
    pub(super) socket: PathBuf,
    /// The trust domain's JWKS document.
    pub(super) keys: Value,
    /// Of its X.509-SVIDs, each DER.
    pub(super) authorities: Vec<Vec<u8>>,
    stand_in: Option<Spire>,
}

impl SpireAgent {
    /// Starts the test server.
    pub(super) fn stand_in(kind: Kind, folder: &Path, issuer_url: &str) -> Result<Self> {
        let spire = Spire::start(&create(folder.join("spire"))?, TRUST_DOMAIN)?;
        spire.set_issuer(Some(issuer_url));
        spire.set_workload(&AGENT);
        let socket = match kind {
            Kind::WorkloadApi => spire.workload_socket(),
            _ => spire.admin_socket(),
        };
        Ok(Self {
            socket: socket.to_owned(),
            keys: spire.jwks(),
            authorities: spire.x509_bundle(),
            stand_in: Some(spire),
        })
    }

    /// Asks a real agent for its trust domain's bundles.
    pub(super) async fn real(kind: Kind, socket: &Path) -> Result<Self> {
        let asked = async {
            let shown = socket.display();
            let channel = Endpoint::try_from(format!("unix://{shown}"))?
                .connect()
                .await
                .with_context(|| format!("connect to {shown}"))?;
            match kind {
                Kind::WorkloadApi => of_workload_api(channel).await,
                _ => of_delegated_api(channel).await,
            }
        };
        let (keys, authorities) = timeout(LIMIT, asked)
            .await
            .context("the SPIRE agent does not answer")??;
        let domain = format!("spiffe://{TRUST_DOMAIN}");
        let keys = keys.get(&domain).with_context(|| {
            format!("the SPIRE agent has no bundle of {domain}, which the demo's identities are in")
        })?;
        Ok(Self {
            socket: socket.to_owned(),
            keys: serde_json::from_slice(keys).context("read the JWT bundle")?,
            authorities: certificates(authorities.get(&domain).map_or(&[], Vec::as_slice))?,
            stand_in: None,
        })
    }

    pub(super) fn is_stand_in(&self) -> bool {
        self.stand_in.is_some()
    }

    /// A JWT-SVID of the test server for somebody who need not be registered. A real agent gives nobody one that
    /// is not.
    pub(super) fn token(&self, spiffe_id: &str, audience: &str) -> Result<Option<String>> {
        let sign = |spire: &Spire| spire.jwt_svid(spiffe_id, audience);
        self.stand_in.as_ref().map(sign).transpose()
    }

    /// Registers an entry with the test server.
    pub(super) fn register(&self, entry: Entry) {
        if let Some(spire) = &self.stand_in {
            spire.add(entry);
        }
    }
}

/// The certificates of a bundle, which has them one after the other.
fn certificates(mut bundle: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    while !bundle.is_empty() {
        let (rest, _) = parse_x509_certificate(bundle).context("read the X.509 bundle")?;
        let (one, _) = bundle.split_at(bundle.len() - rest.len());
        found.push(one.to_vec());
        bundle = rest;
    }
    Ok(found)
}

type Bundles = (HashMap<String, Vec<u8>>, HashMap<String, Vec<u8>>);

async fn of_delegated_api(channel: Channel) -> Result<Bundles> {
    let mut client = DelegatedIdentityClient::new(channel);
    let mut keys = client
        .subscribe_to_jwt_bundles(delegated::JwtBundlesRequest {})
        .await?
        .into_inner();
    let mut authorities = client
        .subscribe_to_x509_bundles(delegated::X509BundlesRequest {})
        .await?
        .into_inner();
    Ok((
        keys.message().await?.context("no JWT bundle")?.bundles,
        authorities
            .message()
            .await?
            .context("no X.509 bundle")?
            .ca_certificates,
    ))
}

async fn of_workload_api(channel: Channel) -> Result<Bundles> {
    let mut client =
        SpiffeWorkloadApiClient::with_interceptor(channel, |mut request: tonic::Request<()>| {
            let security = "true"
                .parse()
                .map_err(|_invalid| tonic::Status::internal("header"))?;
            request
                .metadata_mut()
                .insert("workload.spiffe.io", security);
            Ok(request)
        });
    let mut keys = client
        .fetch_jwt_bundles(workload::JwtBundlesRequest {})
        .await?
        .into_inner();
    let mut authorities = client
        .fetch_x509_bundles(workload::X509BundlesRequest {})
        .await?
        .into_inner();
    Ok((
        keys.message().await?.context("no JWT bundle")?.bundles,
        authorities
            .message()
            .await?
            .context("no X.509 bundle")?
            .bundles,
    ))
}
