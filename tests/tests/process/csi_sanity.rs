//! csi-sanity, the CSI project's own conformance test, against the running agent.
//!
//! ```text
//!   csi-sanity ─▶ socket of the driver
//!       └─ report ─▶ each spec: passed, or in the table with how it ended
//! ```
//!
//! Nothing is left out by a flag: the specs of the table run too, and have to end as the table says. So a
//! spec that begins to apply is noticed, like one that is new.

mod not_applicable;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agent::csi::NodeClient;
use agent::csi::proto::{NodePublishVolumeRequest, VolumeCapability};
use anyhow::{Context as _, Result, ensure};
use harness::process::{Process, wait_until};
use serde::Deserialize;
use tonic::Code;
use tonic::transport::Endpoint;

use self::not_applicable::{NOT_APPLICABLE, Seen};
use crate::case::{Case, shared};
use crate::scene::Scene;

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        shared!(every_spec_that_applies_passes),
        shared!(a_publish_without_pod_info_is_refused),
    ]
}

/// For a test that takes a second.
const LIMIT: Duration = Duration::from_secs(60);
/// Type of a report's entries that are specs, not setup.
const SPEC: &str = "It";
/// gRPC's code, as a spec prints it that expected another one.
const UNIMPLEMENTED: [&str; 2] = ["code = Unimplemented", "<codes.Code>: 12\nto equal"];
/// Tells users the same, by group.
const PAGE: &str = include_str!("../../../docs/csi.md");

async fn every_spec_that_applies_passes(scene: &Scene) -> Result<()> {
    let folder = scene.around.kubelet().join("csi-sanity");
    fs::create_dir(&folder).context("make a folder for mounts")?;
    let report = scene.folder.join("csi-sanity.json");
    let mut run = Command::new(&scene.csi_sanity);
    run.arg("--csi.endpoint")
        .arg(scene.installation.plan.csi_socket())
        .arg("--csi.mountdir")
        .arg(folder.join("mount"))
        .arg("--csi.stagingdir")
        .arg(folder.join("staging"))
        .arg("--ginkgo.json-report")
        .arg(&report);
    let mut process = Process::start("csi-sanity", &mut run, &scene.folder)?;
    wait_until("the end of csi-sanity", LIMIT, || {
        let ended = process.ended();
        async move { ended?.context("it is running") }
    })
    .await?;

    let mut specs = read(&report)?;
    for entry in NOT_APPLICABLE {
        for (group, names) in entry.groups {
            for name in *names {
                let spec = specs
                    .remove(&format!("{group} {name}"))
                    .with_context(|| format!("csi-sanity has no spec `{group} {name}`"))?;
                ensure!(
                    spec.is(entry.seen),
                    "`{group} {name}` is not {:?}: {spec:?}",
                    entry.seen
                );
            }
            is_on_the_page(&format!("- {group}: {}", names.len()))?;
        }
        is_on_the_page(&format!("**{}**", entry.why))?;
    }
    for (name, spec) in &specs {
        ensure!(
            spec.state == State::Passed,
            "`{name}` neither passes nor is in the table: {spec:?}"
        );
    }
    ensure!(!specs.is_empty(), "no spec was run");
    for name in specs.keys() {
        is_on_the_page(&format!("- {name}"))?;
    }
    // It removes the folders that it made, and cannot remove what the driver left in them.
    fs::remove_dir(&folder).context("something is left of the mounts")
}

fn is_on_the_page(line: &str) -> Result<()> {
    let found = PAGE.lines().any(|it| it == line);
    ensure!(found, "docs/csi.md does not have the line\n{line}");
    Ok(())
}

/// All that CSI asks for is there, as csi-sanity would send it.
async fn a_publish_without_pod_info_is_refused(scene: &Scene) -> Result<()> {
    let target = scene.around.kubelet().join("no-pod-info/mount");
    let request = NodePublishVolumeRequest {
        volume_id: "no-pod-info".to_owned(),
        target_path: target.display().to_string(),
        volume_capability: Some(VolumeCapability::mount()),
        ..NodePublishVolumeRequest::default()
    };
    let socket = scene.installation.plan.csi_socket();
    let channel = Endpoint::try_from(format!("unix://{}", socket.display()))?
        .connect()
        .await?;
    let answer = NodeClient::new(channel).node_publish_volume(request).await;
    let status = answer.err().context("it was published")?;
    ensure!(
        status.code() == Code::InvalidArgument && status.message().contains("podInfoOnMount"),
        "{status:?}"
    );
    let made = target.parent().is_some_and(Path::exists);
    ensure!(!made, "the refused publish made a folder");
    Ok(())
}

/// The part of Ginkgo's report that is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    spec_reports: Vec<Spec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: State,
    #[serde(default)]
    failure: Failure,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Passed,
    Failed,
    Skipped,
    Pending,
    #[serde(other)]
    Broken,
}

/// Why it failed or was skipped.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: String,
}

impl Spec {
    fn is(&self, seen: Seen) -> bool {
        let said = self.failure.message.as_str();
        match seen {
            Seen::Unimplemented => {
                self.state == State::Failed && UNIMPLEMENTED.iter().any(|it| said.contains(it))
            }
            Seen::Skipped(words) => self.state == State::Skipped && said == words,
            Seen::Pending => self.state == State::Pending,
        }
    }
}

/// The specs of a report by their names: those of their containers and their own, joined by blanks.
fn read(report: &Path) -> Result<BTreeMap<String, Spec>> {
    let suites: Vec<Report> = serde_json::from_slice(&fs::read(report).context("read the report")?)
        .context("parse the report")?;
    let mut specs = BTreeMap::new();
    let all = suites.into_iter().flat_map(|suite| suite.spec_reports);
    for spec in all.filter(|spec| spec.leaf_node_type == SPEC) {
        let mut names = spec.container_hierarchy_texts.clone().unwrap_or_default();
        names.push(spec.leaf_node_text.clone());
        let twin = specs.insert(names.join(" "), spec);
        ensure!(twin.is_none(), "two specs have the name of {twin:?}");
    }
    Ok(specs)
}
