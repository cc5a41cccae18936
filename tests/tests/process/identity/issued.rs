//! What is given: a JWT-SVID that everybody can verify by the served documents,
//! and that appears nowhere else.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use harness::installation::NAMESPACE;
use harness::process::wait_until;
use harness::scene::ARGOCD;
use harness::targets::{SPOKE_AUDIENCE, identity};
use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use k8s_openapi::jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use shared::errors::Code;

use super::bench::{
    Ask, Bench, IdentityApi, REPO_SERVER, SERVER, accounts, answer, bound_token, describe, http,
    pod, pods, registry, remove, repository, secrets,
};
use super::consumers::cluster_secret;
use super::forgery::header;
use crate::api::Rest;
use crate::case::{Case, shared};
use crate::scene::{LIVES, Scene};

const SOON: Duration = Duration::from_secs(60);

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(an_agent_gets_the_identity_of_a_binding),
        shared!(a_real_api_server_takes_it),
        shared!(tokens_are_in_no_log),
    ]
}

/// The real agent's pod, and a running consumer on its node.
async fn an_agent_gets_the_identity_of_a_binding(scene: &Scene) -> Result<()> {
    let (rest, api) = (scene.rest()?, IdentityApi::new(scene)?);
    accounts(&rest, ARGOCD).await?;
    let name = "identity-issued";
    let stored: Value = serde_json::from_str(&repository(name, &[]))?;
    rest.create(&secrets(ARGOCD), &stored).await?;
    let ours = Some(shared::layout::TOKEN_AUDIENCE);
    let node = &scene.around.node;
    let agent = node
        .running_pod(NAMESPACE, "app.kubernetes.io/component=agent", SOON)
        .await?;
    let mut consumer = describe(ARGOCD, name, REPO_SERVER, node.name());
    consumer["metadata"]["labels"] = json!({ "trial": name });
    // A node gets tokens for the audiences that a pod's volumes ask for. This one
    // stands for the CSI volume, which would have the agent work for the pod.
    let source = json!({ "serviceAccountToken": { "path": "token", "audience": ours } });
    consumer["spec"]["volumes"] =
        json!([{ "name": "token", "projected": { "sources": [source] } }]);
    let made = rest.create(&pods(ARGOCD), &consumer).await?.object;
    let consumer = node
        .running_pod(ARGOCD, "trial=identity-issued", SOON)
        .await?;
    let ask = Ask {
        agent: node.token(&agent, ours, 600).await?,
        namespace: ARGOCD.to_owned(),
        binding: name.to_owned(),
        pod: node.token(&consumer, ours, 600).await?,
    };

    let before = Timestamp::now().as_second();
    let given = api.ask(&ask).await?.granted()?;
    let after = Timestamp::now().as_second();
    let host = registry(name);
    ensure!(given.subject == identity("argocd-global"), "{given:?}");
    ensure!(given.audience == host, "{given:?}");

    let token = given.token.expose_secret();
    let documents = documents(scene).await?;
    let header = header(token)?;
    ensure!(header.alg == Algorithm::RS256, "{header:?}");
    let kid = header.kid.as_deref().context("the token has no kid")?;
    let key = documents.keys.find(kid);
    let key = key.with_context(|| format!("no key {kid} is served"))?;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&[scene.installation.plan.issuer_url()]);
    validation.set_audience(&[&host]);
    validation.validate_nbf = true;
    validation.leeway = 0;
    let read = decode::<Value>(token, &DecodingKey::from_jwk(key)?, &validation);
    let claims = read.context("verify the token")?.claims;

    let lifetime = i64::try_from(LIVES.identity.as_secs())?;
    let issued = claims["iat"].as_i64().context("no iat")?;
    ensure!((before..=after).contains(&issued), "{claims}");
    let id = claims["jti"].as_str().context("no jti")?;
    ensure!(id.len() > 20, "{claims}");
    let expected = json!({
        "iss": scene.installation.plan.issuer_url(),
        "sub": identity("argocd-global"),
        "aud": [host],
        "iat": issued,
        "nbf": issued,
        "exp": issued + lifetime,
        "jti": id,
    });
    ensure!(claims == expected, "{claims}");
    ensure!(given.expires_at.as_second() == issued + lifetime);

    let again = api.ask(&ask).await?.granted()?;
    ensure!(again.token.expose_secret() != token, "a token came twice");

    // What it issues is no token to ask with.
    let own = Ask {
        agent: token.to_owned(),
        ..ask.clone()
    };
    api.refuses(&own, 401, Code::AgentTokenRejected).await?;
    let own = Ask {
        pod: token.to_owned(),
        ..ask
    };
    api.refuses(&own, 403, Code::PodTokenRejected).await?;
    remove(&scene.client()?, &made).await?;
    rest.delete(&format!("{}/{name}", secrets(ARGOCD))).await?;
    Ok(())
}

struct Documents {
    keys: JwkSet,
}

