//! Every bad value and the named error that refuses it.

use anyhow::{Result, ensure};
use serde_json::json;
use shared::errors::Code;

use super::values::{Values, cluster, encoded, repository, secret, with};
use super::{Bench, collection};
use crate::api::{codes, refusal};
use crate::case::{Case, shared};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(bad_repository_values_are_refused),
        shared!(bad_cluster_values_are_refused),
        shared!(bytes_that_are_no_text_are_refused),
        shared!(a_generated_name_is_refused),
        shared!(a_good_secret_cannot_become_a_bad_one),
    ]
}

/// The code, and the values that differ from a good Secret's; an empty value is
/// a missing key.
type Bad<'v> = (Code, &'v [(&'v str, &'v str)]);

async fn bad_repository_values_are_refused(scene: &Scene) -> Result<()> {
    let host = scene.around.targets.quay.host().to_owned();
    let bare = format!("{host}/prod/charts");
    let http = format!("http://{host}/prod");
    let with_password = format!("https://robot:hunter2@{host}/prod");
    let encoded_path = format!("https://{host}/group%2Fproject");
    let long = "a".repeat(shared::bounds::AUDIENCE + 1);
    let http_auth = scene
        .around
        .targets
        .quay
        .federation_url()
        .replace("https://", "http://");
    let table: &[Bad<'_>] = &[
        (Code::InvalidSecret, &[("type", "svn")]),
        (Code::InvalidSecret, &[("useWorkloadIdentity", "maybe")]),
        (Code::InvalidSecret, &[("enableOCI", "yes")]),
        (Code::InvalidSecret, &[("insecure", "sometimes")]),
        (
            Code::InvalidSecret,
            &[("workloadIdentityCredential", "Kerberos")],
        ),
        (
            Code::InvalidSecret,
            &[("workloadIdentityDelivery", "pigeon")],
        ),
        (
            Code::InvalidSecret,
            &[("workloadIdentityRegistryUsername", "a:b")],
        ),
        (Code::InvalidUrl, &[("url", "")]),
        (Code::InvalidUrl, &[("url", &http)]),
        (Code::InvalidUrl, &[("url", &with_password)]),
        (Code::InvalidUrl, &[("url", "oci://")]),
        (Code::InvalidUrl, &[("url", "oci://bad host/x")]),
        // Neither the guides' form nor Argo CD's.
        (Code::InvalidUrl, &[("url", &bare)]),
        (Code::InvalidUrl, &[("type", "oci"), ("url", &bare)]),
        (Code::InvalidUrl, &[("type", "git")]),
        (
            Code::InvalidUrl,
            &[("type", "git"), ("url", "git@git.example.test:team/repo")],
        ),
        // Accepted, it would be refused at each pull.
        (
            Code::PathRefused,
            &[("type", "git"), ("url", &encoded_path)],
        ),
        (
            Code::InvalidSecret,
            &[("workloadIdentityAudience", "quay.example.test\n")],
        ),
        (Code::InvalidSecret, &[("workloadIdentityAudience", &long)]),
        (
            Code::PlainHttpRefused,
            &[
                ("insecureOCIForceHttp", "true"),
                ("workloadIdentityDelivery", "docker-config"),
            ],
        ),
        (Code::InvalidProject, &[("project", "Not_A_Project")]),
        (Code::InvalidProject, &[("project", "../other")]),
        (
            Code::UnknownProvider,
            &[("workloadIdentityProvider", "vault")],
        ),
        (
            Code::AudienceMissing,
            &[
                ("workloadIdentityAudience", ""),
                ("workloadIdentityRegistryAuthURL", ""),
            ],
        ),
        (
            Code::AuthUrlInvalid,
            &[("workloadIdentityRegistryAuthURL", &http_auth)],
        ),
        (
            Code::AuthUrlInvalid,
            &[("workloadIdentityRegistryAuthURL", "token")],
        ),
        (
            Code::AuthUrlInvalid,
            &[(
                "workloadIdentityTokenURL",
                "https://user:hunter2@sts.example.test/",
            )],
        ),
        (
            Code::HostNotAllowed,
            &[(
                "workloadIdentityRegistryAuthURL",
                "https://elsewhere.example.test/oauth2/federation/robot/token",
            )],
        ),
        (
            Code::HostNotAllowed,
            &[("workloadIdentityTokenURL", "https://sts.example.test/token")],
        ),
        // Another provider's token service is nobody's.
        (
            Code::HostNotAllowed,
            &[("workloadIdentityTokenURL", "https://sts.amazonaws.com/")],
        ),
        (
            Code::UsernameMissing,
            &[("workloadIdentityRegistryUsername", "")],
        ),
        (
            Code::ExchangeUnspecified,
            &[
                ("workloadIdentityProvider", "oidc"),
                ("workloadIdentityRegistryAuthURL", ""),
            ],
        ),
        (Code::StaticCredentialsPresent, &[("password", "hunter2")]),
        (
            Code::StaticCredentialsPresent,
            &[("sshPrivateKey", "hunter2")],
        ),
        (
            Code::StaticCredentialsPresent,
            &[("useAzureWorkloadIdentity", "true")],
        ),
        (
            Code::ProxyConflict,
            &[
                ("project", "production"),
                ("proxy", "http://proxy.example.test:3128"),
            ],
        ),
        (
            Code::UpstreamProxyInvalid,
            &[(
                "workloadIdentityUpstreamProxy",
                "http://me:hunter2@proxy.example.test:3128",
            )],
        ),
        (
            Code::DeliveryRefused,
            &[
                ("workloadIdentityDelivery", "docker-config"),
                ("project", "production"),
            ],
        ),
        (
            Code::DeliveryRefused,
            &[
                ("workloadIdentityDelivery", "docker-config"),
                ("type", "oci"),
            ],
        ),
    ];
    refused_each(
        scene,
        "bad-repository",
        "repository",
        &repository(scene),
        table,
    )
    .await
}

