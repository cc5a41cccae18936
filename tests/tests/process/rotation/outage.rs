//! A registry that does not trade identities for a while. The last good
//! credential stays until it expires, and not a moment longer.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use harness::bindings::{condition, has_condition};
use harness::process::wait_until;
use harness::quay::{Endpoint, Failure};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use shared::errors::Code;
use shared::layout;

use super::reader::{Reader, Watched};
use super::tenant::{LIMIT, Tenant};
use crate::case::{Case, shared};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![shared!(the_last_good_credential_stays_until_it_expires).with_argocd()]
}

/// A fifth of it is what is left for an outage when the renewal is due.
const LIFE: Duration = Duration::from_secs(30);
/// How late the agent may be when a credential has expired.
const REMOVAL: SignedDuration = SignedDuration::from_secs(2);

const UNREACHABLE: Code = Code::ExchangeUnreachable;
const BINDING: &str = "outage";

async fn the_last_good_credential_stays_until_it_expires(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, BINDING, LIFE).await?;
    tenant
        .create(BINDING, "repository", &tenant.repository())
        .await?;
    tenant.ready(BINDING).await?;

    // Shorter than what is left of the credential's life.
    let first = tenant.has_login(|_| true).await?;
    let host = tenant.quay.host().to_owned();
    let docker = tenant.registries.join(layout::DOCKER_CONFIG);
    let reader = Reader::start([Watched::Docker(docker, host)])?;
    fail(&tenant);
    let degraded = ("Degraded", "True", UNREACHABLE.as_str());
    let told = has_condition(&tenant.bindings, BINDING, degraded, LIMIT).await?;
    let ready = condition(&told, "Ready");
    ensure!(
        ready.as_ref().is_some_and(|(status, _)| status == "True"),
        "with a valid credential it is {ready:?}"
    );
    ensure!(
        tenant.login()?.as_ref() == Some(&first),
        "the credential is another one"
    );
    tenant.quay.heal(Endpoint::Federation);
    let second = tenant.has_login(|login| *login != first).await?;
    tenant.ready(BINDING).await?;
    let seen = reader.finish()?;
    ensure!(seen.credentials == [2], "{seen:?}");

    // Longer than that.
    fail(&tenant);
    let gone = wait_until("the end of the credential", LIMIT, || async {
        match tenant.login()? {
            Some(login) if login == second => bail!("it is still there"),
            Some(_) => bail!("there is a new one"),
            None => Ok(Timestamp::now()),
        }
    })
    .await?;
    let late = gone.duration_since(second.expires_at);
    ensure!(
        (SignedDuration::ZERO..REMOVAL).contains(&late),
        "it went {late:?} after it had expired"
    );
    tenant.refused(BINDING, UNREACHABLE).await?;

    // Nothing has to be done for it to come back.
    tenant.quay.heal(Endpoint::Federation);
    tenant.has_login(|_| true).await?;
    tenant.ready(BINDING).await?;
    tenant.delete(BINDING).await?;
    tenant.has_no_login().await
}

fn fail(tenant: &Tenant) {
    let failure = Failure {
        status: Some(StatusCode::SERVICE_UNAVAILABLE),
        ..Failure::default()
    };
    tenant.quay.fail(Endpoint::Federation, failure);
}
