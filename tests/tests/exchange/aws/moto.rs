//! The same SDKs against moto, which verifies what they sign.

use harness::moto::{ACCOUNT, Moto};

use super::*;

#[tokio::test]
async fn motos_sts_and_ecr_answer_the_sdk_and_accept_its_signatures() {
    let upstreams = Upstreams::new().unwrap();
    let issuer = Issuer::start(&upstreams).await.unwrap();
    let moto = Moto::start(&upstreams.authority, &[STS, API], upstreams.folder());
    let moto = moto.await.unwrap();
    upstreams.point(STS, moto.address);
    upstreams.point(API, moto.address);
    let actions = ["ecr:GetAuthorizationToken"];
    let allowed = moto
        .add_role("argocd-project-production", &actions)
        .await
        .unwrap();
    let denied = moto.add_role("argocd-project-staging", &[]).await.unwrap();
    let token = issuer
        .token(
            &service_account("production"),
            AUDIENCE,
            Duration::from_secs(3600),
        )
        .unwrap();
    let list = format!("{STS};private,{API};private");
    let outlet = upstreams
        .outlet(ExchangeKind::Ecr, REGISTRY, &list)
        .unwrap();
    let of = |role_arn| Ecr {
        role_arn,
        ..ecr(REGISTRY, "production")
    };

    moto.verify_after_one().await.unwrap();
    let found = of(allowed).exchange(&outlet, &token).await;
    let fresh = found.unwrap_or_else(|it| {
        panic!(
            "{}
{}",
            it.error,
            moto.log()
        )
    });
    assert_eq!(
        fresh.expires_at.to_string(),
        "2015-01-01T00:00:00Z",
        "moto's own"
    );
    let basic = basic(fresh);
    assert_eq!(basic.username, "AWS");
    assert_eq!(
        basic.secret.expose_secret(),
        format!("{ACCOUNT}-auth-token")
    );

    moto.verify_after_one().await.unwrap();
    let error = of(denied)
        .exchange(&outlet, &token)
        .await
        .unwrap_err()
        .error;
    // moto refuses in XML whatever the protocol, so the code is lost.
    assert!(
        error
            .detail
            .contains("GetAuthorizationToken: HTTP status 403"),
        "{error}"
    );
}
