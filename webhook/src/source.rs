//! Reads one Secret, and the service account that its binding needs, and
//! derives the binding: a name flows in, a spec or the reasons against it flow
//! out.
//!
//! Controller and identity API both come through here. The Secret's values,
//! which may hold static credentials, are wiped before this returns.

use k8s_openapi::{
    api::core::v1::{Secret, ServiceAccount},
    jiff::Timestamp,
};
use kube::{Api, Client};
use shared::{
    binding::{CredentialBindingSpec, Delivery},
    errors::{Code, Named},
    secrets::{SECRET_TYPE, WorkloadIdentity, key},
};

use crate::{
    account::{self, Annotations},
    derive::{self, Derivation, object_name},
    proxy_key::{self, Written},
    wipe::wipe,
};

/// The Secret that a binding belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// When it was created.
    pub created: Option<Timestamp>,
}

/// What a Secret means.
#[derive(Debug, Clone, PartialEq)]
pub enum Derived {
    /// There is no Secret of that name.
    Absent,
    /// The Secret does not use workload identity.
    Unused(Owner),
    /// The Secret uses it, and there are reasons to refuse.
    Invalid(Owner, Vec<Named>),
    /// The Secret's binding.
    Valid(Owner, Box<CredentialBindingSpec>),
}

/// What one look at a Secret found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What it means.
    pub derived: Derived,
    /// What the binding lacks of its service account. It stands nevertheless,
    /// and nothing is issued for it.
    pub lacks: Option<Named>,
    /// What somebody has to do about its `proxy`, although its binding stands.
    pub notices: Vec<Named>,
}

/// Reads the Secret `namespace/name`.
///
/// # Errors
/// When the API server does not answer the question.
pub async fn fetch(
    client: &Client,
    derivation: &Derivation,
    namespace: &str,
    name: &str,
) -> Result<Found, kube::Error> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let Some(mut secret) = api.get_opt(name).await? else {
        return Ok(Found {
            derived: Derived::Absent,
            lacks: None,
            notices: Vec::new(),
        });
    };
    let mut derived = derive(derivation, &secret);
    let notices = notices(derivation, &secret, &derived);
    wipe(&mut secret);
    let lacks = match &mut derived {
        Derived::Valid(_, spec) if account::is_needed(spec) => {
            let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
            let account = &spec.identity.service_account;
            let found = accounts.get_metadata_opt(account).await?;
            let found = found.map(|found| Annotations::read(&found.metadata));
            account::complete(namespace, name, spec, found.as_ref())
        }
        _ => None,
    };
    Ok(Found {
        derived,
        lacks,
        notices,
    })
}

/// Derives the binding of a Secret as the API returned it.
pub fn derive(derivation: &Derivation, secret: &Secret) -> Derived {
    let metadata = &secret.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let owner = Owner {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map(|time| time.0),
    };
    let spec = match derive::read(secret) {
        Ok(None) => return Derived::Unused(owner),
        Ok(Some(parsed)) => derivation.binding(namespace, &owner.name, &parsed),
        Err(problems) => Err(problems),
    };
    match spec {
        Ok(spec) => Derived::Valid(owner, Box::new(spec)),
        Err(problems) => Derived::Invalid(owner, problems),
    }
}

