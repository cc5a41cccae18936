//! What becomes of Argo CD's Secrets on the real kube-apiserver.

mod clusters;
mod outage;
mod proxy_key;
mod refusals;
mod values;

use anyhow::{Result, ensure};
use control_plane_core::annotations::REMOVE_STATIC_CREDENTIALS;
use harness::admission::Answer;
use harness::control_plane::documents;
use serde_json::{Value, json};

use self::values::{Values, encoded, repository, secret, shown, stored, with};
use crate::api::{Rest, codes};
use crate::case::{Case, shared};
use crate::scene::Scene;
use crate::snapshot;
use crate::webhook::{self, SECRETS};

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        shared!(the_guides_secrets),
        shared!(repositories_of_every_kind),
        shared!(string_data_and_data_give_the_same),
        shared!(static_credentials_go_only_when_asked),
        shared!(secrets_without_workload_identity_are_left_alone),
        shared!(namespaces_that_are_not_served_are_left_alone),
        shared!(an_immutable_secret_stays_editable),
    ];
    cases.extend(clusters::cases());
    cases.extend(refusals::cases());
    cases.extend(outage::cases());
    cases.extend(proxy_key::cases());
    cases
}

/// The Secrets of the public guides, by the name of the file they are in.
const GUIDES: [(&str, &str); 4] = [
    ("quay", include_str!("guides/quay.yaml")),
    ("quay-options", include_str!("guides/quay-options.yaml")),
    ("ecr", include_str!("guides/ecr.yaml")),
    ("openshift", include_str!("guides/openshift.yaml")),
];

/// Keys whose values may become others; every other key is left as it is.
const REWRITTEN: [&str; 2] = ["url", "config"];

/// The collection of a namespace's Secrets.
fn collection(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets")
}

async fn the_guides_secrets(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("guides", &[]).await?;
    let bench = Bench::new(scene, namespace)?;
    for (guide, yaml) in GUIDES {
        for document in documents(yaml)? {
            let manifest = serde_json::to_value(document)?;
            let name = manifest["metadata"]["name"].as_str().unwrap_or_default();
            let answer = bench.settles(&manifest).await?;
            let after = stored(&answer.object)?;
            let shown = shown(scene, &after, &answer.warnings);
            snapshot::check("guide", &format!("{guide}-{name}"), &shown);
        }
    }
    Ok(())
}

async fn repositories_of_every_kind(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("repositories", &[]).await?;
    let bench = Bench::new(scene, namespace)?;
    let host = scene.around.targets.quay.host().to_owned();
    let (https, oci) = (format!("https://{host}/prod"), format!("oci://{host}/prod"));
    let bare = format!("{host}/prod/charts");
    // Name, label, changes to the guide's form, codes of the warnings.
    type Row<'r> = (&'r str, &'r str, &'r [(&'r str, &'r str)], &'r [&'r str]);
    let table: [Row<'_>; 9] = [
        (
            "helm-oci",
            "repository",
            &[],
            &["url-rewritten", "drift-from-git"],
        ),
        (
            "helm-oci-as-argo-cd-wants-it",
            "repository",
            &[("url", &bare), ("enableOCI", "true")],
            &[],
        ),
        (
            "helm-oci-half-rewritten",
            "repository",
            &[("enableOCI", "true")],
            &["url-rewritten", "drift-from-git"],
        ),
        (
            "helm-oci-of-a-project",
            "repository",
            &[
                ("url", &bare),
                ("enableOCI", "true"),
                ("project", "production"),
            ],
            &[],
        ),
        (
            "native-oci",
            "repository",
            &[("type", "oci"), ("url", &oci)],
            &[],
        ),
        ("helm-http", "repository", &[("url", &https)], &[]),
        (
            "git",
            "repository",
            &[("type", "git"), ("url", &https)],
            &[],
        ),
        (
            "prefix",
            "repo-creds",
            &[("url", &bare), ("enableOCI", "true")],
            &[],
        ),
        // Argo CD's repositories below it inherit the proxy.
        (
            "prefix-by-proxy",
            "repo-creds",
            &[
                ("url", &bare),
                ("enableOCI", "true"),
                ("workloadIdentityDelivery", "proxy"),
                (
                    "workloadIdentityUpstreamProxy",
                    "http://proxy.example.test:3128",
                ),
            ],
            &[],
        ),
    ];
    for (name, label, changes, warnings) in table {
        let before = with(repository(scene), changes);
        let answer = bench.settles(&secret(name, label, &before)).await?;
        let after = stored(&answer.object)?;
        snapshot::check("repository", name, &shown(scene, &after, &answer.warnings));
        ensure!(
            codes(&answer.warnings) == warnings,
            "{name}: {:?}",
            answer.warnings
        );
    }
    Ok(())
}

