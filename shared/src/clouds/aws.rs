//! Amazon Web Services: registries of ECR, and the endpoints of STS and ECR
//! (AWS service endpoints and quotas; ECR user guide, "registry URI").

use crate::registry::RegistryHost;

/// Where a registry's host name does not tell.
pub const DEFAULT_REGION: &str = "us-east-1";
/// The host of every public registry.
pub const ECR_PUBLIC: &str = "public.ecr.aws";

/// Endings of service endpoints, over all partitions.
const ENDPOINT_SUFFIXES: [&str; 14] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "amazonaws.eu",
    "c2s.ic.gov",
    "sc2s.sgov.gov",
    "cloud.adc-e.uk",
    "csp.hci.ic.gov",
    // Dual stack.
    "api.aws",
    "api.amazonwebservices.com.cn",
    "api.amazonwebservices.eu",
    "api.aws.ic.gov",
    "api.aws.scloud",
    "api.cloud-aws.adc-e.uk",
    "api.aws.hci.ic.gov",
];

/// A private registry by its own host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcrHost {
    /// The account that owns it.
    pub account: String,
    /// Its region.
    pub region: String,
    /// Its endpoints have validated cryptography (FIPS 140).
    pub fips: bool,
    /// It is reached by IPv6, too.
    pub dual_stack: bool,
}

impl EcrHost {
    /// Reads `<account>.dkr.ecr.<region>.amazonaws.com` and its forms in other
    /// partitions, with FIPS and with dual stack; `None` for another host, and
    /// at another port.
    pub fn parse(host: &RegistryHost) -> Option<Self> {
        if !matches!(host.port(), None | Some(443)) {
            return None;
        }
        let (account, rest) = host.name().split_once('.')?;
        if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let (rest, dual_stack) = match (rest.strip_prefix("dkr.ecr"), rest.strip_prefix("dkr-ecr"))
        {
            (Some(rest), _) => (rest, false),
            (None, Some(rest)) => (rest, true),
            (None, None) => return None,
        };
        let (rest, fips) = match rest.strip_prefix("-fips.") {
            Some(rest) => (rest, true),
            None => (rest.strip_prefix('.')?, false),
        };
        let (region, suffix) = rest.split_once('.')?;
        let suffixes: &[&str] = if dual_stack {
            &["on.aws", "on.amazonwebservices.com.cn"]
        } else {
            &[
                "amazonaws.com",
                "amazonaws.com.cn",
                "amazonaws.eu",
                "c2s.ic.gov",
                "sc2s.sgov.gov",
                "cloud.adc-e.uk",
                "csp.hci.ic.gov",
            ]
        };
        (is_region(region) && suffixes.contains(&suffix)).then(|| Self {
            account: account.to_owned(),
            region: region.to_owned(),
            fips,
            dual_stack,
        })
    }
}

/// Whether `host` is an endpoint of the Security Token Service.
pub fn is_sts(host: &str) -> bool {
    host == "sts.amazonaws.com" || is_endpoint(host, &["sts", "sts-fips"])
}

/// Whether `host` is an endpoint of the API of ECR or ECR Public.
pub fn is_ecr_api(host: &str) -> bool {
    let services = [
        "api.ecr",
        "api.ecr-fips",
        "ecr",
        "ecr-fips",
        "fips.api.ecr",
        "api.ecr-public",
        "api.ecr-public-fips",
        "ecr-public",
        "ecr-public-fips",
    ];
    is_endpoint(host, &services)
}

/// The region that an STS endpoint is in, where its name has one.
pub fn sts_region(host: &str) -> Option<&str> {
    let (_, rest) = host.split_once('.').filter(|_| is_sts(host))?;
    let region = rest.split('.').next()?;
    is_region(region).then_some(region)
}

/// `<service>.<region>.<suffix>`.
fn is_endpoint(host: &str, services: &[&str]) -> bool {
    services.iter().any(|service| {
        let rest = host
            .strip_prefix(service)
            .and_then(|rest| rest.strip_prefix('.'));
        rest.and_then(|rest| rest.split_once('.'))
            .is_some_and(|(region, suffix)| {
                is_region(region) && ENDPOINT_SUFFIXES.contains(&suffix)
            })
    })
}

