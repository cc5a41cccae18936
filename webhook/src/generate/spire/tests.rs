//! Secrets flow in as files; what is printed is read back by YAML's parser and
//! by a shell, and compared with what is derived.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, process::Command};

use clap::Parser;
use control_plane_core::derive::meaning::Derived;
use proptest::prelude::*;
use serde_json::Value;
use shared::selectors::{Registration, SelectorTemplate};
use tempfile::TempDir;

use super::*;
use crate::{
    args::{self, Args},
    generate::Generate,
    source,
};

const GUIDES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/tests/process/guides");
/// The guide's cluster is one that the administrator has to know.
const SPOKE: &str = "--allowed-hosts=api.spoke.example.org:6443;insecure";

pub(super) fn settings(extra: &[&str]) -> Settings {
    Settings::try_from(arguments(extra)).unwrap()
}

fn arguments(extra: &[&str]) -> SpireArgs {
    let always = ["argocd-identity", "generate", "spire"];
    let mut flags = vec!["--trust-domain=example.org", "--cluster-name=prod"];
    flags.retain(|flag| {
        let name = flag.split('=').next().unwrap();
        !extra.iter().any(|given| given.starts_with(name))
    });
    let all = always.iter().chain(&flags).chain(extra);
    match Args::try_parse_from(all).unwrap().command {
        args::Command::Generate(Generate::Spire(args)) => *args,
        other => panic!("{other:?}"),
    }
}

/// Outcome, stdout and stderr.
async fn generate(extra: &[&str]) -> (Outcome, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outcome = run(arguments(extra), &mut out, &mut err).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (outcome, text(out), text(err))
}

fn guides() -> Vec<String> {
    let files = ["quay", "quay-options", "ecr", "openshift"];
    files
        .map(|file| format!("--filename={GUIDES}/{file}.yaml"))
        .to_vec()
}

async fn of_guides(extra: &[&str]) -> (Outcome, String, String) {
    let guides = guides();
    let files = guides.iter().map(String::as_str);
    generate(
        &files
            .chain([SPOKE])
            .chain(extra.iter().copied())
            .collect::<Vec<_>>(),
    )
    .await
}

fn documents(yaml: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    all.into_iter().filter(|value| !value.is_null()).collect()
}

fn spiffe_ids<'a>(documents: &'a [Value], field: &str) -> BTreeSet<&'a str> {
    let ids = documents
        .iter()
        .map(|it| it["spec"][field].as_str().unwrap());
    ids.filter(|id| id.contains("/ns/argocd/")).collect()
}

#[tokio::test]
async fn the_guides_secrets_in_every_form() {
    for (name, flags) in [
        ("static-entries", &["--node-label=argocd=true"][..]),
        ("static-entries-below-agent", &["--parent=agent"]),
        ("entry-create", &["--format=entry-create"]),
        (
            "entry-create-below-agent",
            &[
                "--format=entry-create",
                "--parent=agent",
                "--node-label=a/b=",
            ],
        ),
        (
            "spiffe-ids",
            &["--format=cluster-spiffe-ids", "--class-name=zero-trust"],
        ),
    ] {
        let (outcome, out, err) = of_guides(flags).await;
        assert_eq!((outcome, &*err), (Outcome::Clean, ""), "{name}");
        insta::assert_snapshot!(name, out);
    }
}

/// Whoever admission, controller and identity API give an identity to.
fn derived(settings: &Settings) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for file in ["quay", "quay-options", "ecr", "openshift"] {
        let text = fs::read_to_string(format!("{GUIDES}/{file}.yaml")).unwrap();
        let take = |secret: &_| match source::derive(&settings.derivation, secret) {
            Derived::Valid(_, spec) if spec.identity.subject.starts_with("spiffe:") => {
                ids.insert(spec.identity.subject);
            }
            Derived::Invalid(_, problems) => panic!("{problems:?}"),
            _ => {}
        };
        assert_eq!(
            secrets::parse(file, &text, &settings.namespaces[0], take),
            []
        );
    }
    ids
}

#[tokio::test]
async fn exactly_the_derived_identities_are_registered() {
    let expected = derived(&settings(&[SPOKE]));
    let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
    assert_eq!(expected.len(), 5, "{expected:?}");

    let (_, out, _) = of_guides(&[]).await;
    let entries = documents(&out);
    assert_eq!(spiffe_ids(&entries, "spiffeID"), expected);
    assert_eq!(entries.len(), expected.len() + 2, "and nodes and agent");

    let (_, out, _) = of_guides(&["--format=cluster-spiffe-ids"]).await;
    let entries = documents(&out);
    assert_eq!(spiffe_ids(&entries, "spiffeIDTemplate"), expected);
    assert_eq!(entries.len(), expected.len() + 1, "and the agent");

    let names: BTreeSet<_> = entries
        .iter()
        .map(|it| it["metadata"]["name"].to_string())
        .collect();
    assert_eq!(names.len(), entries.len());
}

