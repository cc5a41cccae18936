//! What an agent asks for: a known [`Agent`], a pod's token and the names of
//! bindings flow in, an identity or a named refusal for each flows out.
//!
//! Order matters: nothing is read on behalf of a pod whose token has not been
//! accepted. Tokens appear in no log line and no error.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use control_plane_core::{
    identity::authorize::{self, Agent, Consumer, Grant, PodState, Policy},
    settings::{IssuerUrl, is_dns_subdomain},
};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use secrecy::SecretString;
use shared::{
    binding::CredentialKind,
    errors::{Code, Named},
    identity_api::{IdentitiesRequest, IdentityRequest, IdentityResponse, LARGEST_BATCH},
};
use tokio::time::{Instant, timeout_at};

use super::{
    keys::Keyring,
    metrics::Metrics,
    reviewer::Reviewer,
    svid,
    token_request::{self, Minter},
};

/// Bindings of one request that are worked on at once.
const PARALLEL: usize = 4;
/// For one binding of several: what is not answered for holds up the others no
/// longer.
const EACH: Duration = Duration::from_secs(5);
/// What an answer needs after the last binding's time is over.
const RESERVE: Duration = Duration::from_secs(1);

/// What the identity API needs.
pub struct IdentityApi {
    /// Whom it serves.
    pub policy: Policy,
    /// The way to the API server.
    pub reviewer: Reviewer,
    /// Has service account tokens made.
    pub minter: Minter,
    /// Signs JWT-SVIDs, where the control plane does that itself.
    pub signer: Option<Signer>,
    /// Life of a token.
    pub lifetime: Duration,
    /// Counts every answer.
    pub metrics: Metrics,
}

/// Who signs JWT-SVIDs.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The `iss` of the tokens.
    pub issuer: IssuerUrl,
    /// The signing key, once there is one.
    pub keyring: Keyring,
}

/// An identity, and what tells it from every other.
struct Issued {
    token: SecretString,
    expires_at: Timestamp,
    jti: Option<String>,
    kid: Option<String>,
}

/// A pod that has proved itself.
struct Proved {
    consumer: Consumer,
    pod: PodState,
}

impl IdentityApi {
    pub(super) async fn one(
        &self,
        agent: &Agent,
        asked: &IdentityRequest,
    ) -> Result<IdentityResponse, Named> {
        let (namespace, name) = (asked.namespace.as_str(), asked.binding.as_str());
        Self::check_name(name)?;
        self.check_namespace(namespace)?;
        let proved = self.prove(agent, namespace, &asked.pod_token).await?;
        self.issue(agent, &proved, namespace, name).await
    }

    /// Answers for every binding that is named, each in its own words, by
    /// `deadline`.
    pub(super) async fn several(
        &self,
        agent: &Agent,
        asked: &IdentitiesRequest,
        deadline: Instant,
    ) -> Result<BTreeMap<String, Result<IdentityResponse, Named>>, Named> {
        let namespace = asked.namespace.as_str();
        if asked.bindings.len() > LARGEST_BATCH {
            let detail = format!("more than {LARGEST_BATCH} bindings");
            return Err(Named::new(Code::BadRequest, detail));
        }
        for name in &asked.bindings {
            Self::check_name(name)?;
        }
        self.check_namespace(namespace)?;
        let proved = self.prove(agent, namespace, &asked.pod_token).await?;
        let deadline = deadline - RESERVE;
        let names: BTreeSet<String> = asked.bindings.iter().cloned().collect();
        let proved = &proved;
        let answers = stream::iter(names).map(|name| async move {
            let answer = self.issue(agent, proved, namespace, &name);
            let answer = timeout_at(deadline.min(Instant::now() + EACH), answer).await;
            let late = |_elapsed| Err(Named::new(Code::IssuerUnavailable, "no answer in time"));
            (name, answer.unwrap_or_else(late))
        });
        Ok(answers.buffer_unordered(PARALLEL).collect().await)
    }

