//! The page on Google Artifact Registry.

use anyhow::Result;
use harness::cloud::Cloud;
use harness::gcp::{Gcp, Provider, ServiceAccount};
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

const PAGE: &str = include_str!("../../../../docs/providers/gar.md");
const PROJECT: &str = "acme";
const NUMBER: &str = "123456789";

impl Far for Gcp {
    const NAMES: (&'static str, &'static str) = ("gcp", hosts::GAR);

    fn cloud(&self) -> &Cloud {
        self.cloud()
    }

    fn admit(&self, admission: &Admission<'_>) -> Account {
        let pool = format!("projects/{NUMBER}/locations/global/workloadIdentityPools/argocd");
        let (provider, condition) = match admission.subject.split_once(':') {
            Some(("system", _)) => ("cluster", "system:serviceaccount:argocd:"),
            _ => ("installation", "spiffe://"),
        };
        let provider = format!("{pool}/providers/{provider}");
        let email = format!("{}@{PROJECT}.iam.gserviceaccount.com", admission.name);
        let principal = format!(
            "principal://iam.googleapis.com/{pool}/subject/{}",
            admission.subject
        );
        self.add_provider(Provider {
            name: provider.clone(),
            issuer: admission.issuer.to_owned(),
            audiences: Vec::new(),
            condition: condition.to_owned(),
            disabled: false,
        });
        self.add_service_account(ServiceAccount {
            email: email.clone(),
            users: vec![principal],
            pull: vec![format!("{}/", admission.folder)],
        });
        Account {
            annotations: json!({
                "iam.gke.io/gcp-service-account": email,
                "iam.gke.io/workload-identity-provider": provider,
            }),
            name: email,
        }
    }

    fn folder(team: &str) -> String {
        format!("{PROJECT}/{team}")
    }
}

fn read() -> Result<Page> {
    Page::read(PAGE, &[("PROJECT", PROJECT), ("NUMBER", NUMBER)])
}

async fn start(scene: &Scene, name: &str) -> Result<Running<Gcp>> {
    let folder = scene.folder.join(name);
    let gcp = Gcp::start(scene.peers.registry(), &folder, hosts::GAR).await?;
    let services = gcp.services();
    Running::start(scene, gcp, services, hosts::GCP_ADDRESS).await
}

async fn the_page(scene: &Scene) -> Result<()> {
    let running = start(scene, "gar-page").await?;
    clouds::page(scene, &running.cloud, &read()?).await
}

async fn two_projects_on_one_host(scene: &Scene) -> Result<()> {
    let running = start(scene, "gar-teams").await?;
    clouds::two_projects(scene, &running.cloud, &read()?).await
}
