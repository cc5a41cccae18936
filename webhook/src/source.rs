//! Reads one Secret, and the service account that its binding needs, and
//! derives the binding: a name flows in, a spec or the reasons against it flow
//! out.
//!
//! Controller and identity API both come through here. The Secret's values,
//! which may hold static credentials, are wiped before this returns.

use control_plane_core::{
    derive::{
        self, Derivation,
        account::{self, Annotations},
        object_name,
    },
    proxy_key::{
        self, Subject, Written,
        accepted::{Accepted, Before, accepted},
    },
    secret::{Place, SECRET_TYPE, SecretKind, SecretValues, WorkloadIdentity, key, parse},
};
use k8s_openapi::{
    api::core::v1::{Secret, ServiceAccount},
    jiff::Timestamp,
};
use kube::{Api, Client};
use shared::{
    binding::{CredentialBindingSpec, Delivery},
    errors::{Code, Named},
};

use crate::wipe::wipe;

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
    /// The same, and it is not for what the binding that is there is for.
    Elsewhere(Owner, Vec<Named>),
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
    /// What its `proxy` is.
    written: Written,
    /// What it is for, as far as that can be read.
    place: Option<Place>,
}

impl Found {
    fn nothing(derived: Derived) -> Self {
        Self {
            derived,
            lacks: None,
            notices: Vec::new(),
            written: Written::Nothing,
            place: None,
        }
    }

    /// Takes into account what the binding was before: which keys open it, and
    /// whether the last good spec is still for the same. `object` names the
    /// Secret.
    pub fn settle(&mut self, object: &str, before: Option<&CredentialBindingSpec>, now: Timestamp) {
        let Some(before) = before else {
            return;
        };
        match &mut self.derived {
            Derived::Valid(_, spec) => {
                let is_same = (&spec.project, &spec.target) == (&before.project, &before.target);
                let (Some(proxy), Some(former)) = (&mut spec.proxy, &before.proxy) else {
                    return;
                };
                let before = if is_same && proxy.kind == former.kind {
                    Before::Same(former)
                } else {
                    Before::Elsewhere(former)
                };
                let Accepted {
                    hashes,
                    previous_until,
                    is_stale,
                } = accepted(&self.written, before, now);
                proxy.key_sha256 = hashes;
                proxy.previous_key_until = previous_until;
                if is_stale && matches!(self.written, Written::Unmarked(_)) {
                    self.notices.insert(0, stale(object));
                }
            }
            Derived::Invalid(owner, problems) => {
                if !self.place.as_ref().is_some_and(|place| place.is_of(before)) {
                    let (owner, problems) = (owner.clone(), std::mem::take(problems));
                    self.derived = Derived::Elsewhere(owner, problems);
                }
            }
            Derived::Absent | Derived::Unused(_) | Derived::Elsewhere(..) => {}
        }
    }
}

fn stale(object: &str) -> Named {
    Named::new(Code::ProxyKeyStale, format!("{object}, key {}", key::PROXY))
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
        return Ok(Found::nothing(Derived::Absent));
    };
    let mut found = look(derivation, &secret);
    wipe(&mut secret);
    found.lacks = match &mut found.derived {
        Derived::Valid(_, spec) if account::is_needed(spec) => {
            let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
            let account = &spec.identity.service_account;
            let found = accounts.get_metadata_opt(account).await?;
            let found = found.map(|found| Annotations::read(found.metadata.annotations.as_ref()));
            account::complete(namespace, name, spec, found.as_ref())
        }
        _ => None,
    };
    Ok(found)
}

/// Derives the binding of a Secret as the API returned it.
pub fn derive(derivation: &Derivation, secret: &Secret) -> Derived {
    look(derivation, secret).derived
}