async fn string_data_and_data_give_the_same(scene: &Scene) -> Result<()> {
    let rest = scene.rest()?;
    let (one, two) = ("as-string-data", "as-data");
    for namespace in [one, two] {
        scene.namespace(namespace, &[]).await?;
    }
    for (label, values) in [
        ("repository", repository(scene)),
        ("cluster", values::cluster(scene)),
    ] {
        let text = secret(label, label, &values);
        let text = rest.create(&collection(one), &text).await?;
        let bytes = encoded(secret(label, label, &values));
        let bytes = rest.create(&collection(two), &bytes).await?;
        ensure!(
            text.object["data"] == bytes.object["data"],
            "{text:?} {bytes:?}"
        );
        ensure!(codes(&text.warnings) == codes(&bytes.warnings));
        ensure!(!text.warnings.is_empty());
    }
    Ok(())
}

async fn static_credentials_go_only_when_asked(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("static-credentials", &[]).await?;
    let bench = Bench::new(scene, namespace)?;
    let before = with(
        repository(scene),
        &[("username", "robot"), ("password", "hunter2")],
    );
    let mut manifest = secret("both", "repository", &before);
    manifest["metadata"]["annotations"] = json!({ REMOVE_STATIC_CREDENTIALS: "true" });
    let stored = stored(&bench.create(&manifest).await?.object)?;
    ensure!(!stored.contains_key("username") && !stored.contains_key("password"));
    ensure!(stored.contains_key("workloadIdentityProvider"));
    Ok(())
}

async fn secrets_without_workload_identity_are_left_alone(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("plain-secrets", &[]).await?;
    let bench = Bench::new(scene, namespace)?;
    let off = with(repository(scene), &[("useWorkloadIdentity", "false")]);
    let off = with(off, &[("username", "robot"), ("password", "hunter2")]);
    let nothing = Values::new();
    let in_cluster = with(
        values::cluster(scene),
        &[("server", "https://kubernetes.default.svc")],
    );
    let static_only = values::values(&[
        ("url", "https://git.example.test/team/repo"),
        ("username", "robot"),
        ("password", "hunter2"),
        ("proxy", "http://proxy.example.test:3128"),
    ]);
    for (name, label, before) in [
        ("off", "repository", &off),
        ("empty", "repository", &nothing),
        ("empty-cluster", "cluster", &nothing),
        ("in-cluster", "cluster", &in_cluster),
        ("static", "repository", &static_only),
        ("static-prefix", "repo-creds", &static_only),
        // No kind of Secret that this project knows.
        ("another", "repository-write", &repository(scene)),
    ] {
        let answer = bench.settles(&secret(name, label, before)).await?;
        ensure!(stored(&answer.object)? == *before, "{answer:?}");
        ensure!(answer.warnings.is_empty(), "{name}: {:?}", answer.warnings);
    }
    Ok(())
}

async fn namespaces_that_are_not_served_are_left_alone(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("not-served", &[]).await?;
    let bench = Bench::new(scene, namespace)?;
    let of_project = with(repository(scene), &[("project", "production")]);
    let invalid = with(repository(scene), &[("workloadIdentityProvider", "vault")]);
    for (name, label, before) in [
        ("helm", "repository", &of_project),
        ("invalid", "repository", &invalid),
        ("cluster", "cluster", &values::cluster(scene)),
    ] {
        let answer = bench.create(&secret(name, label, before)).await?;
        ensure!(stored(&answer.object)? == *before, "{answer:?}");
        let codes = codes(&answer.warnings);
        ensure!(codes == ["namespace-not-served"], "{name}: {codes:?}");
    }
    let plain = values::values(&[("url", "https://git.example.test/team/repo")]);
    let answer = bench.create(&secret("plain", "repository", &plain)).await?;
    ensure!(answer.warnings.is_empty(), "{answer:?}");
    Ok(())
}

