//! AWS STS and Amazon ECR: `AssumeRoleWithWebIdentity` trades the identity for
//! a session of the project's role, and `GetAuthorizationToken` of ECR or ECR
//! Public trades the session for a password that is good for up to 12 hours
//! (API references of STS, ECR and ECR Public).
//!
//! ```text
//!  identity ──▶ STS ──session──▶ ECR, ECR Public ──▶ AWS:<password>, expiresAt
//!               └─ place: which endpoints ─┘  connector: by our Outlet alone
//!                            errors: the SDK's errors → the catalogue
//! ```
//!
//! The SDK's crates speak the protocols, sign, and know every partition's names.
//! They get all that they use from here: no profile, no environment, no
//! metadata service.

mod connector;
mod errors;
mod place;

use crate::docker_config::BasicCredential;
use aws_sdk_sts::config::{
    AppName, BehaviorVersion, Credentials, SharedCredentialsProvider, StalledStreamProtectionConfig,
};
use aws_sdk_sts::config::{retry::RetryConfig, timeout::TimeoutConfig};
use aws_types::SdkConfig;
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use shared::binding::{CloudAccount, Exchange as Parameters, ExchangeKind};
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;
use zeroize::Zeroizing;

use super::http::Outlet;
use super::{Credential, Exchange, trade};
use crate::identity::IdentityToken;
use crate::jwt::Claims;
use crate::refresh::{Failure, Fresh};
use errors::{Asked, Service};
use place::Place;

/// The user name of every registry's password.
const USERNAME: &str = "AWS";
/// Longest name of a session (STS API reference, `RoleSessionName`).
const LONGEST_SESSION: usize = 64;
/// For a subject that gives no name of a session.
const SESSION: &str = "argocd-workload-identity";

/// A role that trusts the identity, and the registry that it may pull from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ecr {
    /// The registry.
    pub host: RegistryHost,
    /// The host is the public registry's.
    pub is_public: bool,
    /// The role to assume.
    pub role_arn: String,
    /// The token service, if not the region's own.
    pub token_url: Option<String>,
}

impl Ecr {
    pub(super) fn of(parameters: &Parameters, host: &RegistryHost) -> Result<Self, Named> {
        let Some(CloudAccount::Aws { role_arn }) = parameters.account.clone() else {
            let detail = "exchange.account is not set";
            return Err(Named::new(Code::ServiceAccountAnnotationMissing, detail));
        };
        Ok(Self {
            host: host.clone(),
            is_public: parameters.kind == ExchangeKind::EcrPublic,
            role_arn,
            token_url: parameters.token_url.clone(),
        })
    }

    pub(super) fn kind(&self) -> ExchangeKind {
        if self.is_public {
            ExchangeKind::EcrPublic
        } else {
            ExchangeKind::Ecr
        }
    }

    fn place(&self) -> Place {
        Place::of(&self.host, self.is_public, self.token_url.as_deref())
    }

    /// A session of the role.
    async fn assume(
        &self,
        config: &SdkConfig,
        token: &SecretString,
        asked: &Asked<'_>,
    ) -> Result<Credentials, Failure> {
        let mut settings = aws_sdk_sts::config::Builder::from(config);
        settings.set_endpoint_url(self.token_url.clone());
        let answer = aws_sdk_sts::Client::from_conf(settings.build())
            .assume_role_with_web_identity()
            .role_arn(&self.role_arn)
            .role_session_name(session_name(asked.subject()))
            .web_identity_token(token.expose_secret())
            // No duration: the role's own default counts, and a role may allow
            // less than any number that stands here.
            .send()
            .await
            .map_err(|error| asked.failed(Service::Sts, &error))?;
        let session = answer
            .credentials
            .ok_or_else(|| asked.unreadable(Service::Sts, "the answer has no Credentials"))?;
        Ok(Credentials::new(
            session.access_key_id,
            session.secret_access_key,
            Some(session.session_token),
            None,
            "AssumeRoleWithWebIdentity",
        ))
    }

    /// `authorizationToken` and `expiresAt`.
    async fn authorize(
        &self,
        config: &SdkConfig,
        asked: &Asked<'_>,
    ) -> Result<(Option<String>, Option<i64>), Failure> {
        let none = || asked.error(Code::NoAuthorizationData, Service::Ecr, "an empty answer");
        if self.is_public {
            let answer = aws_sdk_ecrpublic::Client::new(config)
                .get_authorization_token()
                .send()
                .await
                .map_err(|error| asked.failed(Service::Ecr, &error))?;
            let data = answer.authorization_data.ok_or_else(none)?;
            return Ok((
                data.authorization_token,
                data.expires_at.map(|at| at.secs()),
            ));
        }
        let answer = aws_sdk_ecr::Client::new(config)
            .get_authorization_token()
            .send()
            .await
            .map_err(|error| asked.failed(Service::Ecr, &error))?;
        let first = answer.authorization_data.into_iter().flatten().next();
        let data = first.ok_or_else(none)?;
        Ok((
            data.authorization_token,
            data.expires_at.map(|at| at.secs()),
        ))
    }
}

