//! Two teams as the guides have them: each with a project of Argo CD's, a robot and a folder of its own at one
//! registry host.

use anyhow::Result;
use serde_json::{Value, json};

use crate::chart::Chart;
use crate::control_plane::RemoteCluster;
use crate::peers::Peers;
use crate::quay::{self, Robot};
use crate::scene::ARGOCD;
use crate::targets::{Targets, secret};

/// A team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Team {
    /// Argo CD's project.
    pub project: &'static str,
    /// Its robot, which trusts the project's identity and nobody else's.
    pub robot: &'static str,
    /// Its folder: all that the robot may read.
    pub folder: &'static str,
}

/// "Project A" of the guides.
pub const PRODUCTION: Team = Team {
    project: "production",
    robot: "prod+argocd",
    folder: "prod",
};
/// "Project B" of the guides.
pub const STAGING: Team = Team {
    project: "staging",
    robot: "staging+argocd",
    folder: "staging",
};

impl Team {
    /// Publishes a chart in the team's folder, and lets its robot read there.
    ///
    /// # Errors
    /// With Helm's own words.
    pub fn publish(&self, targets: &Targets, peers: &Peers, chart: &Chart<'_>) -> Result<()> {
        let subject = targets.trust.subject(&self.service_account());
        let folder = format!("{}/", self.folder);
        let issuer = targets.trust.issuer_url();
        let robot = Robot::federated(self.robot, issuer, subject, &[&folder]);
        targets.quay.add_robot(robot);
        targets.push(peers, &targets.quay, &self.charts(), chart)
    }

    /// The service account that stands for the project.
    #[must_use]
    pub fn service_account(&self) -> String {
        format!("argocd-project-{}", self.project)
    }

    /// Where its charts are: `prod/charts`.
    #[must_use]
    pub fn charts(&self) -> String {
        format!("{}/charts", self.folder)
    }

    /// The guides' repository Secret for Helm charts.
    #[must_use]
    pub fn charts_secret(&self, targets: &Targets, name: &str) -> String {
        let url = format!("oci://{}/{}", targets.quay.host(), self.charts());
        self.secret(targets, name, "helm", &url)
    }

    /// The same for one native OCI artifact, whose whole URL Argo CD wants.
    #[must_use]
    pub fn artifact_secret(&self, targets: &Targets, name: &str, chart: &Chart<'_>) -> String {
        self.secret(targets, name, "oci", &self.artifact(targets, chart))
    }

    fn secret(&self, targets: &Targets, name: &str, kind: &str, url: &str) -> String {
        let auth = targets.quay.federation_url();
        let values = [
            ("type", kind),
            ("url", url),
            ("project", self.project),
            ("useWorkloadIdentity", "true"),
            ("workloadIdentityProvider", "spiffe"),
            ("workloadIdentityAudience", quay::HOST),
            ("workloadIdentityRegistryAuthURL", &auth),
            ("workloadIdentityRegistryService", targets.quay.host()),
            ("workloadIdentityRegistryUsername", self.robot),
        ];
        let more = targets.trust.secret_values();
        secret(name, "repository", &[&values, more].concat())
    }

    /// An Application of this team with the chart of `owner`, pulled by Helm, into a namespace of the
    /// team's name in the remote cluster.
    #[must_use]
    pub fn helm_application(
        &self,
        targets: &Targets,
        remote: &RemoteCluster,
        name: &str,
        owner: Self,
        chart: &Chart<'_>,
    ) -> String {
        let source = json!({
            "repoURL": format!("{}/{}", targets.quay.host(), owner.charts()),
            "chart": chart.name,
            "targetRevision": chart.version,
        });
        self.application(remote, name, source)
    }

    /// The same with the chart as a native OCI artifact.
    #[must_use]
    pub fn artifact_application(
        &self,
        targets: &Targets,
        remote: &RemoteCluster,
        name: &str,
        chart: &Chart<'_>,
    ) -> String {
        let source = json!({
            "repoURL": self.artifact(targets, chart),
            "path": ".",
            "targetRevision": chart.version,
        });
        self.application(remote, name, source)
    }

    /// The same as [`Team::helm_application`], from folder `charts` of another registry.
    #[must_use]
    pub fn certified_application(
        &self,
        remote: &RemoteCluster,
        name: &str,
        host: &str,
        chart: &Chart<'_>,
    ) -> String {
        let source = json!({
            "repoURL": format!("{host}/charts"),
            "chart": chart.name,
            "targetRevision": chart.version,
        });
        self.application(remote, name, source)
    }

    fn artifact(&self, targets: &Targets, chart: &Chart<'_>) -> String {
        let (host, charts) = (targets.quay.host(), self.charts());
        format!("oci://{host}/{charts}/{}", chart.name)
    }

    fn application(&self, remote: &RemoteCluster, name: &str, source: Value) -> String {
        json!({
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Application",
            "metadata": { "name": name, "namespace": ARGOCD },
            "spec": {
                "project": self.project,
                "source": source,
                "destination": { "server": remote.url(), "namespace": self.project },
                "syncPolicy": { "automated": { "prune": true, "selfHeal": true } },
            },
        })
        .to_string()
    }
}

/// A project of Argo CD's, which restricts nothing: what keeps teams apart is not this.
#[must_use]
pub fn app_project(name: &str) -> Value {
    json!({
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AppProject",
        "metadata": { "name": name, "namespace": ARGOCD },
        "spec": {
            "sourceRepos": ["*"],
            "destinations": [{ "server": "*", "namespace": "*" }],
            "clusterResourceWhitelist": [{ "group": "*", "kind": "*" }],
        },
    })
}
