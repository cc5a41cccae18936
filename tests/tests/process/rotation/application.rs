//! One Application under test, driven through Argo CD's own API, and every
//! version of it that was ever stored.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use harness::argocd::{Applications, ArgoCdApi, Report};
use harness::process::wait_until;
use harness::scene::ARGOCD;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::api::Rest;
use crate::scene::Scene;

/// Until a comparison or a sync has ended, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// Until a sync that was asked for and has not begun counts as overlooked.
const PATIENCE: Duration = Duration::from_secs(5);
const REFRESH: &str = "argocd.argoproj.io/refresh";

/// An Application.
pub(crate) struct Application {
    name: String,
    rest: Rest,
    api: ArgoCdApi,
    all: Applications,
}

impl Application {
    /// Creates it.
    pub(crate) async fn create(scene: &Scene, manifest: &Value) -> Result<Self> {
        let rest = scene.rest()?;
        rest.create(&collection(), manifest)
            .await
            .context("create the Application")?;
        let name = manifest["metadata"]["name"].as_str();
        let argocd = scene.argocd()?;
        Ok(Self {
            name: name.context("an Application without a name")?.to_owned(),
            rest,
            api: argocd.api().await?,
            all: argocd.applications(),
        })
    }

    /// Has Argo CD fetch and compare it anew.
    pub(crate) async fn refresh(&self) -> Result<Report> {
        self.all.hard_refresh(&self.name, LIMIT).await
    }

    /// Has Argo CD sync it, and waits until that has succeeded.
    pub(crate) async fn sync(&self, round: usize) -> Result<()> {
        let infos = json!([{ "name": "round", "value": round.to_string() }]);
        let request = json!({ "infos": infos, "prune": true });
        let path = ["applications", self.name.as_str(), "sync"];
        let asked = self.api.call(Method::POST, &path, &[], Some(request));
        asked.await.context("ask for a sync")?;
        let (infos, mut patience) = (&infos, PATIENCE);
        let what = format!("sync {round} of Application {}", self.name);
        let begin = Instant::now();
        let state = wait_until(&what, LIMIT, || {
            let is_lost = begin.elapsed() > patience;
            if is_lost {
                patience += PATIENCE;
            }
            async move {
                let found = self.read().await?;
                let state = &found["status"]["operationState"];
                if state["operation"]["info"] == *infos {
                    ensure!(state["phase"] != "Running", "{state}");
                    return Ok(state.clone());
                }
                if is_lost {
                    self.remind().await?;
                }
                bail!("it has not begun: {}", found["operation"]);
            }
        })
        .await?;
        ensure!(state["phase"] == "Succeeded", "{what}: {state}");
        Ok(())
    }

    /// A controller that is just writing a comparison's outcome into its own copy of the Application can
    /// overlook a sync that was asked for meanwhile (`writeBackToInformer`), until the next comparison.
    async fn remind(&self) -> Result<()> {
        let wish = json!({ "metadata": { "annotations": { REFRESH: "normal" } } });
        let path = format!("{}/{}", collection(), self.name);
        self.rest.merge(&path, &wish).await?;
        Ok(())
    }

    /// Syncs it and waits until it is Synced and Healthy.
    pub(crate) async fn is_good(&self, round: usize) -> Result<Report> {
        self.sync(round).await?;
        self.all.synced_and_healthy(&self.name, LIMIT).await
    }

    /// Has Argo CD compare it anew, which has to fail, and returns what it says.
    pub(crate) async fn fails(&self) -> Result<String> {
        let report = self.refresh().await?;
        let error = report
            .conditions
            .iter()
            .find(|condition| condition.starts_with("ComparisonError: "));
        let error = error.with_context(|| format!("it did not fail: {report}"))?;
        Ok(error.clone())
    }

    /// Deletes it; what it made stays.
    pub(crate) async fn delete(self) -> Result<()> {
        let path = format!("{}/{}", collection(), self.name);
        self.rest.delete(&path).await?;
        Ok(())
    }

    async fn read(&self) -> Result<Value> {
        let path = format!("{}/{}", collection(), self.name);
        self.rest.read(&path).await
    }
}

fn collection() -> String {
    format!("/apis/argoproj.io/v1alpha1/namespaces/{ARGOCD}/applications")
}

/// Looks at every version of an Application, also those between two looks of
/// a trial.
pub(crate) struct Versions {
    seen: Arc<Mutex<Counted>>,
    _watch: JoinSet<()>,
}

#[derive(Default)]
struct Counted {
    versions: usize,
    faults: Vec<String>,
}

impl Versions {
    /// Begins to look.
    pub(crate) fn watch(client: Client, name: &str) -> Self {
        let kind = GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Application");
        let resource = ApiResource::from_gvk_with_plural(&kind, "applications");
        let api: Api<DynamicObject> = Api::namespaced_with(client, ARGOCD, &resource);
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let seen = Arc::new(Mutex::new(Counted::default()));
        let mut watch = JoinSet::new();
        let counted = Arc::clone(&seen);
        watch.spawn(async move {
            let mut events = std::pin::pin!(watcher(api, only));
            while let Some(event) = events.next().await {
                let mut counted = lock(&counted);
                match event {
                    Ok(watcher::Event::Apply(it) | watcher::Event::InitApply(it)) => {
                        counted.versions += 1;
                        counted.faults.extend(fault(&it.data["status"]));
                    }
                    Ok(_) => {}
                    // A version may have been missed.
                    Err(error) => counted.faults.push(format!("the watch broke: {error}")),
                }
            }
        });
        Self {
            seen,
            _watch: watch,
        }
    }

    /// How many versions there were.
    ///
    /// # Errors
    /// When one of them had a condition, or a sync that did not succeed.
    pub(crate) fn all_good(&self) -> Result<usize> {
        let counted = lock(&self.seen);
        if let Some(first) = counted.faults.first() {
            bail!("{} versions had a fault: {first}", counted.faults.len());
        }
        Ok(counted.versions)
    }
}

fn fault(status: &Value) -> Option<String> {
    let conditions = &status["conditions"];
    if conditions.as_array().is_some_and(|all| !all.is_empty()) {
        return Some(conditions.to_string());
    }
    let sync = &status["operationState"];
    let phase = sync["phase"].as_str().unwrap_or("Running");
    if !matches!(phase, "Running" | "Succeeded") {
        return Some(sync.to_string());
    }
    (status["sync"]["status"] == "Unknown").then(|| status["sync"].to_string())
}

fn lock(seen: &Mutex<Counted>) -> MutexGuard<'_, Counted> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
