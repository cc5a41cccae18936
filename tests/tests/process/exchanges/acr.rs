//! The page on Azure Container Registry.

use std::time::Duration;

use anyhow::Result;
use harness::azure::{Application, Azure, FederatedCredential};
use harness::cloud::Cloud;
use harness::hosts;
use serde_json::json;

use super::clouds::{self, Account, Admission, Far, Running};
use super::page::Page;
use crate::case::{Case, shared};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(the_page).with_argocd(),
        shared!(two_projects_on_one_host).with_argocd(),
    ]
}

const PAGE: &str = include_str!("../../../../docs/providers/acr.md");
const TENANT: &str = "99999999-8888-7777-6666-555555555555";
/// As ACR's refresh tokens have it.
const LIFE: Duration = Duration::from_secs(3 * 3600);

impl Far for Azure {
    const NAMES: (&'static str, &'static str) = ("azure", hosts::ACR);

    fn cloud(&self) -> &Cloud {
        self.cloud()
    }

    fn admit(&self, admission: &Admission<'_>) -> Account {
        let client_id = match admission.name {
            "argocd-puller" => "11111111-2222-3333-4444-555555555555",
            "production" => "22222222-3333-4444-5555-666666666666",
            _ => "33333333-4444-5555-6666-777777777777",
        };
        self.add_application(Application {
            client_id: client_id.to_owned(),
            tenant_id: TENANT.to_owned(),
            credentials: vec![FederatedCredential {
                issuer: admission.issuer.to_owned(),
                subject: admission.subject.to_owned(),
                audience: "api://AzureADTokenExchange".to_owned(),
            }],
            pull: Some(vec![format!("{}/", admission.folder)]),
        });
        Account {
            name: client_id.to_owned(),
            annotations: json!({
                "azure.workload.identity/client-id": client_id,
                "azure.workload.identity/tenant-id": TENANT,
            }),
        }
    }

    fn folder(team: &str) -> String {
        team.to_owned()
    }
}

fn read() -> Result<Page> {
    Page::read(PAGE, &[])
}

async fn start(scene: &Scene, name: &str) -> Result<Running<Azure>> {
    let (folder, registry) = (scene.folder.join(name), scene.peers.registry());
    let azure = Azure::start(registry, &folder, hosts::ENTRA, hosts::ACR, LIFE).await?;
    let services = azure.services();
    Running::start(scene, azure, services, hosts::AZURE_ADDRESS).await
}

async fn the_page(scene: &Scene) -> Result<()> {
    let running = start(scene, "acr-page").await?;
    clouds::page(scene, &running.cloud, &read()?).await
}

async fn two_projects_on_one_host(scene: &Scene) -> Result<()> {
    let running = start(scene, "acr-teams").await?;
    clouds::two_projects(scene, &running.cloud, &read()?).await
}