    async fn prove(
        &self,
        agent: &Agent,
        namespace: &str,
        pod_token: &SecretString,
    ) -> Result<Proved, Named> {
        let reviewed = self.reviewer.review(pod_token).await?;
        let consumer = authorize::consumer(&reviewed, agent, namespace)?;
        let pod = self.reviewer.pod(namespace, &consumer).await?;
        Ok(Proved { consumer, pod })
    }

    async fn issue(
        &self,
        agent: &Agent,
        proved: &Proved,
        namespace: &str,
        name: &str,
    ) -> Result<IdentityResponse, Named> {
        let binding = self.reviewer.binding(namespace, name).await?;
        let (consumer, now) = (&proved.consumer, Timestamp::now());
        let grant = authorize::grant(consumer, &proved.pod, name, &binding.spec, now)?;
        if let Some(lacks) = binding.lacks {
            return Err(lacks);
        }
        let identity = grant.identity();
        let issued = match identity.credential {
            CredentialKind::SpiffeJWT => self.sign(&grant, namespace, name, now)?,
            CredentialKind::ServiceAccountToken => {
                let minted = self.minter.mint(&grant, &binding.secret, self.lifetime);
                let minted = minted.await?;
                let (jti, kid) = token_request::ids(&minted.token);
                Issued {
                    token: minted.token,
                    expires_at: minted.expires_at,
                    jti,
                    kid,
                }
            }
            kind @ CredentialKind::SpiffeCertificate => {
                let detail = format!("CredentialBinding {namespace}/{name}: {kind:?}");
                return Err(Named::new(Code::IdentityNotAvailable, detail));
            }
        };
        let subject = identity.subject.clone();
        // jti and kid tell a token that was issued here from one that was forged.
        tracing::info!(
            namespace,
            binding = name,
            subject,
            audience = identity.audience,
            node = agent.node_name(),
            pod = consumer.pod_name(),
            pod_uid = consumer.pod_uid(),
            expires_at = %issued.expires_at,
            jti = issued.jti,
            kid = issued.kid,
            "issued an identity"
        );
        Ok(IdentityResponse {
            token: issued.token,
            subject,
            audience: identity.audience.clone(),
            expires_at: issued.expires_at,
        })
    }

    fn sign(
        &self,
        grant: &Grant,
        namespace: &str,
        name: &str,
        now: Timestamp,
    ) -> Result<Issued, Named> {
        let Some(signer) = &self.signer else {
            let detail = format!(
                "CredentialBinding {namespace}/{name}: the control plane signs no JWT-SVIDs, \
                 because it has no --issuer-url"
            );
            return Err(Named::new(Code::IdentityNotAvailable, detail));
        };
        let no_key = || Named::new(Code::IssuerUnavailable, "there is no signing key yet");
        let key = signer.keyring.current().ok_or_else(no_key)?;
        let jti = token_id()?;
        let svid = svid::issue(&key, &signer.issuer, grant, self.lifetime, now, &jti);
        let svid = svid.map_err(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "a token could not be signed");
            Named::new(Code::IssuerUnavailable, "signing")
        })?;
        Ok(Issued {
            token: svid.token,
            expires_at: svid.expires_at,
            jti: Some(jti),
            kid: Some(key.public().kid.clone()),
        })
    }

    /// The name becomes a part of a URL.
    fn check_name(name: &str) -> Result<(), Named> {
        match is_dns_subdomain(name) {
            true => Ok(()),
            false => Err(Named::new(Code::BadRequest, "`binding` is no object name")),
        }
    }

    /// Whether the Secrets of a namespace may be read at all.
    fn check_namespace(&self, namespace: &str) -> Result<(), Named> {
        let served = &self.policy.argocd_namespaces;
        if served.iter().any(|known| known == namespace) {
            return Ok(());
        }
        let shown: String = namespace.chars().take(63).collect();
        let detail = format!("namespace `{}` is not served", shown.escape_debug());
        Err(Named::new(Code::BindingNotFound, detail))
    }
}

fn token_id() -> Result<String, Named> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes)
        .map_err(|_unspecified| Named::new(Code::IssuerUnavailable, "drawing a token id"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
