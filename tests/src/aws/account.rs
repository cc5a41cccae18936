//! Identity providers, roles, their sessions and passwords.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::jwk::JwkSet;

use crate::quay::lock;

/// An IAM OIDC identity provider.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Its URL: the `iss` of tokens.
    pub issuer: String,
    /// Its client IDs: the audiences that it takes.
    pub client_ids: Vec<String>,
    /// The issuer's keys, as AWS found them; `None` where AWS cannot reach them.
    pub keys: Option<JwkSet>,
}

/// A role's trust policy: `sts:AssumeRoleWithWebIdentity` under `StringEquals` conditions.
#[derive(Debug, Clone)]
pub struct Trust {
    /// `Principal.Federated`, by the provider's issuer.
    pub issuer: String,
    /// `<issuer>:sub`.
    pub subject: String,
    /// `<issuer>:aud`.
    pub audience: String,
}

/// An IAM role and what its policies allow.
#[derive(Debug, Clone)]
pub struct Role {
    /// `arn:aws:iam::<account>:role/<name>`.
    pub arn: String,
    /// Who may assume it.
    pub trust: Vec<Trust>,
    /// `ecr:GetAuthorizationToken`.
    pub authorizes: bool,
    /// `ecr-public:GetAuthorizationToken` and `sts:GetServiceBearerToken`.
    pub authorizes_public: bool,
    /// Repositories that it may pull from and push to, `<registry host>/<path>`; `*` at the end is any rest.
    pub repositories: Vec<String>,
}

impl Role {
    pub(super) fn may_use(&self, repository: &str) -> bool {
        self.repositories
            .iter()
            .any(|allowed| match allowed.strip_suffix('*') {
                Some(prefix) => repository.starts_with(prefix),
                None => repository == allowed,
            })
    }
}

/// Temporary security credentials.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) role: String,
    pub(super) name: String,
    pub(super) token: String,
    pub(super) expires_at: Timestamp,
}

/// A registries' password.
#[derive(Debug, Clone)]
pub(super) struct Password {
    pub(super) role: String,
    pub(super) session: String,
    pub(super) expires_at: Timestamp,
}

#[derive(Default)]
pub(super) struct Account {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    providers: HashMap<String, Provider>,
    roles: HashMap<String, Role>,
    sessions: HashMap<String, Session>,
    passwords: HashMap<String, Password>,
    lifetime: Option<Duration>,
    is_empty_handed: bool,
}

/// An `authorizationToken` of ECR is good for 12 hours.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// A role's default.
const SESSION: Duration = Duration::from_secs(3600);

impl Account {
    pub(super) fn trust(&self, provider: Provider) {
        let mut inner = lock(&self.inner);
        inner.providers.insert(provider.issuer.clone(), provider);
    }

    pub(super) fn add_role(&self, role: Role) {
        lock(&self.inner).roles.insert(role.arn.clone(), role);
    }

    pub(super) fn set_lifetime(&self, lifetime: Duration) {
        lock(&self.inner).lifetime = Some(lifetime);
    }

    pub(super) fn set_empty_handed(&self, is_empty_handed: bool) {
        lock(&self.inner).is_empty_handed = is_empty_handed;
    }

    pub(super) fn expire_passwords(&self) {
        let now = Timestamp::now();
        for password in lock(&self.inner).passwords.values_mut() {
            password.expires_at = now;
        }
    }

    pub(super) fn provider(&self, issuer: &str) -> Option<Provider> {
        lock(&self.inner).providers.get(issuer).cloned()
    }

    pub(super) fn role(&self, arn: &str) -> Option<Role> {
        lock(&self.inner).roles.get(arn).cloned()
    }

    /// A new session; its access key ID comes first, its secret last.
    pub(super) fn open(&self, role: &str, name: &str) -> (String, Session, String) {
        let session = Session {
            role: role.to_owned(),
            name: name.to_owned(),
            token: random(),
            expires_at: after(SESSION),
        };
        let key_id = format!("ASIA{}", &random()[..16].to_uppercase());
        let mut inner = lock(&self.inner);
        inner.sessions.insert(key_id.clone(), session.clone());
        (key_id, session, random())
    }

    pub(super) fn session(&self, key_id: &str) -> Option<Session> {
        lock(&self.inner).sessions.get(key_id).cloned()
    }

    /// A new password for a session; `None` while there are none.
    pub(super) fn authorize(&self, session: &Session) -> Option<(String, Timestamp)> {
        let mut inner = lock(&self.inner);
        if inner.is_empty_handed {
            return None;
        }
        let expires_at = after(inner.lifetime.unwrap_or(LIFETIME));
        let text = random();
        let password = Password {
            role: session.role.clone(),
            session: session.name.clone(),
            expires_at,
        };
        inner.passwords.insert(text.clone(), password);
        Some((text, expires_at))
    }

    pub(super) fn password(&self, text: &str) -> Option<Password> {
        lock(&self.inner).passwords.get(text).cloned()
    }
}

/// Whole seconds, as AWS has them.
fn after(life: Duration) -> Timestamp {
    let life = SignedDuration::try_from(life).unwrap_or_default();
    let at = Timestamp::now().as_second() + life.as_secs();
    Timestamp::from_second(at).unwrap_or(Timestamp::MAX)
}

/// 32 bytes of randomness in hex.
fn random() -> String {
    let mut bytes = [0; 32];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
