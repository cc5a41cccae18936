//! Which credential a request gets: the path flows in; the binding of the same
//! project with the longest repository prefix, and what is asked of a token
//! realm, flow out. Pure.

use http::Method;
use shared::binding::ProxyKind;
use shared::proxy_view::ProxyBinding;

use crate::authorize::Bindings;

/// The credential's binding and its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selected<'a, B = &'a ProxyBinding> {
    /// Whose credential it is.
    pub binding: B,
    /// The repository that a registry token is asked for; none for the
    /// registry itself, or outside the distribution API.
    pub repository: Option<&'a str>,
}

/// The credential for a request that `own` was authorised for. `None` where
/// the path lies outside every binding of the project on that host, or the
/// method is none of a reader: such a request passes without credential.
pub fn select<'a>(
    bindings: &'a Bindings,
    own: &'a ProxyBinding,
    method: &Method,
    path: &'a str,
) -> Option<Selected<'a>> {
    let candidates = bindings
        .iter()
        .filter(|it| it.target == own.target && it.project == own.project)
        .filter(|it| reads(it.kind, method));
    if path.trim_end_matches('/') == "/v2" {
        return candidates
            .filter(|it| it.kind == ProxyKind::Oci)
            .max_by_key(|it| it.name == own.name)
            .map(|binding| Selected {
                binding,
                repository: None,
            });
    }
    let repository = registry_repository(path);
    candidates
        .filter(|it| match it.kind {
            ProxyKind::Oci => repository.is_some_and(|name| covers(&it.path, name)),
            ProxyKind::HelmHttp | ProxyKind::Git => covers(&it.path, &path[1..]),
        })
        // Of two equals the one that was authorised.
        .max_by_key(|it| (it.path.len(), it.name == own.name))
        .map(|binding| Selected {
            binding,
            repository: repository.filter(|_| binding.kind == ProxyKind::Oci),
        })
}

fn reads(kind: ProxyKind, method: &Method) -> bool {
    match kind {
        ProxyKind::Oci | ProxyKind::HelmHttp => matches!(*method, Method::GET | Method::HEAD),
        // git-upload-pack is a POST; what it may do is the server's to decide.
        ProxyKind::Git => matches!(*method, Method::GET | Method::HEAD | Method::POST),
    }
}

/// The repository of a pull (distribution API: `/v2/<name>/manifests/…`).
fn registry_repository(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v2/")?;
    ["/manifests/", "/blobs/", "/tags/", "/referrers/"]
        .iter()
        .filter_map(|part| rest.rfind(part))
        .max()
        .map(|end| &rest[..end])
        .filter(|name| !name.is_empty())
}

/// Whether `path` is `prefix` or below it, where git may add `.git`.
fn covers(prefix: &str, path: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else {
        return false;
    };
    let rest = rest
        .strip_prefix(".git")
        .filter(|_| !prefix.is_empty())
        .unwrap_or(rest);
    prefix.is_empty() || rest.is_empty() || rest.starts_with('/')
}

/// The scope that a token is asked for: reading, of this repository only,
/// whatever the challenge proposed.
pub fn pull(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::authorize::tests::binding;

    fn bindings() -> Bindings {
        let mut git = binding("git", "a", "quay.test", "org/repo");
        git.kind = ProxyKind::Git;
        [
            binding("org", "a", "quay.test", "org"),
            binding("deep", "a", "quay.test", "org/deep"),
            binding("foreign", "b", "quay.test", "org/deep/er"),
            binding("elsewhere", "a", "other.test", "x"),
            git,
        ]
        .into_iter()
        .collect()
    }

    fn ask(own: &str, method: Method, path: &str) -> Option<(String, Option<String>)> {
        let bindings = bindings();
        let own = bindings.find(own).unwrap();
        let selected = select(&bindings, own, &method, path)?;
        let repository = selected.repository.map(str::to_owned);
        Some((selected.binding.name.clone(), repository))
    }

    #[test]
    fn the_longest_prefix_of_the_same_project_wins() {
        for (path, expected) in [
            ("/v2/", Some(("org", None))),
            ("/v2", Some(("org", None))),
            ("/v2/org/manifests/1", Some(("org", Some("org")))),
            ("/v2/org/a/tags/list", Some(("org", Some("org/a")))),
            (
                "/v2/org/deep/blobs/sha256:0",
                Some(("deep", Some("org/deep"))),
            ),
            (
                "/v2/org/deep/er/blobs/sha256:0",
                Some(("deep", Some("org/deep/er"))),
            ),
            (
                "/v2/org/blobs/x/manifests/1",
                Some(("org", Some("org/blobs/x"))),
            ),
            ("/v2/organ/manifests/1", None),
            ("/v2/x/manifests/1", None),
            ("/v2/auth", None),
            ("/v2/_catalog", None),
            ("/org/manifests/1", None),
        ] {
            let expected = expected.map(|(name, it)| (name.to_owned(), it.map(str::to_owned)));
            assert_eq!(ask("org", Method::GET, path), expected, "{path}");
        }
        assert_eq!(ask("org", Method::PUT, "/v2/org/manifests/1"), None);
    }

    #[test]
    fn git_reads_below_its_repository() {
        let git = Some(("git".to_owned(), None));
        for path in [
            "/org/repo/info/refs",
            "/org/repo.git/git-upload-pack",
            "/org/repo",
        ] {
            assert_eq!(ask("git", Method::POST, path), git, "{path}");
        }
        let registry = Some(("org".to_owned(), Some("org".to_owned())));
        assert_eq!(ask("git", Method::GET, "/v2/org/manifests/1"), registry);
        assert_eq!(ask("git", Method::POST, "/v2/org/manifests/1"), None);
        for path in ["/org/repository/x", "/org/repo.github/x", "/org", "/"] {
            assert_eq!(ask("git", Method::GET, path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn never_another_projects_credential(path in "(/(v2|org|deep|er|x|blobs|manifests)){1,6}/?") {
            for own in ["org", "deep", "foreign"] {
                let bindings = bindings();
                let own = bindings.find(own).unwrap();
                if let Some(selected) = select(&bindings, own, &Method::GET, &path) {
                    prop_assert_eq!(&selected.binding.project, &own.project);
                    prop_assert_eq!(&selected.binding.target, &own.target);
                }
            }
        }
    }
}