/// Derives the binding of a Secret as the API returned it, and compares the
/// Secret's `proxy` with what the webhook would have written: it can be down
/// when a Secret is written.
pub fn look(derivation: &Derivation, secret: &Secret) -> Found {
    let metadata = &secret.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let owner = Owner {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map(|time| time.0),
    };
    let Some((kind, values)) = values(secret) else {
        return Found::nothing(Derived::Unused(owner));
    };
    let object = object_name(namespace, &owner.name);
    let place = Place::read(kind, &values);
    let subject = Subject {
        namespace,
        name: &owner.name,
        place: place.as_ref(),
    };
    let proxy = values
        .text(key::PROXY)
        .filter(|_| kind != SecretKind::Cluster);
    let written = proxy_key::judge(proxy, &subject);
    let named = proxy.and_then(proxy_key::names);
    let parsed = parse(kind, &object, &values);
    let spec = match &parsed {
        Ok(None) => Ok(None),
        Ok(Some(parsed)) => derivation.binding(namespace, &owner.name, parsed).map(Some),
        Err(problems) => Err(problems.clone()),
    };
    let notices = match &parsed {
        Ok(Some(WorkloadIdentity::Repository(parsed))) if matches!(&spec, Ok(Some(spec)) if spec.delivery == Delivery::Proxy) =>
        {
            let mut notices: Vec<_> = notice(&object, &written, named).into_iter().collect();
            notices.extend(derive::proxy_warnings(&object, parsed));
            notices
        }
        _ => left_over(&object, &owner.name, named, spec.is_err())
            .into_iter()
            .collect(),
    };
    let derived = match spec {
        Ok(None) => Derived::Unused(owner),
        Ok(Some(mut spec)) => {
            if let Some(proxy) = &mut spec.proxy {
                // Without a binding nothing ends at any time.
                let now = Timestamp::UNIX_EPOCH;
                proxy.key_sha256 = accepted(&written, Before::Nothing, now).hashes;
            }
            Derived::Valid(owner, Box::new(spec))
        }
        Err(problems) => Derived::Invalid(owner, problems),
    };
    Found {
        derived,
        lacks: None,
        notices,
        written,
        place,
    }
}

/// What is wrong with the `proxy` of a Secret that needs the webhook's.
fn notice(object: &str, written: &Written, named: Option<String>) -> Option<Named> {
    let not_written = |what: &str| Named::new(Code::ProxyNotWritten, format!("{object}: {what}"));
    match written {
        Written::Fits(_) | Written::Unmarked(_) => None,
        Written::Stale(_) => Some(stale(object)),
        Written::Nothing => Some(not_written("it is not there")),
        Written::Malformed => Some(not_written("it has a key that no webhook made")),
        Written::Another if named.is_some() => Some(foreign(object, named)),
        Written::Another | Written::Own => Some(not_written("it is another proxy")),
    }
}

/// What is wrong with the `proxy` of any other Secret.
fn left_over(object: &str, name: &str, named: Option<String>, is_invalid: bool) -> Option<Named> {
    match named {
        None => None,
        Some(other) if other != name => Some(foreign(object, Some(other))),
        Some(_) if is_invalid => None,
        Some(_) => {
            let what = "it is still there, and no binding of the credential proxy needs it";
            Some(Named::new(
                Code::ProxyNotWritten,
                format!("{object}: {what}"),
            ))
        }
    }
}

fn foreign(object: &str, named: Option<String>) -> Named {
    let shown: String = named.unwrap_or_default().chars().take(253).collect();
    let detail = format!("{object}: it names `{}`", shown.escape_debug());
    Named::new(Code::ProxyForeign, detail)
}

/// Reads a Secret from the API. `None` when it has no workload identity.
///
/// # Errors
/// Every problem that the Secret has.
pub fn read(secret: &Secret) -> Result<Option<WorkloadIdentity>, Vec<Named>> {
    let Some((kind, values)) = values(secret) else {
        return Ok(None);
    };
    let metadata = &secret.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    parse(kind, &object_name(namespace, name), &values)
}

