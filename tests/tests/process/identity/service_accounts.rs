//! Tokens of Kubernetes service accounts: made by the API server on behalf of
//! the control plane, good for one audience that is not this cluster, and over
//! with their Secret.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::bindings::{self, has_condition};
use harness::process::wait_until;
use harness::scene::{ARGOCD, OWN_AUDIENCE};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use k8s_openapi::jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use shared::binding::CloudAccount;
use shared::errors::Code;

use super::bench::{
    Ask, Bench, SERVER, bound_token, pod, registry, repository, secrets, service_accounts,
};
use super::forgery::header;
use crate::api::Rest;
use crate::case::{Case, shared};
use crate::scene::Scene;

const SOON: Duration = Duration::from_secs(60);
/// The shortest life that the API server gives; the installation's is shorter.
const LIFE: i64 = 600;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(a_token_for_one_audience_ends_with_its_secret),
        shared!(a_missing_account_is_said_and_waited_for),
        shared!(tokens_for_this_cluster_are_not_handed_out),
        shared!(cloud_accounts_travel_in_the_binding),
    ]
}

/// A Secret of a project of the same name whose identity is a service account.
async fn store(rest: &Rest, name: &str, changes: &[(&str, &str)]) -> Result<Value> {
    let mut all = vec![
        ("project", name),
        ("workloadIdentityCredential", "ServiceAccountToken"),
    ];
    all.extend(changes);
    let stored: Value = serde_json::from_str(&repository(name, &all))?;
    Ok(rest.create(&secrets(ARGOCD), &stored).await?.object)
}

async fn account(rest: &Rest, name: &str) -> Result<()> {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": name },
    });
    rest.create(&service_accounts(ARGOCD), &object)
        .await
        .map(drop)
}

async fn remove(rest: &Rest, name: &str) -> Result<()> {
    rest.delete(&format!("{}/{name}", secrets(ARGOCD)))
        .await
        .map(drop)
}

/// What the API server says about a token; no audience is its own.
async fn review(rest: &Rest, token: &str, audiences: &[&str]) -> Result<Value> {
    let question = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": { "token": token, "audiences": audiences },
    });
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let mut answer = rest.create(path, &question).await?.object;
    Ok(answer["status"].take())
}

async fn a_token_for_one_audience_ends_with_its_secret(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "minted").await?;
    let rest = &bench.rest;
    let name = "identity-minted-project";
    let secret = store(rest, name, &[]).await?;
    account(rest, &format!("argocd-project-{name}")).await?;
    let ask = Ask {
        binding: name.to_owned(),
        ..bench.granted()
    };
    let before = Timestamp::now().as_second();
    let given = bench.api.ask(&ask).await?.granted()?;
    let after = Timestamp::now().as_second();
    let subject = format!("system:serviceaccount:{ARGOCD}:argocd-project-{name}");
    let host = registry(name);
    ensure!(given.subject == subject, "{given:?}");
    ensure!(given.audience == host, "{given:?}");
    let expires = given.expires_at.as_second();
    ensure!((before + LIFE..=after + LIFE).contains(&expires));

    // As a verifier elsewhere reads it, by the API server's documents.
    let token = given.token.expose_secret();
    let discovery = rest.read("/.well-known/openid-configuration").await?;
    let keys: JwkSet = serde_json::from_value(rest.read("/openid/v1/jwks").await?)?;
    let kid = header(token)?.kid.context("the token has no kid")?;
    let key = keys.find(&kid).context("the key is not published")?;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&[discovery["issuer"].as_str().context("no issuer")?]);
    validation.set_audience(&[&host]);
    let read = decode::<Value>(token, &DecodingKey::from_jwk(key)?, &validation);
    let claims = read.context("verify the token")?.claims;
    ensure!(claims["sub"] == subject.as_str(), "{claims}");
    ensure!(claims["aud"] == json!([host]), "{claims}");
    ensure!(claims["exp"] == expires, "{claims}");
    let bound = &claims["kubernetes.io"]["secret"];
    let expected = json!({ "name": name, "uid": secret["metadata"]["uid"] });
    ensure!(*bound == expected, "{claims}");

    let reviewed = review(rest, token, &[&host]).await?;
    ensure!(reviewed["authenticated"] == true, "{reviewed}");
    ensure!(reviewed["user"]["username"] == subject.as_str());
    let own = review(rest, token, &[]).await?;
    ensure!(own["authenticated"] != true, "{own}");

    // For the same consumer only, and the same pods as ever.
    let server = pod(rest, ARGOCD, name, SERVER, &bench.name).await?;
    let spoofed = Ask {
        pod: bound_token(rest, &server).await?,
        ..ask.clone()
    };
    bench.api.refuses(&spoofed, 403, Code::NotAConsumer).await?;
    let spoofed = Ask {
        pod: token.to_owned(),
        ..ask.clone()
    };
    bench
        .api
        .refuses(&spoofed, 403, Code::PodTokenRejected)
        .await?;
    let spoofed = Ask {
        agent: ask.pod.clone(),
        ..ask.clone()
    };
    bench
        .api
        .refuses(&spoofed, 403, Code::AgentNotAuthorized)
        .await?;

    remove(rest, name).await?;
    let host = &host;
    wait_until("the token to end with its Secret", SOON, || async move {
        let reviewed = review(rest, token, &[host]).await?;
        ensure!(reviewed["authenticated"] != true, "{reviewed}");
        Ok(())
    })
    .await?;
    bench.api.refuses(&ask, 404, Code::BindingNotFound).await?;
    bench.close().await
}

