//! A token of whoever gives identities: what the remote cluster has to take before anybody uses it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

use super::{Kind, Source, Trust};
use crate::control_plane::Proof;
use crate::installation::NAMESPACE;
use crate::process::wait_until;
use crate::targets::SPOKE_AUDIENCE;

/// Where the installation keeps the key of its issuer.
const ISSUER: &str = "argocd-identity-issuer";
const ISSUER_KEY: &str = "tls.key";
/// The service account that every cluster has, namespace and name.
const ACCOUNT: (&str, &str) = ("default", "default");
/// Until the installation has made the key, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Of a token; no shorter one is given for service accounts.
const LIFE: SignedDuration = SignedDuration::from_mins(10);

impl Source {
    /// A token for the remote cluster from whoever gives identities, and whom it stands for there. `admin` has all
    /// rights in the cluster that Argo CD is in; the project is installed there.
    ///
    /// # Errors
    /// When there is no key to sign it with, or the API server makes none.
    pub async fn proof(&self, trust: &Trust, admin: &Client) -> Result<Proof> {
        let user = trust.cluster_subject();
        let Some(spire) = self.spire() else {
            return match trust.kind() {
                Kind::ServiceAccount => of_service_account(admin).await,
                _ => self_issued(trust, user, admin).await,
            };
        };
        Ok(match spire.token(&user, SPOKE_AUDIENCE)? {
            Some(token) => Proof::token_of(user, token),
            // A real SPIRE knows nobody yet.
            None => Proof::without_token(trust.issuer_url(), SPOKE_AUDIENCE),
        })
    }
}

/// As the installation's issuer signs them, with its own key.
async fn self_issued(trust: &Trust, user: String, admin: &Client) -> Result<Proof> {
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), NAMESPACE);
    let secrets = &secrets;
    let pem = wait_until("the issuer's key", LIMIT, || async move {
        let secret = secrets.get(ISSUER).await?;
        let pem = secret.data.and_then(|mut data| data.remove(ISSUER_KEY));
        pem.with_context(|| format!("{ISSUER} has no {ISSUER_KEY}"))
    });
    let pem = pem.await?;
    let key = EncodingKey::from_rsa_pem(&pem.0).context("read the issuer's key")?;
    let public = Jwk::from_encoding_key(&key, Algorithm::RS256)?;
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(public.thumbprint(ThumbprintHash::SHA256)?);
    let now = Timestamp::now();
    let claims = json!({
        "iss": trust.issuer_url(),
        "sub": user,
        "aud": [SPOKE_AUDIENCE],
        "iat": now.as_second(),
        "nbf": now.as_second(),
        "exp": (now + LIFE).as_second(),
    });
    let token = encode(&header, &claims, &key).context("sign a token")?;
    Ok(Proof::token_of(user, token))
}

/// The accounts that stand for projects are made later; this one has the same issuer.
async fn of_service_account(admin: &Client) -> Result<Proof> {
    let (namespace, name) = ACCOUNT;
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![SPOKE_AUDIENCE.to_owned()],
            expiration_seconds: Some(LIFE.as_secs()),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let made = accounts
        .create_token_request(name, &PostParams::default(), &request)
        .await
        .context("make a service account's token")?;
    let status = made.status.context("no token was made")?;
    let user = format!("system:serviceaccount:{namespace}:{name}");
    Ok(Proof::token_of(user, status.token))
}
