//! The SDK's own resolvers are asked.

use aws_sdk_ecr::config::endpoint::ResolveEndpoint as _;
use aws_sdk_ecrpublic::config::endpoint::ResolveEndpoint as _;
use shared::binding::ExchangeKind;
use shared::clouds;

use super::*;

/// One region of each partition, and those with names of their own.
const REGIONS: [&str; 15] = [
    "us-east-1",
    "us-west-2",
    "ap-southeast-7",
    "mx-central-1",
    "eu-central-1",
    "us-gov-west-1",
    "us-gov-east-1",
    "cn-north-1",
    "cn-northwest-1",
    "eusc-de-east-1",
    "us-iso-east-1",
    "us-isob-east-1",
    "eu-isoe-west-1",
    "us-isof-south-1",
    "il-central-1",
];

macro_rules! endpoint {
    ($sdk:ident, $place:expr) => {{
        let Place {
            region,
            fips,
            dual_stack,
        } = $place;
        let params = $sdk::config::endpoint::Params::builder()
            .region(region.as_str())
            .use_fips(*fips)
            .use_dual_stack(*dual_stack)
            .build()
            .unwrap();
        let resolver = $sdk::config::endpoint::DefaultResolver::new();
        let found = resolver.resolve_endpoint(&params).now_or_never().unwrap();
        let url = Url::parse(found.unwrap().url()).unwrap();
        url.host_str().unwrap().to_owned()
    }};
}

#[test]
fn every_endpoint_of_the_sdk_counts_as_the_clouds_own() {
    for region in REGIONS {
        for (fips, dual_stack) in [(false, false), (true, false), (false, true), (true, true)] {
            let place = Place {
                region: region.to_owned(),
                fips,
                dual_stack,
            };
            let sts = place.sts().unwrap();
            let sts = sts.strip_suffix(":443").unwrap();
            assert!(
                clouds::is_token_service(ExchangeKind::Ecr, sts, 443),
                "{sts}"
            );
            assert!(
                clouds::is_token_service(ExchangeKind::EcrPublic, sts, 443),
                "{sts}"
            );
            assert_eq!(sts_region(sts), Some(region), "{sts}");
            for host in [
                endpoint!(aws_sdk_ecr, &place),
                endpoint!(aws_sdk_ecrpublic, &place),
            ] {
                assert!(clouds::is_service(ExchangeKind::Ecr, &host, 443), "{host}");
                assert!(
                    !clouds::is_token_service(ExchangeKind::Ecr, &host, 443),
                    "{host}"
                );
            }
        }
    }
}

fn place(host: &str, is_public: bool, token_url: Option<&str>) -> (String, bool, bool) {
    let host = RegistryHost::parse(host).unwrap();
    let Place {
        region,
        fips,
        dual_stack,
    } = Place::of(&host, is_public, token_url);
    (region, fips, dual_stack)
}

#[test]
fn the_host_tells_the_region_before_the_token_service_does() {
    let own = "123456789012.dkr.ecr.us-gov-west-1.amazonaws.com";
    let other = "registry.example.test";
    let sts = Some("https://sts.us-gov-east-1.amazonaws.com");
    let plain = |region: &str| (region.to_owned(), false, false);
    assert_eq!(place(own, false, None), plain("us-gov-west-1"));
    assert_eq!(place(own, false, sts), plain("us-gov-west-1"));
    assert_eq!(place(other, false, sts), plain("us-gov-east-1"));
    assert_eq!(
        place(other, false, Some("https://sts.example.test")),
        plain("us-east-1")
    );
    assert_eq!(place(other, false, None), plain("us-east-1"));
    assert_eq!(place("public.ecr.aws", true, sts), plain("us-east-1"));
}
