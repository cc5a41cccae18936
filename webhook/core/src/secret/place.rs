//! What a Secret is for, read without regard to the rest of it: raw values
//! flow in, project, URL and type flow out, and can be compared with another
//! version of the Secret or with its binding.
//!
//! A Secret that is wrong in some other way can still be asked whether it is
//! for the same as before.

use super::{
    SecretKind,
    repository::RepositoryType,
    values::{SecretValues, key},
};
use sha2::{Digest, Sha256};
use shared::{
    binding::{CredentialBindingSpec, ProxyKind, TargetKind},
    registry::RepositoryReference,
};

/// Project, URL and type of a Secret. Two spellings of one URL are equal where
/// the webhook would write them alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    project: Option<String>,
    url: String,
    kind: &'static str,
    target: TargetKind,
    address: String,
    proxy_kind: Option<ProxyKind>,
}

impl Place {
    /// Reads the three. `None` where one of them cannot be read.
    pub fn read(kind: SecretKind, values: &SecretValues) -> Option<Self> {
        let readable = |name| values.is_readable(name).then(|| values.text(name));
        let project = readable(key::PROJECT)?.map(str::to_owned);
        if kind == SecretKind::Cluster {
            let server = url::Url::parse(readable(key::SERVER)??).ok()?;
            let address = server.as_str().trim_end_matches('/').to_owned();
            return Some(Self {
                project,
                url: address.clone(),
                kind: "cluster",
                target: TargetKind::Cluster,
                address,
                proxy_kind: None,
            });
        }
        let repository_type = match readable(key::TYPE)? {
            None => RepositoryType::Git,
            Some(text) => RepositoryType::from_name(text)?,
        };
        let url = RepositoryReference::parse(readable(key::URL)??).ok()?;
        Some(Self {
            project,
            url: repository_type.written_url(&url),
            kind: repository_type.as_str(),
            target: TargetKind::Registry,
            address: url.address(),
            proxy_kind: Some(repository_type.proxy_kind(url.scheme)),
        })
    }

    /// The Argo CD project.
    pub fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    /// The URL as the webhook leaves it; a cluster's server.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `helm`, `oci`, `git` or `cluster`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Tells what a binding of this is for from what another one is for.
    pub fn print(&self) -> PlacePrint {
        PlacePrint::new(
            self.project.as_deref(),
            self.target,
            &self.address,
            self.proxy_kind,
        )
    }
}

/// Project, target and type of a binding, in a form that is cheap to keep. Two
/// are equal where those are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlacePrint([u8; 32]);

impl PlacePrint {
    /// What a binding is for.
    pub fn of(spec: &CredentialBindingSpec) -> Self {
        let target = &spec.target;
        // What has no proxy, and is no cluster, is delivered to Helm OCI.
        let proxy_kind = match target.kind {
            TargetKind::Cluster => None,
            TargetKind::Registry => Some(spec.proxy.as_ref().map_or(ProxyKind::Oci, |it| it.kind)),
        };
        Self::new(
            spec.project.as_deref(),
            target.kind,
            &target.address,
            proxy_kind,
        )
    }

    fn new(
        project: Option<&str>,
        target: TargetKind,
        address: &str,
        proxy_kind: Option<ProxyKind>,
    ) -> Self {
        // Neither a project nor an address has a line break, nor does Debug
        // leave one.
        let text = format!("{project:?}\n{target:?}\n{address:?}\n{proxy_kind:?}");
        Self(Sha256::digest(text).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(kind: SecretKind, pairs: &[(&str, &str)]) -> Option<Place> {
        let pairs = pairs.iter().map(|(name, value)| (*name, value.as_bytes()));
        Place::read(kind, &SecretValues::from_bytes(pairs))
    }

    fn repository(kind: &str, url: &str) -> Option<Place> {
        place(SecretKind::Repository, &[("type", kind), ("url", url)])
    }

    #[test]
    fn spellings_of_one_url_are_one_place() {
        let one = repository("helm", "oci://quay.example.org/a").unwrap();
        assert_eq!(repository("helm", "Quay.Example.org/a/").unwrap(), one);
        for (kind, url) in [
            ("helm", "quay.example.org/b"),
            ("oci", "oci://quay.example.org/a"),
            ("helm", "https://quay.example.org/a"),
            ("git", "https://quay.example.org/a"),
        ] {
            assert_ne!(repository(kind, url).unwrap(), one, "{kind} {url}");
        }
        let project = [("url", "https://a.example.org/x"), ("project", "a")];
        let of_project = place(SecretKind::Repository, &project).unwrap();
        assert_eq!(
            (of_project.kind(), of_project.project()),
            ("git", Some("a"))
        );
    }

    #[test]
    fn what_cannot_be_read_is_no_place() {
        for pairs in [
            &[("type", "svn"), ("url", "https://a.example.org/x")][..],
            &[("url", "http://a.example.org/x")],
            &[],
        ] {
            assert_eq!(place(SecretKind::Repository, pairs), None, "{pairs:?}");
        }
        let bytes = [
            ("url", &b"https://a.example.org/x"[..]),
            ("project", b"\xff"),
        ];
        let values = SecretValues::from_bytes(bytes);
        assert_eq!(Place::read(SecretKind::Repository, &values), None);
        assert_eq!(place(SecretKind::Cluster, &[("server", "no url")]), None);
    }
}
