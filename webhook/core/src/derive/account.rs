//! What a service account adds to a binding: its annotations flow in, the
//! cloud account of the exchange or a named error flows out. Pure.
//!
//! Controller and identity API ask this of the live object. Admission does
//! not: service accounts may be made after the Secrets that name them.

use std::collections::BTreeMap;

use shared::{
    binding::{CloudAccount, CredentialBindingSpec, CredentialKind, ExchangeKind},
    bounds,
    clouds::gcp,
    errors::{Code, Named},
};

use crate::{derive::object_name, secret::key};

/// AWS: the role to assume.
pub const ROLE_ARN: &str = "eks.amazonaws.com/role-arn";
/// Google Cloud: the service account to impersonate.
pub const GCP_SERVICE_ACCOUNT: &str = "iam.gke.io/gcp-service-account";
/// Google Cloud: the workload identity provider, in place of the audience.
pub const GCP_PROVIDER: &str = "iam.gke.io/workload-identity-provider";
/// Microsoft Entra: the application or managed identity.
pub const AZURE_CLIENT_ID: &str = "azure.workload.identity/client-id";
/// Microsoft Entra: its tenant.
pub const AZURE_TENANT_ID: &str = "azure.workload.identity/tenant-id";

const KNOWN: [&str; 5] = [
    ROLE_ARN,
    GCP_SERVICE_ACCOUNT,
    GCP_PROVIDER,
    AZURE_CLIENT_ID,
    AZURE_TENANT_ID,
];
/// What stands before a provider's name in an audience.
const GCP_AUDIENCE: &str = "https://iam.googleapis.com/";
const LONGEST: usize = bounds::ACCOUNT;

/// The annotations of a service account that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Annotations(BTreeMap<&'static str, String>);

impl Annotations {
    /// Picks them out of an object's metadata.
    pub fn read(all: Option<&BTreeMap<String, String>>) -> Self {
        let value = |name: &'static str| Some((name, all?.get(name)?.clone()));
        Self(KNOWN.into_iter().filter_map(value).collect())
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim())
    }
}

/// Whether the binding cannot do without its service account: a token is made
/// of it, or its annotations say who the identity is at the cloud.
pub fn is_needed(spec: &CredentialBindingSpec) -> bool {
    spec.identity.credential == CredentialKind::ServiceAccountToken || is_of_cloud(spec)
}

fn is_of_cloud(spec: &CredentialBindingSpec) -> bool {
    matches!(
        spec.exchange.kind,
        ExchangeKind::Ecr | ExchangeKind::EcrPublic | ExchangeKind::Gar | ExchangeKind::Acr
    )
}

/// Completes the spec of the binding `namespace/name` by its service account;
/// `None` is one that does not exist. Returns what is missing.
pub fn complete(
    namespace: &str,
    name: &str,
    spec: &mut CredentialBindingSpec,
    account: Option<&Annotations>,
) -> Option<Named> {
    let found = completion(spec, account);
    match found {
        Ok((account, audience)) => {
            spec.exchange.account = account;
            if let Some(audience) = audience {
                spec.identity.audience = audience;
            }
            None
        }
        Err((code, what)) => {
            let object = object_name(namespace, name);
            let account = &spec.identity.service_account;
            let what = format!("{object}: ServiceAccount {namespace}/{account}{what}");
            Some(Named::new(code, what))
        }
    }
}

type Completion = (Option<CloudAccount>, Option<String>);

