//! A small Helm chart, packaged and pushed by the real Helm.
//!
//! Flows in: a name, a version, a registry path and who may push. Flows out: the chart in the registry.
//! Its objects (a ConfigMap, a ServiceAccount) are Healthy on a cluster without nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::folders::create;
use crate::process::output;

/// What a chart is called and what it deploys.
pub struct Chart<'a> {
    /// The chart's name, and the name of the ConfigMap and the ServiceAccount that it makes.
    pub name: &'a str,
    /// A semantic version.
    pub version: &'a str,
    /// The ConfigMap's key `message`, by which a test tells what was deployed.
    pub message: &'a str,
}

/// Where a chart goes, and as whom.
pub struct Destination<'a> {
    /// `quay.example.test:<port>`, which resolves inside a [`crate::sandbox::Sandbox`].
    pub host: &'a str,
    /// The folder in the registry: `prod/charts`.
    pub path: &'a str,
    /// A robot that may push there.
    pub user: &'a str,
    /// Its password.
    pub password: &'a str,
    /// The file with the authority (PEM) that the registry's certificate chains to.
    pub authority: &'a Path,
}

impl Chart<'_> {
    /// Packages the chart below `folder` and pushes it to `oci://<host>/<path>/<name>:<version>`.
    ///
    /// # Errors
    /// When the chart cannot be written, or with Helm's own words.
    pub fn push(&self, helm: &Path, folder: &Path, to: &Destination<'_>) -> Result<()> {
        let folder = folder.join(format!("chart-{}-{}", self.name, self.version));
        let login = STANDARD.encode(format!("{}:{}", to.user, to.password));
        let config = json!({ "auths": { to.host: { "auth": login } } });
        create(folder.clone())?;
        write(&folder.join("registry.json"), &config.to_string())?;

        let package = self.package(helm, &folder, &folder)?;
        output(
            self.helm(helm, &folder)
                .arg("push")
                .arg(package)
                .arg(format!("oci://{}/{}", to.host, to.path))
                .arg("--ca-file")
                .arg(to.authority),
        )
        .with_context(|| format!("push the chart {} to {}/{}", self.name, to.host, to.path))?;
        Ok(())
    }

    /// Packages the chart below `folder` and pushes it to a registry of this loopback URL: an open one, or one that takes
    /// the login of the folder's `registry.json`.
    ///
    /// # Errors
    /// As [`Chart::push`].
    pub fn push_in_the_open(
        &self,
        helm: &Path,
        folder: &Path,
        url: &str,
        path: &str,
    ) -> Result<()> {
        let package = self.package(helm, folder, folder)?;
        let host = url.trim_start_matches("http://");
        output(
            self.helm(helm, folder)
                .args(["push", "--plain-http"])
                .arg(package)
                .arg(format!("oci://{host}/{path}")),
        )
        .with_context(|| format!("push the chart {} to {url}", self.name))?;
        Ok(())
    }

    /// Packages the chart into a folder that is there, with its source below `work`, and returns the file.
    pub(crate) fn package(&self, helm: &Path, work: &Path, to: &Path) -> Result<PathBuf> {
        let source = work.join(self.name);
        self.write(&source)?;
        output(
            self.helm(helm, work)
                .args(["package", "--destination"])
                .args([to, &source]),
        )
        .with_context(|| format!("package the chart {}", self.name))?;
        Ok(to.join(format!("{}-{}.tgz", self.name, self.version)))
    }

    /// Writes a chart of this name and version that has nothing but dependencies: charts and the URLs of their
    /// repositories.
    pub(crate) fn write_umbrella(
        &self,
        source: &Path,
        dependencies: &[(&Self, &str)],
    ) -> Result<()> {
        fs::create_dir_all(source).with_context(|| format!("create {}", source.display()))?;
        let dependencies: Vec<_> = dependencies
            .iter()
            .map(|(chart, repository)| {
                json!({ "name": chart.name, "version": chart.version, "repository": repository })
            })
            .collect();
        let chart = json!({
            "apiVersion": "v2",
            "name": self.name,
            "version": self.version,
            "dependencies": dependencies,
        });
        write(&source.join("Chart.yaml"), &chart.to_string())
    }

    /// Writes the chart's files.
    pub(crate) fn write(&self, source: &Path) -> Result<()> {
        let templates = source.join("templates");
        fs::create_dir_all(&templates)
            .with_context(|| format!("create {}", templates.display()))?;
        let chart = json!({
            "apiVersion": "v2",
            "name": self.name,
            "version": self.version,
            "description": "A ConfigMap and a ServiceAccount.",
        });
        write(&source.join("Chart.yaml"), &chart.to_string())?;
        write(
            &source.join("values.yaml"),
            &json!({ "message": self.message }).to_string(),
        )?;
        write(
            &templates.join("objects.yaml"),
            "apiVersion: v1\n\
             kind: ConfigMap\n\
             metadata:\n\
             \x20 name: {{ .Chart.Name }}\n\
             data:\n\
             \x20 version: {{ .Chart.Version | quote }}\n\
             \x20 message: {{ .Values.message | quote }}\n\
             ---\n\
             apiVersion: v1\n\
             kind: ServiceAccount\n\
             metadata:\n\
             \x20 name: {{ .Chart.Name }}\n",
        )
    }

    /// Helm with all of its folders below `folder`.
    pub(crate) fn helm(&self, helm: &Path, folder: &Path) -> Command {
        let mut command = Command::new(helm);
        command
            .env_clear()
            .env("HOME", folder)
            .env("HELM_REGISTRY_CONFIG", folder.join("registry.json"))
            .env("HELM_CACHE_HOME", folder.join("cache"))
            .env("HELM_CONFIG_HOME", folder.join("config"))
            .env("HELM_DATA_HOME", folder.join("data"));
        command
    }
}

fn write(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}
