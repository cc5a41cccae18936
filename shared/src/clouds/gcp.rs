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

/// The workload identity provider that `audience` is the full name of, with or
/// without `https:`, as `projects/…/providers/…`. Providers without a list of
/// their own accept both forms as a token's audience.
pub fn provider(audience: &str) -> Option<&str> {
    let name = audience.strip_prefix("https:").unwrap_or(audience);
    let provider = name.strip_prefix("//iam.googleapis.com/")?;
    let parts: Vec<_> = provider.split('/').collect();
    let [
        "projects",
        project,
        "locations",
        location,
        "workloadIdentityPools",
        pool,
        "providers",
        id,
    ] = parts[..]
    else {
        return None;
    };
    let is_name = |text: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        !text.is_empty() && text.bytes().all(is_plain)
    };
    [project, location, pool, id]
        .into_iter()
        .all(is_name)
        .then_some(provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audience_may_be_a_providers_full_name() {
        let name = "projects/123/locations/global/workloadIdentityPools/argocd/providers/main";
        for prefix in ["//iam.googleapis.com/", "https://iam.googleapis.com/"] {
            assert_eq!(provider(&format!("{prefix}{name}")), Some(name));
        }
        for other in [
            "",
            "my-audience",
            name,
            "http://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/o",
            "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p",
            "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools//providers/o",
            "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/o/x",
            "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/o?x",
            "//evil.test/projects/1/locations/global/workloadIdentityPools/p/providers/o",
        ] {
            assert_eq!(provider(other), None, "{other}");
        }
    }

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