#[tokio::test]
async fn the_order_of_the_files_does_not_matter() {
    let mut guides = guides();
    guides.push(SPOKE.to_owned());
    let there: Vec<&str> = guides.iter().map(String::as_str).collect();
    let back: Vec<&str> = there.iter().rev().copied().collect();
    assert_eq!(generate(&there).await.1, generate(&back).await.1);
}

#[tokio::test]
async fn a_shell_hands_the_commands_to_spire_as_they_are_meant() {
    let folder = TempDir::new().unwrap();
    let stub = folder.path().join("spire-server");
    fs::write(&stub, "#!/bin/sh\nprintf '%s\\n' \"$@\" .\n").unwrap();
    fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).unwrap();

    let selectors =
        "--spire-selectors=x:{namespace}'$(false)`\";*/{project},k8s:sa:{service_account}";
    let (_, script, _) = of_guides(&["--format=entry-create", selectors]).await;
    let output = Command::new("/bin/sh")
        .args(["-euc", &script])
        .env("PATH", folder.path())
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let seen = String::from_utf8(output.stdout).unwrap();
    let calls: Vec<Vec<&str>> = seen
        .split_terminator(".\n")
        .map(|call| call.lines().collect())
        .collect();
    assert_eq!(calls.len(), 7);
    let production = "spiffe://example.org/ns/argocd/sa/argocd-project-production";
    let call = calls
        .iter()
        .find(|call| call.contains(&production))
        .unwrap();
    assert_eq!(
        call[..],
        [
            "entry",
            "create",
            "-spiffeID",
            production,
            "-parentID",
            "spiffe://example.org/argocd-nodes/prod",
            "-selector",
            "x:argocd'$(false)`\";*/production",
            "-selector",
            "k8s:sa:argocd-project-production",
            "-jwtSVIDTTL",
            "3600",
            "-x509SVIDTTL",
            "3600",
        ]
    );
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "only the stub");
}

const MIXED: &str = r#"
apiVersion: v1
kind: List
items:
- kind: Secret
  metadata:
    {name: good, namespace: apps, labels: {argocd.argoproj.io/secret-type: repository}}
  data:
    type: aGVsbQ==
    url: b2NpOi8vcXVheS5leGFtcGxlLm9yZy9h
    project: YQ==
    workloadIdentityProvider: c3BpZmZl
  stringData:
    workloadIdentityRegistryAuthURL: https://quay.example.org/oauth2/federation/robot/token
    workloadIdentityRegistryUsername: a+argocd
- kind: Secret
  metadata: {name: bad, labels: {argocd.argoproj.io/secret-type: repository}}
  stringData: {type: helm, url: "oci://quay.example.org/b", password: do-not-show-this, workloadIdentityProvider: none-such}
- kind: Secret
  metadata: {name: torn, labels: {argocd.argoproj.io/secret-type: repository}}
  data: {password: do-not-show-this}
- kind: Secret
  metadata: {name: "in\njected: x", labels: {argocd.argoproj.io/secret-type: repository}}
- kind: Secret
  metadata: {name: no-secret-of-argocd}
  data: {password: do-not-show-this}
- kind: ConfigMap
  data: {useWorkloadIdentity: "true"}
"#;

#[tokio::test]
async fn bad_secrets_are_named_and_good_ones_generated() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mixed.yaml");
    fs::write(&path, format!("{MIXED}\n---\nnext: [do-not-show-this\n")).unwrap();
    let file = format!("-f={}", path.display());
    let (outcome, out, err) = generate(&[&file]).await;
    assert_eq!(outcome, Outcome::Flawed);
    let entries = documents(&out);
    assert_eq!(entries.len(), 3, "{out}");
    assert_eq!(
        entries[2]["spec"]["spiffeID"],
        "spiffe://example.org/ns/apps/sa/argocd-project-a"
    );
    assert!(!format!("{out}{err}").contains("do-not-show-this"), "{err}");
    let shown = err.replace(&folder.path().display().to_string(), "FOLDER");
    insta::assert_snapshot!("bad-secrets", shown);
}

#[tokio::test]
async fn findings_fail_the_check_and_not_the_generation() {
    let quay = format!("-f={GUIDES}/quay.yaml");
    let (outcome, out, err) = generate(&[&quay, "--jwt-ttl=1m"]).await;
    assert_eq!(outcome, Outcome::Clean);
    assert!(out.contains("jwtSVIDTTL: \"1m\""), "{out}");
    assert!(err.starts_with("finding: jwt-ttl: "), "{err}");

    let (outcome, out, err) = generate(&[&quay, "--jwt-ttl=1m", "--lint-only"]).await;
    assert_eq!((outcome, &*out), (Outcome::Flawed, ""));
    assert!(err.starts_with("finding: jwt-ttl: "), "{err}");

    let (outcome, out, err) = generate(&[&quay, "--lint-only"]).await;
    assert_eq!((outcome, &*out, &*err), (Outcome::Clean, "", ""));
}

