//! An image's name as a pod has it, taken apart, and all those that a manifest has.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use anyhow::{Error, Result, bail, ensure};

/// What a name without a host is pulled from.
const DEFAULT_HOST: &str = "docker.io";

/// `<host>/<name>:<tag>`. A mirror is asked for the name and the tag; the host is not part of its paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The registry, with a port if it has one.
    pub host: String,
    /// The repository, as in the registry's paths.
    pub name: String,
    /// The tag.
    pub tag: String,
}

impl FromStr for Reference {
    type Err = Error;

    /// As containerd understands a pod's `image`: without a host it is Docker Hub's, and there without
    /// an owner `library`'s.
    fn from_str(text: &str) -> Result<Self> {
        ensure!(!text.contains('@'), "{text} names a digest, not a tag");
        let (host, path) = match text.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
            _ => (DEFAULT_HOST, text),
        };
        let Some((name, tag)) = path.split_once(':') else {
            bail!("{text} has no tag");
        };
        let name = if host == DEFAULT_HOST && !name.contains('/') {
            format!("library/{name}")
        } else {
            name.to_owned()
        };
        Ok(Self {
            host: host.to_owned(),
            name,
            tag: tag.to_owned(),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.host, self.name, self.tag)
    }
}

/// Every image that a manifest's containers name, each once. The manifest is in YAML's block style, as
/// kustomize writes it; read as lines, since Argo CD's is a megabyte and a half.
///
/// # Errors
/// When a name is not one with a tag.
pub fn references(manifest: &str) -> Result<BTreeSet<Reference>> {
    manifest
        .lines()
        .filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix("image: "))
        .map(|name| name.trim().trim_matches(['"', '\'']).parse())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, whole: &str) {
        assert_eq!(text.parse::<Reference>().unwrap().to_string(), whole);
    }

    #[test]
    fn names_are_completed_as_containerd_does() {
        check(
            "argocd-identity:dev",
            "docker.io/library/argocd-identity:dev",
        );
        check("owner/thing:1", "docker.io/owner/thing:1");
        check("quay.io/argoproj/argocd:v3", "quay.io/argoproj/argocd:v3");
        check("localhost:5000/a/b:1", "localhost:5000/a/b:1");
        assert!("busybox".parse::<Reference>().is_err());
        assert!("busybox@sha256:00".parse::<Reference>().is_err());
    }

    #[test]
    fn a_manifest_names_each_image_once() {
        let manifest =
            "  - image: quay.io/a/b:1\n    image: \"quay.io/a/b:1\"\n    image:\n  image: c:2\n";
        let found: Vec<String> = references(manifest)
            .unwrap()
            .iter()
            .map(Reference::to_string)
            .collect();
        assert_eq!(found, ["docker.io/library/c:2", "quay.io/a/b:1"]);
    }
}