/// The kind and the values of a Secret from the API; `None` where it is none of
/// the kinds that can have workload identity.
fn values(secret: &Secret) -> Option<(SecretKind, SecretValues)> {
    let labels = secret.metadata.labels.as_ref()?;
    let kind = SecretKind::from_label(labels.get(SECRET_TYPE)?)?;
    let data = secret.data.iter().flatten();
    let values = SecretValues::from_bytes(data.map(|(name, value)| (name.as_str(), &*value.0)));
    Some((kind, values))
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;
    use shared::{allow_list::AllowList, binding::undeliverable, proxy_view::KeyHash};

    use super::*;
    use control_plane_core::proxy_key::{KeyBytes, LENGTH};

    /// 32 times one byte, as random bytes.
    fn bytes(byte: u8) -> KeyBytes {
        KeyBytes::new(zeroize::Zeroizing::new([byte; LENGTH]))
    }

    /// The installation of the tests.
    pub(crate) fn derivation() -> Derivation {
        Derivation {
            trust_domain: "example.org".into(),
            allowed_hosts: AllowList::parse("spoke.example.org,other.example.org").unwrap(),
            registry_consumers: vec!["argocd-repo-server".into()],
            cluster_consumers: vec!["argocd-application-controller".into()],
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
        let other = secret("other", "quay", &[("useWorkloadIdentity", "true")]);
        for nobodys in [&other, &Secret::default()] {
            assert!(matches!(derive(&derivation, nobodys), Derived::Unused(_)));
        }
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

    /// What the webhook writes into a Secret, for the random bytes `byte`.
    pub(crate) fn entry(secret: &Secret, byte: u8) -> String {
        let (kind, values) = values(secret).unwrap();
        let place = Place::read(kind, &values);
        let subject = Subject {
            namespace: secret.metadata.namespace.as_deref().unwrap(),
            name: secret.metadata.name.as_deref().unwrap(),
            place: place.as_ref(),
        };
        let value = proxy_key::value(&subject, &bytes(byte)).unwrap();
        value.to_string()
    }

    fn set(secret: &mut Secret, name: &str, value: &str) {
        let data = secret.data.as_mut().unwrap();
        data.insert(name.into(), ByteString(value.as_bytes().to_vec()));
    }

    /// As [`of_project`], with a key of its own.
    pub(crate) fn complete(name: &str, byte: u8) -> Secret {
        let secret = of_project(name, None);
        let proxy = entry(&secret, byte);
        of_project(name, Some(&proxy))
    }

    fn codes(found: &Found) -> Vec<Code> {
        found.notices.iter().map(|notice| notice.code).collect()
    }

    fn spec(found: &Found) -> &CredentialBindingSpec {
        match &found.derived {
            Derived::Valid(_, spec) => spec,
            other => panic!("{other:?}"),
        }
    }

    fn keys(found: &Found) -> &[String] {
        &spec(found).proxy.as_ref().unwrap().key_sha256
    }

    /// The hash of what follows the name.
    fn hash(entry: &str) -> String {
        let (user, _) = entry.rsplit_once('@').unwrap();
        let (_, key) = user.rsplit_once(':').unwrap();
        KeyHash::of(key.as_bytes()).to_hex()
    }

    const OLD: &str = "http://quay:qR7vBu5eBBw63oZGgsQkSVxWwA1Y8kE4xXbzEosGwjg@127.0.0.1:15080";

    #[test]
    fn a_proxy_that_is_not_as_it_should_be_is_noticed() {
        let derivation = derivation();
        let look = |secret: &Secret| look(&derivation, secret);
        let own = entry(&of_project("quay", None), 2);
        let mut elsewhere = of_project("quay", None);
        set(&mut elsewhere, "project", "dev");
        for (proxy, expected) in [
            (Some(own.clone()), None),
            (Some(OLD.to_owned()), None),
            (Some(entry(&elsewhere, 2)), Some(Code::ProxyKeyStale)),
            (None, Some(Code::ProxyNotWritten)),
            (Some(String::new()), Some(Code::ProxyNotWritten)),
            (
                Some("http://proxy:3128".into()),
                Some(Code::ProxyNotWritten),
            ),
            (
                Some("http://quay:mine@127.0.0.1:15080".into()),
                Some(Code::ProxyNotWritten),
            ),
            (
                Some(entry(&of_project("other", None), 2)),
                Some(Code::ProxyForeign),
            ),
        ] {
            let found = look(&of_project("quay", proxy.as_deref()));
            assert_eq!(
                codes(&found),
                expected.into_iter().collect::<Vec<_>>(),
                "{proxy:?}"
            );
            // What counts opens the binding, and nothing else does.
            let opens = proxy.filter(|_| expected.is_none());
            assert_eq!(keys(&found), opens.as_deref().map(hash).as_slice());
            assert_eq!(undeliverable("Secret argocd/quay", spec(&found)), None);
        }

        let plain = |name: &str, kind: &str, proxy: &str| {
            let values = [("url", "https://a.example.org/x"), ("proxy", proxy)];
            codes(&look(&secret(kind, name, &values)))
        };
        assert_eq!(plain("mine", "repository", &own), [Code::ProxyForeign]);
        assert_eq!(plain("mine", "repo-creds", &own), [Code::ProxyForeign]);
        assert_eq!(plain("quay", "repository", &own), [Code::ProxyNotWritten]);
        assert_eq!(plain("mine", "repository", "http://proxy:3128"), []);
        assert_eq!(plain("mine", "cluster", &own), []);
        let mut bypassed = of_project("quay", Some(&own));
        set(&mut bypassed, "noProxy", ".example.org");
        assert_eq!(codes(&look(&bypassed)), [Code::ProxyBypassed]);
    }

    fn settled(secret: &Secret, before: Option<&CredentialBindingSpec>, second: i64) -> Found {
        let mut found = look(&derivation(), secret);
        let now = Timestamp::from_second(second).unwrap();
        found.settle("Secret argocd/quay", before, now);
        found
    }

    #[test]
    fn a_key_is_replaced_with_overlap_and_then_alone() {
        let first = spec(&settled(&complete("quay", 1), None, 0)).clone();
        let rotated = settled(&complete("quay", 2), Some(&first), 0);
        let hashes = |byte| hash(&entry(&of_project("quay", None), byte));
        assert_eq!(keys(&rotated), [hashes(2), hashes(1)]);
        let before = spec(&rotated).clone();
        let during = settled(&complete("quay", 2), Some(&before), 600);
        assert_eq!(spec(&during), &before, "nothing to write");
        let after = settled(&complete("quay", 2), Some(&before), 601);
        assert_eq!(keys(&after), [hashes(2)]);
        assert_eq!(
            spec(&after).proxy.as_ref().unwrap().previous_key_until,
            None
        );
    }

    #[test]
    fn a_secret_that_moves_takes_no_key_along() {
        for old in [entry(&of_project("quay", None), 1), OLD.to_owned()] {
            let first = spec(&settled(&of_project("quay", Some(&old)), None, 0)).clone();
            assert_eq!(first.proxy.as_ref().unwrap().key_sha256, [hash(&old)]);
            for (name, value) in [
                ("project", "dev"),
                ("url", "quay.example.org/other/charts"),
                ("url", "https://quay.example.org/team/charts"),
            ] {
                // The webhook was down.
                let mut moved = of_project("quay", Some(&old));
                set(&mut moved, name, value);
                let mut before = first.clone();
                // However often somebody looks, and whatever the binding is by then.
                for _ in 0..3 {
                    let found = settled(&moved, Some(&before), 0);
                    assert_eq!(codes(&found), [Code::ProxyKeyStale], "{name}: {value}");
                    assert_eq!(keys(&found), [""; 0]);
                    before = spec(&found).clone();
                }
                // The webhook is back, and draws another; the old one is gone at once.
                let fresh = entry(&moved, 2);
                set(&mut moved, "proxy", &fresh);
                let found = settled(&moved, Some(&first), 0);
                assert_eq!((codes(&found), keys(&found)), (vec![], &[hash(&fresh)][..]));
            }
        }
    }

    #[test]
    fn a_key_says_what_it_was_made_for_also_where_no_binding_remembers() {
        let old = entry(&of_project("quay", None), 1);
        let mut moved = of_project("quay", Some(&old));
        set(&mut moved, "project", "dev");
        let found = settled(&moved, None, 0);
        assert_eq!(
            (codes(&found), keys(&found)),
            (vec![Code::ProxyKeyStale], &[][..])
        );
    }

    #[test]
    fn a_broken_secret_keeps_its_binding_only_where_it_was() {
        let first = spec(&settled(&complete("quay", 1), None, 0)).clone();
        let mut broken = complete("quay", 1);
        set(&mut broken, "workloadIdentityProvider", "vault");
        let is_elsewhere = |secret: &Secret| {
            let found = settled(secret, Some(&first), 0);
            match found.derived {
                Derived::Invalid(_, problems) | Derived::Elsewhere(_, problems)
                    if problems.is_empty() =>
                {
                    panic!("no problems")
                }
                Derived::Invalid(..) => false,
                Derived::Elsewhere(..) => true,
                other => panic!("{other:?}"),
            }
        };
        assert!(!is_elsewhere(&broken));
        for (name, value) in [
            ("project", "dev"),
            ("project", "Not A Project"),
            ("url", "oci://quay.example.org/other/charts"),
            ("url", "http://quay.example.org/team/charts"),
            ("type", "git"),
            ("type", "svn"),
        ] {
            let mut moved = broken.clone();
            set(&mut moved, name, value);
            assert!(is_elsewhere(&moved), "{name}: {value}");
        }
        // The guides' spelling of the same.
        set(&mut broken, "url", "oci://quay.example.org/team/charts");
        assert!(!is_elsewhere(&broken));
    }
}