impl Exchange for Ecr {
    fn upstream(&self) -> String {
        let own = || self.place().sts();
        match &self.token_url {
            None => own().unwrap_or_else(|| trade::upstream(None, &self.host)),
            url => trade::upstream(url.as_deref(), &self.host),
        }
    }

    async fn exchange(
        &self,
        outlet: &Outlet,
        identity: &IdentityToken,
    ) -> Result<Fresh<Credential>, Failure> {
        let place = self.place();
        let claims = Claims::read(identity.token.expose_secret());
        let asked = Asked::new(self, &place, claims.as_ref());
        let config = configuration(&place, outlet);
        let traded = async {
            let session = self.assume(&config, &identity.token, &asked).await?;
            let session = SharedCredentialsProvider::new(session);
            let config = config.to_builder().credentials_provider(session).build();
            self.authorize(&config, &asked).await
        };
        // The SDK logs whole requests where somebody turns tracing on, and with
        // them the identity token.
        let (token, expires_at) = traded.with_subscriber(NoSubscriber::new()).await?;
        let unreadable = |detail| asked.unreadable(Service::Ecr, detail);
        let token = token.map(Zeroizing::new);
        let secret = token
            .and_then(|token| password(&token))
            .ok_or_else(|| unreadable("authorizationToken is not the base64 of AWS:<password>"))?;
        let expires_at = expires_at
            .and_then(|at| Timestamp::from_second(at).ok())
            .ok_or_else(|| unreadable("expiresAt is missing"))?;
        let username = USERNAME.to_owned();
        Ok(Fresh {
            credential: Credential::Basic(BasicCredential { username, secret }),
            expires_at,
        })
    }
}

/// What both services' clients have in common. Retries and deadlines are the
/// refresh's and the outlet's.
fn configuration(place: &Place, outlet: &Outlet) -> SdkConfig {
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(place.region())
        .use_fips(place.fips)
        .use_dual_stack(place.dual_stack)
        .http_client(connector::client(outlet))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    config.set_app_name(AppName::new(SESSION).ok());
    config.build()
}

/// The password of base64 `AWS:<password>`.
fn password(token: &str) -> Option<SecretString> {
    let decoded = Zeroizing::new(STANDARD.decode(token).ok()?);
    let (name, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    (name == USERNAME && !password.is_empty()).then(|| password.into())
}

/// What CloudTrail shows of a session besides its role: the last part of the
/// subject, which names the project.
fn session_name(subject: &str) -> String {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let last = subject.rsplit(['/', ':']).next().unwrap_or_default();
    let name: String = last
        .chars()
        .map(|c| if is_allowed(c) { c } else { '-' })
        .take(LONGEST_SESSION)
        .collect();
    // STS takes no name of one character.
    if name.len() < 2 { SESSION.into() } else { name }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_session_has_the_name_of_its_project() {
        let long = format!(
            "system:serviceaccount:argocd:argocd-project-{}",
            "x".repeat(80)
        );
        for (subject, expected) in [
            (
                "system:serviceaccount:argocd:argocd-project-production",
                "argocd-project-production",
            ),
            (
                "spiffe://example.org/ns/argocd/sa/argocd-project-production",
                "argocd-project-production",
            ),
            (
                "spiffe://example.org/ns/argocd/sa/argocd-global",
                "argocd-global",
            ),
            ("somebody with blanks", "somebody-with-blanks"),
            ("", SESSION),
            ("spiffe://example.org/x", SESSION),
            (long.as_str(), &format!("argocd-project-{}", "x".repeat(49))),
        ] {
            assert_eq!(session_name(subject), expected, "{subject}");
        }
    }

    #[test]
    fn a_password_is_what_follows_the_user_name_aws() {
        let of = |text: &str| {
            let password = password(&STANDARD.encode(text));
            password.map(|it| it.expose_secret().to_owned())
        };
        assert_eq!(of("AWS:a:b"), Some("a:b".into()));
        assert_eq!(of("aws:a"), None);
        assert_eq!(of("AWS:"), None);
        assert_eq!(of("AWS"), None);
        assert!(password("AWS:a").is_none(), "not base64");
    }

    proptest! {
        #[test]
        fn every_session_has_a_name_that_sts_takes(subject in "\\PC*") {
            let name = session_name(&subject);
            prop_assert!((2..=64).contains(&name.len()), "{name}");
            prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)));
        }
    }
}

#[cfg(test)]
#[path = "secrecy_tests.rs"]
mod secrecy_tests;