#[test]
fn what_spire_never_issues_is_not_registered() {
    let settings = settings(&[]);
    let secret = |extra: &str| {
        format!(
            "kind: Secret\nmetadata: {{name: a, labels: {{argocd.argoproj.io/secret-type: repository}}}}\n\
            stringData: {{type: oci, url: oci://quay.example.org/a, workloadIdentityAudience: a, {extra}}}"
        )
    };
    let collected = |text: &str| {
        let mut identities = Identities::default();
        let take = |secret: &_| identities.add(&settings.derivation, secret);
        assert_eq!(secrets::parse("x", text, &settings.namespaces[0], take), []);
        identities
    };
    // A service account's token is the control plane's.
    let auth = "https://quay.example.org/oauth2/federation/robot/token";
    let quay =
        format!("workloadIdentityRegistryAuthURL: {auth}, workloadIdentityRegistryUsername: a+b");
    let token = secret(&format!(
        "workloadIdentityProvider: spiffe, workloadIdentityCredential: ServiceAccountToken, {quay}"
    ));
    let found = collected(&token);
    assert_eq!((found.iter().len(), found.problems.len()), (0, 0));
    // Nobody asks for what cannot be delivered.
    let certificate = secret(&format!(
        "workloadIdentityProvider: spiffe, workloadIdentityCredential: SpiffeCertificate, {quay}"
    ));
    let found = collected(&certificate);
    assert_eq!(found.iter().len(), 0);
    assert_eq!(
        found.problems[0].code,
        shared::errors::Code::CertificateNotUsable
    );
    // A certificate is SPIRE's.
    let found = collected(&secret(
        "workloadIdentityProvider: spiffe, workloadIdentityCredential: SpiffeCertificate",
    ));
    assert_eq!((found.iter().len(), found.problems.len()), (1, 0));
}

#[test]
fn the_longest_names_still_make_manifests_of_their_own() {
    let settings = settings(&[]);
    let mut identities = Identities::default();
    for last in ["a", "b"] {
        let text = format!(
            "kind: Secret\nmetadata: {{name: a, namespace: {}, labels: {{argocd.argoproj.io/secret-type: \
            repository}}}}\nstringData: {{type: oci, url: oci://quay.example.org/a, project: {}{last}, \
            workloadIdentityProvider: spiffe, workloadIdentityCredential: SpiffeCertificate}}",
            "n".repeat(63),
            "p".repeat(237),
        );
        let take = |secret: &_| identities.add(&settings.derivation, secret);
        let problems = secrets::parse("x", &text, &settings.namespaces[0], take);
        assert_eq!(problems, []);
    }
    assert_eq!(identities.problems, []);
    let names: BTreeSet<_> = identities.iter().map(plan::name).collect();
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| name.len() <= 253), "{names:?}");
}

proptest! {
    #[test]
    fn quoting_survives_a_shell(text in "[^\\x00]{0,24}") {
        let output = Command::new("/bin/sh")
            .args(["-c", &format!("printf %s {}", shell::quoted(&text))])
            .output()
            .unwrap();
        prop_assert_eq!(output.stdout, text.as_bytes());
    }

    /// Every selector that a template can make arrives in the manifest.
    #[test]
    fn manifests_are_yaml_with_the_agents_selectors(
        template in "[a-z-]{1,8}:[!-+./0-z|~-]{1,12}(,[a-z]{1,8}:\\{namespace\\}/\\{project\\})?",
        namespace in "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?",
        project in "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?",
    ) {
        prop_assume!(template.parse::<SelectorTemplate>().is_ok());
        let settings = settings(&[&format!("--spire-selectors={template}")]);
        let text = format!(
            "kind: Secret\nmetadata: {{name: a, namespace: \"{namespace}\", labels: \
            {{argocd.argoproj.io/secret-type: repository}}}}\nstringData: {{type: oci, \
            url: oci://quay.example.org/a, workloadIdentityProvider: spiffe, project: \"{project}\", \
            workloadIdentityCredential: SpiffeCertificate}}"
        );
        let mut identities = Identities::default();
        let take = |secret: &_| identities.add(&settings.derivation, secret);
        let problems = secrets::parse("x", &text, &settings.namespaces[0], take);
        prop_assert_eq!(&problems, &[]);
        prop_assert_eq!(&identities.problems, &[]);

        let entries = documents(&render(&settings, &identities));
        let selectors = settings.selectors.render(&Registration {
            service_account: format!("argocd-project-{project}"),
            namespace,
            project: Some(project),
        });
        let selectors: Vec<_> = selectors.iter().map(ToString::to_string).collect();
        prop_assert_eq!(&entries[2]["spec"]["selectors"], &serde_json::json!(selectors));
    }
}
