//! Which region's services an exchange asks, and in which form of their names.
//! Pure: the registry's host and the token service flow in.

use aws_sdk_sts::config::Region;
use aws_sdk_sts::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use futures::FutureExt;
use shared::clouds::aws::{DEFAULT_REGION, EcrHost, sts_region};
use shared::registry::RegistryHost;
use url::Url;

/// A region, and the form of its services' names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) region: String,
    pub(super) fips: bool,
    pub(super) dual_stack: bool,
}

impl Place {
    /// By the registry's host where it tells, else by the token service's.
    /// ECR Public is in one region only, whatever STS is asked.
    pub(super) fn of(host: &RegistryHost, is_public: bool, token_url: Option<&str>) -> Self {
        if let Some(host) = EcrHost::parse(host) {
            return Self {
                region: host.region,
                fips: host.fips,
                dual_stack: host.dual_stack,
            };
        }
        let url = token_url.and_then(|url| Url::parse(url).ok());
        let named = url
            .as_ref()
            .and_then(|url| sts_region(url.host_str()?))
            .filter(|_| !is_public);
        Self {
            region: named.unwrap_or(DEFAULT_REGION).to_owned(),
            fips: false,
            dual_stack: false,
        }
    }

    pub(super) fn region(&self) -> Region {
        Region::new(self.region.clone())
    }

    /// `host:port` of the region's STS, by the SDK's own rules.
    pub(super) fn sts(&self) -> Option<String> {
        let params = Params::builder()
            .region(self.region.as_str())
            .use_fips(self.fips)
            .use_dual_stack(self.dual_stack)
            .build()
            .ok()?;
        let rules = DefaultResolver::new();
        // They are a table: there is nothing to wait for.
        let endpoint = rules.resolve_endpoint(&params).now_or_never()?.ok()?;
        let url = Url::parse(endpoint.url()).ok()?;
        let port = url.port_or_known_default()?;
        Some(format!("{}:{port}", url.host_str()?))
    }
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