/// Compares a Secret's `proxy` with what the webhook would have written: it can
/// be down when a Secret is written, and keys rotate.
pub fn notices(derivation: &Derivation, secret: &Secret, derived: &Derived) -> Vec<Named> {
    let metadata = &secret.metadata;
    let label = metadata.labels.as_ref().and_then(|it| it.get(SECRET_TYPE));
    if !label.is_some_and(|label| matches!(label.as_str(), "repository" | "repo-creds")) {
        return Vec::new();
    }
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    let object = object_name(namespace, name);
    let notice = |code, what: &str| Named::new(code, format!("{object}: {what}"));
    let data = secret.data.as_ref().and_then(|data| data.get(key::PROXY));
    let written = data
        .and_then(|value| std::str::from_utf8(&value.0).ok())
        .filter(|value| !value.is_empty());
    let named = written.and_then(proxy_key::names);
    if named.as_ref().is_some_and(|named| named != name) {
        let named = named.unwrap_or_default();
        let shown: String = named.chars().take(253).collect();
        let what = format!("it names `{}`", shown.escape_debug());
        return vec![notice(Code::ProxyForeign, &what)];
    }
    let delivers = matches!(derived, Derived::Valid(_, spec) if spec.delivery == Delivery::Proxy);
    if !delivers {
        let is_left_over = named.is_some() && !matches!(derived, Derived::Invalid(..));
        let what = "it is still there, and no binding of the credential proxy needs it";
        let notices = is_left_over.then(|| notice(Code::ProxyNotWritten, what));
        return notices.into_iter().collect();
    }
    let keys = derivation.proxy_keys.as_ref().and_then(|ring| ring.keys());
    let (Some(keys), Ok(Some(WorkloadIdentity::Repository(parsed)))) = (keys, derive::read(secret))
    else {
        return Vec::new();
    };
    let url = parsed.written_url();
    let mut notices: Vec<_> =
        match keys.judge(written, &derive::subject(namespace, name, &parsed, &url)) {
            Written::Current => None,
            Written::Previous => Some((Code::ProxyKeyOld, "made with the key `previous`")),
            Written::Nothing => Some((Code::ProxyNotWritten, "it is not there")),
            Written::Stale => Some((Code::ProxyNotWritten, "it has another key")),
            Written::Another | Written::Own => Some((Code::ProxyNotWritten, "it is another proxy")),
        }
        .map(|(code, what)| notice(code, what))
        .into_iter()
        .collect();
    notices.extend(derive::proxy_warnings(&object, &parsed));
    notices
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;
    use shared::{allow_list::AllowList, binding::undeliverable};

    use super::*;
    use crate::proxy_key::tests::ring;

    /// The installation of the tests.
    pub(crate) fn derivation() -> Derivation {
        Derivation {
            trust_domain: "example.org".into(),
            allowed_hosts: AllowList::parse("spoke.example.org,other.example.org").unwrap(),
            registry_consumers: vec!["argocd-repo-server".into()],
            cluster_consumers: vec!["argocd-application-controller".into()],
            proxy_keys: Some(ring(2, Some(1))),
        }
    }

    /// A Secret with these values.
    pub(crate) fn secret(kind: &str, name: &str, values: &[(&str, &str)]) -> Secret {
        let mut secret: Secret = serde_json::from_value(json!({
            "metadata": {
                "namespace": "argocd", "name": name, "uid": format!("uid-{name}"),
                "labels": {"argocd.argoproj.io/secret-type": kind},
            },
        }))
        .unwrap();
        let value = |text: &str| ByteString(text.as_bytes().to_vec());
        secret.data = Some(
            values
                .iter()
                .map(|(key, text)| ((*key).to_owned(), value(text)))
                .collect(),
        );
        secret
    }

    /// The Quay repository of the guides, without a project.
    pub(crate) fn quay(name: &str) -> Secret {
        secret(
            "repository",
            name,
            &[
                ("type", "helm"),
                ("url", "quay.example.org/team/charts"),
                ("enableOCI", "true"),
                ("useWorkloadIdentity", "true"),
                ("workloadIdentityProvider", "spiffe"),
                ("workloadIdentityAudience", "quay.example.org"),
                (
                    "workloadIdentityRegistryAuthURL",
                    "https://quay.example.org/oauth2/federation/robot/token",
                ),
                ("workloadIdentityRegistryUsername", "team+puller"),
            ],
        )
    }

    #[test]
    fn a_secret_is_absent_unused_invalid_or_valid() {
        let derivation = derivation();
        let plain = secret("repository", "plain", &[("url", "https://a.example.org/x")]);
        assert!(
            matches!(derive(&derivation, &plain), Derived::Unused(owner) if owner.uid == "uid-plain")
        );
        let broken = secret("cluster", "broken", &[("useWorkloadIdentity", "true")]);
        match derive(&derivation, &broken) {
            Derived::Invalid(_, problems) => assert!(!problems.is_empty()),
            other => panic!("{other:?}"),
        }
        match derive(&derivation, &quay("quay")) {
            Derived::Valid(owner, spec) => {
                assert_eq!(owner.name, "quay");
                assert_eq!(undeliverable("Secret argocd/quay", &spec), None);
            }
            other => panic!("{other:?}"),
        }
    }

    /// The Quay repository of the guides, of a project.
    pub(crate) fn of_project(name: &str, proxy: Option<&str>) -> Secret {
        let mut secret = quay(name);
        let data = secret.data.as_mut().unwrap();
        data.insert("project".into(), ByteString(b"prod".to_vec()));
        if let Some(proxy) = proxy {
            data.insert("proxy".into(), ByteString(proxy.as_bytes().to_vec()));
        }
        secret
    }

    #[test]
    fn a_proxy_that_is_not_as_it_should_be_is_noticed() {
        let derivation = derivation();
        let codes = |secret: &Secret| -> Vec<Code> {
            let derived = derive(&derivation, secret);
            let found = notices(&derivation, secret, &derived);
            found.iter().map(|notice| notice.code).collect()
        };
        let value = |key: u8, name: &str| {
            let parsed = match derive::read(&of_project(name, None)) {
                Ok(Some(WorkloadIdentity::Repository(parsed))) => parsed,
                other => panic!("{other:?}"),
            };
            let url = parsed.written_url();
            let subject = derive::subject("argocd", name, &parsed, &url);
            ring(key, None).keys().unwrap().value(&subject).to_string()
        };
        for (proxy, expected) in [
            (Some(value(2, "quay")), None),
            (Some(value(1, "quay")), Some(Code::ProxyKeyOld)),
            (Some(value(3, "quay")), Some(Code::ProxyNotWritten)),
            (None, Some(Code::ProxyNotWritten)),
            (Some(String::new()), Some(Code::ProxyNotWritten)),
            (
                Some("http://proxy:3128".into()),
                Some(Code::ProxyNotWritten),
            ),
            (Some(value(2, "other")), Some(Code::ProxyForeign)),
        ] {
            let found = codes(&of_project("quay", proxy.as_deref()));
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{proxy:?}");
        }

        let plain = |name: &str, kind: &str, proxy: &str| {
            secret(
                kind,
                name,
                &[("url", "https://a.example.org/x"), ("proxy", proxy)],
            )
        };
        let stolen = value(2, "quay");
        assert_eq!(
            codes(&plain("mine", "repository", &stolen)),
            [Code::ProxyForeign]
        );
        assert_eq!(
            codes(&plain("mine", "repo-creds", &stolen)),
            [Code::ProxyForeign]
        );
        assert_eq!(
            codes(&plain("quay", "repository", &stolen)),
            [Code::ProxyNotWritten]
        );
        assert_eq!(codes(&plain("mine", "repository", "http://proxy:3128")), []);
        assert_eq!(codes(&plain("mine", "cluster", &stolen)), []);
        let mut bypassed = of_project("quay", Some(&stolen));
        let data = bypassed.data.as_mut().unwrap();
        data.insert("noProxy".into(), ByteString(b".example.org".to_vec()));
        assert_eq!(codes(&bypassed), [Code::ProxyBypassed]);
    }

    #[test]
    fn without_a_key_nothing_is_written_and_an_identity_is_still_given() {
        let secret = of_project("quay", None);
        let mut derivation = derivation();
        derivation.proxy_keys = Some(crate::proxy_key::ProxyKeyring::default());
        match derive(&derivation, &secret) {
            Derived::Invalid(_, problems) => {
                assert_eq!(problems[0].code, Code::ProxyKeyUnavailable);
            }
            other => panic!("{other:?}"),
        }
        derivation.proxy_keys = None;
        match derive(&derivation, &secret) {
            Derived::Valid(_, spec) => {
                assert_eq!(undeliverable("Secret argocd/quay", &spec), None);
            }
            other => panic!("{other:?}"),
        }
    }
}