/// The discovery document and the keys that it names, as a verifier reads them.
async fn documents(scene: &Scene) -> Result<Documents> {
    let http = http(scene)?;
    let issuer = scene.installation.plan.issuer_url();
    let url = format!("{issuer}/.well-known/openid-configuration");
    let found = answer(http.get(&url)).await?;
    ensure!(found.status.is_success(), "{found:?}");
    let kind = found.headers.get("content-type");
    ensure!(
        kind.is_some_and(|kind| kind == "application/json"),
        "{found:?}"
    );
    let discovery: Value = serde_json::from_str(&found.body)?;
    let keys_url = format!("{issuer}/keys");
    let expected = json!({
        "issuer": issuer,
        "jwks_uri": keys_url,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    });
    ensure!(discovery == expected, "{discovery}");
    let found = answer(http.get(&keys_url)).await?;
    ensure!(found.status.is_success(), "{found:?}");
    let raw: Value = serde_json::from_str(&found.body)?;
    let public = BTreeSet::from(["alg", "e", "kid", "kty", "n", "use"]);
    for key in raw["keys"].as_array().context("no keys")? {
        let members = key.as_object().context("a key is no object")?;
        let names: BTreeSet<_> = members.keys().map(String::as_str).collect();
        // Public members only.
        ensure!(names == public, "{names:?}");
    }
    let keys: JwkSet = serde_json::from_value(raw)?;
    for key in &keys.keys {
        ensure!(
            matches!(key.algorithm, AlgorithmParameters::RSA(_)),
            "{key:?}"
        );
    }
    Ok(Documents { keys })
}

/// The remote cluster, which trusts the issuer for one audience.
async fn a_real_api_server_takes_it(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "remote").await?;
    let rest = &bench.rest;
    let name = "identity-remote-cluster";
    rest.create(&secrets(ARGOCD), &cluster_secret(scene, name)?)
        .await?;
    let server = pod(rest, ARGOCD, name, SERVER, &bench.name).await?;
    let ask = Ask {
        binding: name.to_owned(),
        pod: bound_token(rest, &server).await?,
        ..bench.granted()
    };
    let for_cluster = bench.api.ask(&ask).await?.granted()?;
    ensure!(for_cluster.audience == SPOKE_AUDIENCE, "{for_cluster:?}");
    let subject = identity(&format!("argocd-cluster-{name}"));
    ensure!(for_cluster.subject == subject, "{for_cluster:?}");

    let token = for_cluster.token.expose_secret();
    let remote = Rest::new(scene.remote.client_with_token(token)?);
    let whoami = who(&remote).await?;
    ensure!(whoami["username"] == subject.as_str(), "{whoami}");

    let for_registry = bench.api.ask(&bench.granted()).await?.granted()?;
    let token = for_registry.token.expose_secret();
    let stranger = Rest::new(scene.remote.client_with_token(token)?);
    match who(&stranger).await.map_err(|error| error.downcast()) {
        Err(Ok(kube::Error::Api(status))) if status.code == 401 => {}
        other => bail!("a registry's token was taken: {other:?}"),
    }
    rest.delete(&format!("{}/{name}", secrets(ARGOCD))).await?;
    bench.close().await
}

/// Whom an API server takes the caller for.
async fn who(rest: &Rest) -> Result<Value> {
    let question = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "SelfSubjectReview",
    });
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let mut answer = rest.create(path, &question).await?.object;
    Ok(answer["status"]["userInfo"].take())
}

/// Granted and refused requests, and bodies that are not even requests.
async fn tokens_are_in_no_log(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "log").await?;
    let good = bench.granted();
    let given = bench.api.ask(&good).await?.granted()?;
    let swapped = Ask {
        agent: good.pod.clone(),
        pod: good.agent.clone(),
        ..good.clone()
    };
    bench
        .api
        .refuses(&swapped, 403, Code::AgentNotAuthorized)
        .await?;
    let in_binding = Ask {
        binding: good.agent.clone(),
        ..good.clone()
    };
    bench
        .api
        .refuses(&in_binding, 400, Code::BadRequest)
        .await?;
    for body in [
        format!("{{\"namespace\": \"argocd\", \"podToken\": \"{}", good.pod),
        json!({ "namespace": "argocd", "binding": "x", "podToken": [good.pod] }).to_string(),
        json!({ good.pod.clone(): 1 }).to_string(),
    ] {
        let refused = answer(bench.api.call(Some(&good.agent), body)).await?;
        refused.refused(400, Code::BadRequest)?;
    }
    // The last request leaves a mark in the log; what came before is there too.
    let mark = Ask {
        binding: "identity-log-mark".to_owned(),
        ..good.clone()
    };
    bench.api.refuses(&mark, 404, Code::BindingNotFound).await?;

    let control_plane = scene.installation.control_plane.log();
    let read = || fs::read_to_string(control_plane).context("read the control plane's log");
    let log = wait_until("the mark in the log", SOON, || async move {
        let log = read()?;
        ensure!(log.contains("identity-log-mark"), "it is not there");
        Ok(log)
    })
    .await?;
    let agent = fs::read_to_string(scene.installation.agent.log()).context("the agent's log")?;
    for (whose, log) in [("control plane", &log), ("agent", &agent)] {
        ensure!(!log.is_empty(), "the {whose}'s log is empty");
        let token = given.token.expose_secret();
        for (what, token) in [
            ("the identity", token),
            ("the agent's token", &good.agent),
            ("the pod's token", &good.pod),
        ] {
            let signature = token.rsplit('.').next().unwrap_or_default();
            let is_there = log.contains(token) || log.contains(signature);
            ensure!(!is_there, "{what} is in the {whose}'s log");
        }
        // `{"`, with which every JWT begins.
        if let Some(line) = log.lines().find(|line| line.contains("eyJ")) {
            bail!("the {whose}'s log has a token: {line}");
        }
    }
    // What the log is there for.
    let line = log
        .lines()
        .find(|line| line.contains("issued an identity") && line.contains(&bench.name));
    let line = line.context("the log does not say what was issued")?;
    ensure!(line.contains(&identity("argocd-global")), "{line}");
    bench.close().await
}
