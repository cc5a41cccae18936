//! Where the SDKs' requests go.

use agent::exchange::Exchange as _;
use harness::aws::Api;
use shared::errors::Code;

use super::*;

/// Registry, its STS, its API: a line for each form and partition.
const PLACES: [(&str, &str, &str); 13] = [
    ("123456789012.dkr.ecr.us-west-2.amazonaws.com", STS, API),
    (
        "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
        "sts.eu-central-1.amazonaws.com",
        "api.ecr.eu-central-1.amazonaws.com",
    ),
    (
        "123456789012.dkr.ecr-fips.us-east-1.amazonaws.com",
        "sts-fips.us-east-1.amazonaws.com",
        "api.ecr-fips.us-east-1.amazonaws.com",
    ),
    (
        "123456789012.dkr-ecr.us-east-1.on.aws",
        "sts.us-east-1.api.aws",
        "ecr.us-east-1.api.aws",
    ),
    (
        "123456789012.dkr-ecr-fips.us-east-1.on.aws",
        "sts-fips.us-east-1.api.aws",
        "ecr-fips.us-east-1.api.aws",
    ),
    (
        "123456789012.dkr.ecr.us-gov-west-1.amazonaws.com",
        "sts.us-gov-west-1.amazonaws.com",
        "api.ecr.us-gov-west-1.amazonaws.com",
    ),
    (
        "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
        "sts.us-gov-west-1.amazonaws.com",
        "api.ecr-fips.us-gov-west-1.amazonaws.com",
    ),
    (
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
        "sts.cn-north-1.amazonaws.com.cn",
        "api.ecr.cn-north-1.amazonaws.com.cn",
    ),
    (
        "123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
        "sts.cn-north-1.api.amazonwebservices.com.cn",
        "ecr.cn-north-1.api.amazonwebservices.com.cn",
    ),
    (
        "123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu",
        "sts.eusc-de-east-1.amazonaws.eu",
        "api.ecr.eusc-de-east-1.amazonaws.eu",
    ),
    (
        "123456789012.dkr.ecr.us-isob-east-1.sc2s.sgov.gov",
        "sts.us-isob-east-1.sc2s.sgov.gov",
        "api.ecr.us-isob-east-1.sc2s.sgov.gov",
    ),
    (
        "123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov",
        "sts.us-iso-east-1.c2s.ic.gov",
        "api.ecr.us-iso-east-1.c2s.ic.gov",
    ),
    (PUBLIC, PUBLIC_STS, PUBLIC_API),
];

fn hosts(world: &World) -> Vec<String> {
    world.aws.requests().into_iter().map(|it| it.host).collect()
}

#[tokio::test]
async fn every_form_of_a_host_leads_to_its_own_services() {
    for (registry, sts, api) in PLACES {
        let world = World::new(&[sts, api]).await;
        world.role("production");
        let token = world.token(&service_account("production"));
        let ecr = ecr(registry, "production");
        assert_eq!(ecr.upstream(), format!("{sts}:443"));
        let found = world.exchange(&ecr, &token).await;
        assert_eq!(found.err().map(|it| it.error), None, "{registry}");
        assert_eq!(hosts(&world), [sts, api], "{registry}");
    }
}

#[tokio::test]
async fn the_token_url_replaces_sts_alone() {
    const OTHER: &str = "sts.us-east-2.amazonaws.com";
    const OWN: &str = "vpce-1.sts.example.test";
    let world = World::new(&[OTHER, OWN, API]).await;
    world.role("production");
    let token = world.token(&service_account("production"));
    for host in [OTHER, OWN] {
        for path in ["", "/"] {
            let ecr = Ecr {
                token_url: Some(format!("https://{host}{path}")),
                ..ecr(REGISTRY, "production")
            };
            assert_eq!(ecr.upstream(), format!("{host}:443"));
            let found = world.exchange(&ecr, &token).await;
            assert_eq!(found.err().map(|it| it.error), None, "{host}");
        }
    }
    assert_eq!(hosts(&world), [OTHER, API, OTHER, API, OWN, API, OWN, API]);
}

#[tokio::test]
async fn a_token_goes_to_no_other_host_and_to_no_address_of_the_node() {
    const OWN: &str = "vpce-1.sts.example.test";
    let world = World::new(&[OWN, STS, API]).await;
    world.role("production");
    let token = world.token(&service_account("production"));
    let ecr = |token_url: Option<&str>| Ecr {
        token_url: token_url.map(str::to_owned),
        ..ecr(REGISTRY, "production")
    };
    let list = format!("{STS};private");
    for (allowed, url, expected) in [
        (
            "",
            Some("https://vpce-1.sts.example.test"),
            Code::HostNotAllowed,
        ),
        (
            "",
            Some("https://api.ecr.us-west-2.amazonaws.com.example.test"),
            Code::HostNotAllowed,
        ),
        (
            "",
            Some("http://sts.us-west-2.amazonaws.com"),
            Code::AuthUrlInvalid,
        ),
        ("", None, Code::AddressRefused),
        (
            "vpce-1.sts.example.test",
            Some("https://vpce-1.sts.example.test"),
            Code::AddressRefused,
        ),
    ] {
        let error = world
            .exchange_within(allowed, &ecr(url), &token)
            .await
            .unwrap_err()
            .error;
        assert_eq!(error.code, expected, "{url:?}: {error}");
    }
    assert_eq!(world.aws.requests().len(), 0);
    let error = world
        .exchange_within(&list, &ecr(None), &token)
        .await
        .unwrap_err()
        .error;
    assert_eq!(
        error.code,
        Code::AddressRefused,
        "the API's address counts, too: {error}"
    );
    assert_eq!(world.aws.count(|it| it.api == Api::Sts), 1);
}