fn completion(
    spec: &CredentialBindingSpec,
    account: Option<&Annotations>,
) -> Result<Completion, (Code, String)> {
    let Some(annotations) = account else {
        return Err((Code::ServiceAccountMissing, String::new()));
    };
    let needed = |name, is_usable| needed(annotations, name, is_usable);
    let account = match spec.exchange.kind {
        ExchangeKind::Ecr | ExchangeKind::EcrPublic => CloudAccount::Aws {
            role_arn: needed(ROLE_ARN, is_role_arn)?,
        },
        ExchangeKind::Gar => {
            let service_account = needed(GCP_SERVICE_ACCOUNT, is_email)?;
            let provider = match annotations.value(GCP_PROVIDER) {
                Some(value) => {
                    let provider = provider(value).filter(|it| has_room(it));
                    Some(provider.ok_or_else(|| unusable(GCP_PROVIDER, value))?)
                }
                None => None,
            };
            let is_named = !spec.identity.audience.is_empty();
            let audience = match &provider {
                _ if is_named => None,
                // What a provider without a list of its own accepts.
                Some(provider) => Some(format!("{GCP_AUDIENCE}{provider}")),
                None => {
                    let what = format!(" without {GCP_PROVIDER}, and {} not set", key::AUDIENCE);
                    return Err((Code::AudienceMissing, what));
                }
            };
            let account = CloudAccount::Gcp {
                service_account,
                workload_identity_provider: provider,
            };
            return Ok((Some(account), audience));
        }
        ExchangeKind::Acr => CloudAccount::Azure {
            client_id: needed(AZURE_CLIENT_ID, is_uuid)?,
            tenant_id: needed(AZURE_TENANT_ID, is_tenant)?,
        },
        _ => return Ok((None, None)),
    };
    Ok((Some(account), None))
}

fn needed(
    annotations: &Annotations,
    name: &str,
    is_usable: fn(&str) -> bool,
) -> Result<String, (Code, String)> {
    match annotations.value(name) {
        Some(value) if value.len() <= LONGEST && is_usable(value) => Ok(value.to_owned()),
        Some(value) => Err(unusable(name, value)),
        None => {
            let what = format!(", annotation {name}: not set");
            Err((Code::ServiceAccountAnnotationMissing, what))
        }
    }
}

fn unusable(name: &str, value: &str) -> (Code, String) {
    let shown: String = value.chars().take(200).collect();
    let what = format!(
        ", annotation {name}: `{}` cannot be used",
        shown.escape_debug()
    );
    (Code::ServiceAccountAnnotationMissing, what)
}

/// `arn:<partition>:iam::<account>:role/<path and name>`.
fn is_role_arn(text: &str) -> bool {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, role] = parts[..] else {
        return false;
    };
    let is_name = |c: u8| c.is_ascii_alphanumeric() || b"+=,.@-_/".contains(&c);
    partition.starts_with("aws")
        && account.len() == 12
        && account.bytes().all(|c| c.is_ascii_digit())
        && role.strip_prefix("role/").is_some_and(|name| {
            !name.is_empty() && !name.ends_with('/') && name.bytes().all(is_name)
        })
}

/// An email, of characters that need no escape in a path.
fn is_email(text: &str) -> bool {
    text.split_once('@')
        .is_some_and(|(name, domain)| is_plain(name) && is_plain(domain) && domain.contains('.'))
}

/// The resource name of a workload identity provider, with or without the
/// service in front.
fn provider(text: &str) -> Option<String> {
    let name = match text.starts_with("projects/") {
        true => format!("//iam.googleapis.com/{text}"),
        false => text.to_owned(),
    };
    gcp::provider(&name).map(str::to_owned)
}

/// Whether an audience can be made of a provider's name.
fn has_room(provider: &str) -> bool {
    GCP_AUDIENCE.len() + provider.len() <= bounds::AUDIENCE
}

fn is_uuid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12]) && text.bytes().all(|c| c == b'-' || c.is_ascii_hexdigit())
}

/// An id or one of the tenant's domains; it becomes a part of a URL.
fn is_tenant(text: &str) -> bool {
    is_uuid(text) || (is_plain(text) && text.contains('.'))
}

fn is_plain(text: &str) -> bool {
    let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    ends(text.bytes().next())
        && ends(text.bytes().next_back())
        && text.len() <= LONGEST
        && !text.contains("..")
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-'))
}

#[cfg(test)]
mod tests;
