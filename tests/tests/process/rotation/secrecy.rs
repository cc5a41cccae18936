//! Where credentials must not be: objects of the cluster, logs, command lines
//! and environments. Tokens that were seen in use flow in, the first place that
//! has one flows out as an error.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::argocd::Component;
use harness::installation;
use harness::scene::ARGOCD;
use serde_json::Value;

use crate::scene::Scene;

/// How every JWT begins: `{"` in base64.
const JWT: &str = "eyJ";

/// Everything that a credential could have been written to. `true`: nobody but
/// this project and Argo CD writes there, so that no JWT at all may be in it.
const COLLECTIONS: [(&str, bool); 9] = [
    ("/api/v1/secrets", false),
    ("/api/v1/configmaps", false),
    ("/api/v1/pods", false),
    ("/api/v1/events", true),
    ("/apis/events.k8s.io/v1/events", true),
    ("/apis/coordination.k8s.io/v1/leases", true),
    (
        "/apis/workload-identity.dev/v1alpha1/credentialbindings",
        true,
    ),
    ("/apis/argoproj.io/v1alpha1/applications", true),
    ("/apis/argoproj.io/v1alpha1/appprojects", true),
];

/// Makes sure that none of the tokens is anywhere but in the volumes.
pub(crate) async fn nothing_has(scene: &Scene, tokens: &BTreeSet<String>) -> Result<()> {
    ensure!(!tokens.is_empty(), "there is no token to look for");
    // A JWT's signature tells it from every other text.
    let tokens: Vec<&str> = tokens
        .iter()
        .filter_map(|token| token.rsplit('.').next())
        .collect();
    let has_one = |text: &str| tokens.iter().any(|token| text.contains(token));

    let rest = scene.rest()?;
    for (path, no_jwt) in COLLECTIONS {
        let list = rest.read(path).await?;
        let items = list["items"].as_array().context("no list")?;
        for item in items {
            let text = readable(item);
            let (namespace, name) = (&item["metadata"]["namespace"], &item["metadata"]["name"]);
            let of_ours = [ARGOCD, installation::NAMESPACE]
                .iter()
                .any(|ours| namespace == ours);
            let leaks = has_one(&text) || (no_jwt && of_ours && text.contains(JWT));
            ensure!(!leaks, "{path}: {namespace}/{name} has a token");
        }
    }

    let (argocd, project) = (scene.argocd()?, &scene.installation);
    let mut logs = vec![
        (project.agent.log(), true),
        (project.control_plane.log(), true),
    ];
    for component in Component::ALL {
        let log = argocd.log(component).context("no log")?;
        logs.push((log, false));
    }
    for (log, no_jwt) in logs {
        let text = fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
        ensure!(!text.is_empty(), "{} is empty", log.display());
        let leaks = has_one(&text) || (no_jwt && text.contains(JWT));
        ensure!(!leaks, "{} has a token", log.display());
    }

    // Of every process of the run.
    for process in fs::read_dir("/proc").context("list processes")? {
        let path = process.context("list processes")?.path();
        for file in ["cmdline", "environ"] {
            // Files of a process that has ended, or that is none, cannot be read.
            let bytes = fs::read(path.join(file)).unwrap_or_default();
            let leaks = has_one(&String::from_utf8_lossy(&bytes));
            ensure!(!leaks, "{}/{file} has a token", path.display());
        }
    }
    Ok(())
}

/// An object's text, with the values of a Secret decoded.
fn readable(object: &Value) -> String {
    let mut text = object.to_string();
    for value in object["data"].as_object().into_iter().flatten() {
        let decoded = value.1.as_str().and_then(|it| STANDARD.decode(it).ok());
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&decoded.unwrap_or_default()));
    }
    text
}