/// `us-west-2`, `us-gov-west-1`, `us-isob-east-1`.
fn is_region(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let [first, between @ .., last] = &parts[..] else {
        return false;
    };
    let is_word = |part: &str| part.len() > 1 && part.bytes().all(|b| b.is_ascii_lowercase());
    let is_number = last.len() <= 2 && last.bytes().all(|b| b.is_ascii_digit());
    is_word(first)
        && !between.is_empty()
        && between.iter().all(|it| is_word(it))
        && is_number
        && !last.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn region(host: &str) -> Option<(String, bool, bool)> {
        let found = EcrHost::parse(&RegistryHost::parse(host).unwrap())?;
        Some((found.region, found.fips, found.dual_stack))
    }

    #[test]
    fn every_form_of_a_private_registry_is_known() {
        for (host, expected, fips, dual_stack) in [
            ("dkr.ecr.us-west-2.amazonaws.com", "us-west-2", false, false),
            (
                "dkr.ecr.eu-central-1.amazonaws.com",
                "eu-central-1",
                false,
                false,
            ),
            (
                "dkr.ecr-fips.us-gov-west-1.amazonaws.com",
                "us-gov-west-1",
                true,
                false,
            ),
            (
                "dkr.ecr.cn-north-1.amazonaws.com.cn",
                "cn-north-1",
                false,
                false,
            ),
            (
                "dkr.ecr.eusc-de-east-1.amazonaws.eu",
                "eusc-de-east-1",
                false,
                false,
            ),
            ("dkr-ecr.us-east-1.on.aws", "us-east-1", false, true),
            ("dkr-ecr-fips.us-east-1.on.aws", "us-east-1", true, true),
            (
                "dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
                "cn-north-1",
                false,
                true,
            ),
            (
                "dkr.ecr.us-isob-east-1.sc2s.sgov.gov",
                "us-isob-east-1",
                false,
                false,
            ),
            (
                "dkr.ecr.us-iso-east-1.c2s.ic.gov",
                "us-iso-east-1",
                false,
                false,
            ),
            (
                "dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk",
                "eu-isoe-west-1",
                false,
                false,
            ),
            (
                "dkr.ecr.us-isof-south-1.csp.hci.ic.gov",
                "us-isof-south-1",
                false,
                false,
            ),
        ] {
            let found = region(&format!("123456789012.{host}"));
            assert_eq!(
                found,
                Some((expected.to_owned(), fips, dual_stack)),
                "{host}"
            );
        }
        for host in [
            "public.ecr.aws",
            "12345.dkr.ecr.us-west-2.amazonaws.com",
            "123456789012.dkr.ecr.us-west-2.amazonaws.com.evil.test",
            "123456789012.dkr.ecr.us-west-2.evil.amazonaws.com",
            "123456789012.dkr.ecr.amazonaws.com",
            "123456789012.dkr.ecr.us-west-2.amazonaws.com:8443",
            "123456789012.dkr.ecr.us-west-2.on.aws",
            "a123456789012.dkr.ecr.us-west-2.amazonaws.com",
            "registry.test",
        ] {
            assert_eq!(region(host), None, "{host}");
        }
    }

    #[test]
    fn endpoints_are_those_that_no_customer_names() {
        for host in [
            "sts.amazonaws.com",
            "sts.us-west-2.amazonaws.com",
            "sts-fips.us-east-1.amazonaws.com",
            "sts.us-gov-west-1.amazonaws.com",
            "sts.cn-north-1.amazonaws.com.cn",
            "sts.us-east-1.api.aws",
        ] {
            assert!(is_sts(host), "{host}");
            assert!(!is_ecr_api(host), "{host}");
        }
        for host in [
            "api.ecr.us-west-2.amazonaws.com",
            "ecr-fips.us-gov-east-1.amazonaws.com",
            "ecr.us-west-2.api.aws",
            "api.ecr-public.us-east-1.amazonaws.com",
        ] {
            assert!(is_ecr_api(host), "{host}");
            assert!(!is_sts(host), "{host}");
        }
        for host in [
            "sts.s3.amazonaws.com",
            "sts.bucket.s3.amazonaws.com",
            "sts.us-west-2.elb.amazonaws.com",
            "sts.us-west-2.amazonaws.com.evil.test",
            "evil-sts.us-west-2.amazonaws.com",
            "s3.us-west-2.amazonaws.com",
            "sts.us-west-2.amazonaws.org",
        ] {
            assert!(!is_sts(host) && !is_ecr_api(host), "{host}");
        }
        assert_eq!(
            sts_region("sts.us-gov-west-1.amazonaws.com"),
            Some("us-gov-west-1")
        );
        assert_eq!(sts_region("sts.amazonaws.com"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics_and_nothing_foreign_counts(prefix in "[a-z0-9.-]{0,40}", suffix in "[a-z]{2,5}[.]test") {
            let host = format!("{prefix}.{suffix}");
            prop_assert!(!is_sts(&host) && !is_ecr_api(&host));
            if let Ok(host) = RegistryHost::parse(&host) {
                prop_assert_eq!(EcrHost::parse(&host), None);
            }
        }
    }
}
