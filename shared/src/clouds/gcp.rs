//! Google Cloud: Artifact Registry, Container Registry and the token services.

/// Exchanges the identity (Security Token Service API, `v1.token`).
pub const STS: &str = "sts.googleapis.com";
/// Impersonates a service account (IAM Service Account Credentials API).
pub const IAM_CREDENTIALS: &str = "iamcredentials.googleapis.com";

/// Whether identity tokens or what they were exchanged for may go to `host`.
pub fn is_token_service(host: &str) -> bool {
    [STS, IAM_CREDENTIALS].contains(&host)
}

/// Whether `host` is a registry of Google Cloud: an access token, which may be
/// good for more than pulling, goes nowhere else.
pub fn is_registry(host: &str) -> bool {
    let is_below = |domain: &str| {
        host.strip_suffix(domain)
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|label| !label.is_empty() && !label.contains('.'))
    };
    host == "gcr.io"
        || is_below("gcr.io")
        || (is_below("pkg.dev") && host.ends_with("-docker.pkg.dev") && !host.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_googles_own() {
        for host in [
            "gcr.io",
            "eu.gcr.io",
            "us-docker.pkg.dev",
            "europe-west1-docker.pkg.dev",
        ] {
            assert!(is_registry(host), "{host}");
        }
        for host in [
            "pkg.dev",
            "a.us-docker.pkg.dev",
            "us-npm.pkg.dev",
            "us-docker.pkg.dev.evil.test",
            "evilgcr.io",
            "a.b.gcr.io",
            "-docker.pkg.dev",
        ] {
            assert!(!is_registry(host), "{host}");
        }
        assert!(is_token_service("sts.googleapis.com"));
        assert!(!is_token_service("storage.googleapis.com"));
    }
}