/// The API server refuses an update of one whose data changes on the way.
async fn an_immutable_secret_stays_editable(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("static-credentials", &[]).await?;
    let bench = Bench::new(scene, namespace)?;
    let values = with(repository(scene), &[("project", "production")]);
    let mut manifest = secret("immutable", "repository", &values);
    manifest["immutable"] = json!(true);
    let labels = manifest["metadata"]["labels"].take();
    let created = bench.create(&manifest).await?;
    ensure!(stored(&created.object)? == values, "{created:?}");
    // Nobody completes it any more.
    let one = format!("{}/immutable", bench.path);
    let label = json!({ "metadata": { "labels": labels } });
    let labelled = bench.rest.merge(&one, &label).await?;
    ensure!(stored(&labelled.object)? == values, "{labelled:?}");
    let codes = codes(&labelled.warnings);
    ensure!(codes == ["secret-immutable"], "{codes:?}");
    // One that came through the webhook is complete.
    manifest["metadata"] = json!({ "name": "frozen", "labels": label["metadata"]["labels"] });
    let created = bench.create(&manifest).await?;
    ensure!(stored(&created.object)?.contains_key("proxy"));
    let one = format!("{}/frozen", bench.path);
    let label = json!({ "metadata": { "labels": { "team": "a" } } });
    let labelled = bench.rest.merge(&one, &label).await?;
    ensure!(labelled.warnings.is_empty(), "{labelled:?}");
    ensure!(labelled.object["data"] == created.object["data"]);
    Ok(())
}

/// A namespace in which Secrets are tried.
struct Bench {
    rest: Rest,
    webhook: webhook::Webhook,
    path: String,
}

impl Bench {
    fn new(scene: &Scene, namespace: &str) -> Result<Self> {
        Ok(Self {
            rest: scene.rest()?,
            webhook: scene.webhook()?,
            path: collection(namespace),
        })
    }

    async fn create(&self, manifest: &Value) -> Result<Answer<Value>> {
        self.rest.create(&self.path, manifest).await
    }

    /// Applies a manifest, which may only add keys and rewrite two, and makes
    /// sure that nothing changes any more, whoever applies it again and how.
    async fn settles(&self, manifest: &Value) -> Result<Answer<Value>> {
        let name = manifest["metadata"]["name"].as_str().unwrap_or_default();
        let one = format!("{}/{name}", self.path);
        let first = self.rest.apply(&one, manifest).await?;
        let after = stored(&first.object)?;
        for (key, value) in manifest["stringData"].as_object().into_iter().flatten() {
            let kept = after.get(key).is_some_and(|after| *value == **after);
            ensure!(kept || REWRITTEN.contains(&&**key), "{name}: {key} changed");
        }

        let again = self.rest.apply(&one, manifest).await?;
        ensure!(
            again.object["metadata"]["resourceVersion"]
                == first.object["metadata"]["resourceVersion"],
            "a second apply wrote {} over {}",
            again.object,
            first.object
        );
        let merged = json!({ "stringData": manifest["stringData"] });
        let merged = self.rest.merge(&one, &merged).await?;
        let replaced = self.rest.replace(&one, manifest).await?;
        for answer in [merged, replaced] {
            ensure!(stored(&answer.object)? == after, "{name} is now {answer:?}");
        }

        // What is stored is kept in silence, but for what holds at every write.
        let request = webhook::request("v1/Secret", &first.object, Some(&first.object));
        let response = self.webhook.ask(SECRETS, &request).await?;
        ensure!(response["allowed"] == true, "{response}");
        ensure!(webhook::patch(&response)?.is_none(), "{response}");
        Ok(first)
    }
}