async fn bad_cluster_values_are_refused(scene: &Scene) -> Result<()> {
    let insecure = r#"{"tlsClientConfig":{"insecure":true}}"#;
    let other_plugin = r#"{"execProviderConfig":{"command":"argocd-k8s-auth","args":["aws"]}}"#;
    let table: &[Bad<'_>] = &[
        (Code::InvalidSecret, &[("useWorkloadIdentity", "maybe")]),
        (Code::InvalidUrl, &[("server", "")]),
        (Code::InvalidUrl, &[("server", "http://127.0.0.1:6443")]),
        (
            Code::InvalidUrl,
            &[("server", "https://user@127.0.0.1:6443")],
        ),
        (Code::InvalidProject, &[("project", "-")]),
        (
            Code::UnknownProvider,
            &[("workloadIdentityProvider", "vault")],
        ),
        (Code::AudienceMissing, &[("workloadIdentityAudience", "")]),
        // As the guides have it: the administrator of this scene does not know it.
        (
            Code::HostNotAllowed,
            &[("server", "https://api.spoke.example.org:6443")],
        ),
        // The host is known, the port is not.
        (Code::HostNotAllowed, &[("server", "https://127.0.0.1:1")]),
        (
            Code::InvalidClusterConfig,
            &[("config", "{\"bearerToken\": \"hunter2\"")],
        ),
        (Code::InvalidClusterConfig, &[("config", "[]")]),
        (Code::InvalidClusterConfig, &[("config", "hunter2")]),
        // Argo CD would obey both.
        (
            Code::InvalidClusterConfig,
            &[("config", r#"{"TLSClientConfig":{"Insecure":true}}"#)],
        ),
        (
            Code::InvalidClusterConfig,
            &[("config", r#"{"BearerToken":"hunter2"}"#)],
        ),
        (Code::InsecureTransport, &[("config", insecure)]),
        (
            Code::ClusterAuthConflict,
            &[("config", r#"{"bearerToken":"hunter2"}"#)],
        ),
        (Code::ClusterExecConflict, &[("config", other_plugin)]),
    ];
    refused_each(scene, "bad-cluster", "cluster", &cluster(scene), table).await
}

/// Each is refused with its code, the object's name, and no value that could be
/// a secret; in whichever of the two forms, when it comes and as an update.
async fn refused_each(
    scene: &Scene,
    namespace: &str,
    label: &str,
    good: &Values,
    table: &[Bad<'_>],
) -> Result<()> {
    let namespace = scene.namespace(namespace, &[]).await?;
    let (rest, path) = (scene.rest()?, collection(namespace));
    rest.create(&path, &secret("bad", label, good)).await?;
    let one = format!("{path}/bad");
    for (code, changes) in table {
        let manifest = secret("bad", label, &with(good.clone(), changes));
        for manifest in [encoded(manifest.clone()), manifest] {
            let mut other = manifest.clone();
            other["metadata"]["name"] = json!("other");
            for (name, outcome) in [
                ("other", rest.create(&path, &other).await),
                ("bad", rest.replace(&one, &manifest).await),
            ] {
                let refused =
                    refusal(outcome).map_err(|error| error.context(format!("{changes:?}")))?;
                let said = &refused.message;
                ensure!(refused.code == 403, "{changes:?}: {refused:?}");
                ensure!(said.contains(&format!(": {code}: ")), "{changes:?}: {said}");
                ensure!(
                    said.contains(&format!("Secret {namespace}/{name}")),
                    "{said}"
                );
                ensure!(!said.contains("hunter2"), "{said}");
            }
        }
    }
    Ok(())
}

async fn bytes_that_are_no_text_are_refused(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("no-text", &[]).await?;
    let bench = Bench::new(scene, namespace)?;
    let mut manifest = encoded(secret("bytes", "repository", &repository(scene)));
    manifest["data"]["workloadIdentityAudience"] = json!("//79");
    let refused = refusal(bench.create(&manifest).await)?;
    ensure!(refused.message.contains("invalid-secret: "), "{refused:?}");
    ensure!(refused.message.contains("not UTF-8"), "{refused:?}");
    Ok(())
}

async fn a_generated_name_is_refused(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("generated-name", &[]).await?;
    let bench = Bench::new(scene, namespace)?;
    for (label, values) in [
        ("repository", repository(scene)),
        ("cluster", cluster(scene)),
    ] {
        let mut manifest = secret("", label, &values);
        let labels = manifest["metadata"]["labels"].take();
        manifest["metadata"] = json!({ "generateName": "repo-", "labels": labels });
        let refused = refusal(bench.create(&manifest).await)?;
        ensure!(
            refused.message.contains("generate-name-refused: "),
            "{refused:?}"
        );
    }
    Ok(())
}

/// Labels are values too: a Secret that nobody looked at is not known to be good.
async fn a_good_secret_cannot_become_a_bad_one(scene: &Scene) -> Result<()> {
    let namespace = scene.namespace("becomes-bad", &[]).await?;
    let rest = scene.rest()?;
    let one = format!("{}/late", collection(namespace));
    let values = with(repository(scene), &[("workloadIdentityProvider", "vault")]);
    let labelled = secret("late", "repository", &values);
    let mut plain = labelled.clone();
    plain["metadata"] = json!({ "name": "late" });
    rest.create(&collection(namespace), &plain).await?;
    let refused = refusal(rest.replace(&one, &labelled).await)?;
    ensure!(
        refused.message.contains("unknown-provider: "),
        "{refused:?}"
    );

    let good = secret("late", "repository", &repository(scene));
    let answer = rest.replace(&one, &good).await?;
    ensure!(
        codes(&answer.warnings) == ["url-rewritten", "drift-from-git"],
        "{:?}",
        answer.warnings
    );
    Ok(())
}