async fn a_missing_account_is_said_and_waited_for(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "accountless").await?;
    let rest = &bench.rest;
    let name = "identity-accountless-project";
    let of_project = format!("argocd-project-{name}");
    store(rest, name, &[]).await?;
    let ask = Ask {
        binding: name.to_owned(),
        ..bench.granted()
    };
    let missing = Code::ServiceAccountMissing;
    let message = bench.api.refuses(&ask, 404, missing).await?;
    ensure!(message.contains(&of_project), "{message}");
    let api = &bindings::api(bench.admin.clone(), ARGOCD);
    let said = ("Degraded", "True", missing.as_str());
    has_condition(api, name, said, SOON).await?;

    account(rest, &of_project).await?;
    bench.api.ask(&ask).await?.granted()?;
    wait_until("the condition without it", SOON, || async move {
        let found = api.get(name).await?;
        let degraded = bindings::condition(&found, "Degraded");
        let (_, reason) = degraded.context("no condition")?;
        ensure!(reason != missing.as_str(), "{:?}", found.status);
        Ok(())
    })
    .await?;
    remove(rest, name).await?;
    bench.close().await
}

async fn tokens_for_this_cluster_are_not_handed_out(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "own-audience").await?;
    let rest = &bench.rest;
    for (name, audience) in [
        ("identity-usual-audience", "https://kubernetes.default.svc"),
        // Nothing but the API server itself knows this one.
        ("identity-own-audience-project", OWN_AUDIENCE),
    ] {
        account(rest, &format!("argocd-project-{name}")).await?;
        store(rest, name, &[("workloadIdentityAudience", audience)]).await?;
        let ask = Ask {
            binding: name.to_owned(),
            ..bench.granted()
        };
        for _ in 0..2 {
            let refused = bench.api.refuses(&ask, 409, Code::AudienceForbidden);
            let message = refused.await?;
            ensure!(message.contains(audience), "{message}");
        }
        remove(rest, name).await?;
    }
    bench.close().await
}

/// The controller looks again when the service account changes.
async fn cloud_accounts_travel_in_the_binding(scene: &Scene) -> Result<()> {
    let rest = &scene.rest()?;
    let name = "identity-cloud-account";
    let of_project = format!("argocd-project-{name}");
    account(rest, &of_project).await?;
    let url = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/charts";
    store(
        rest,
        name,
        &[
            ("url", url),
            ("workloadIdentityProvider", "aws"),
            ("workloadIdentityAudience", ""),
            ("workloadIdentityRegistryAuthURL", ""),
            ("workloadIdentityRegistryUsername", ""),
        ],
    )
    .await?;
    let api = &bindings::api(scene.client()?, ARGOCD);
    let missing = Code::ServiceAccountAnnotationMissing;
    let said = ("Degraded", "True", missing.as_str());
    let found = has_condition(api, name, said, SOON).await?;
    ensure!(found.spec.exchange.account.is_none(), "{:?}", found.spec);

    let path = format!("{}/{of_project}", service_accounts(ARGOCD));
    for role_arn in ["first", "second"].map(|role| format!("arn:aws:iam::123456789012:role/{role}"))
    {
        let annotations = json!({ "eks.amazonaws.com/role-arn": role_arn });
        let change = json!({ "metadata": { "annotations": annotations } });
        rest.merge(&path, &change).await?;
        let expected = &CloudAccount::Aws { role_arn };
        wait_until("the account in the binding", SOON, || async move {
            let found = api.get(name).await?.spec.exchange.account;
            ensure!(found.as_ref() == Some(expected), "{found:?}");
            Ok(())
        })
        .await?;
    }
    remove(rest, name).await
}
