//! What is written is compared with what the control plane serves.

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use axum::body::{self, Body};
use clap::Parser;
use control_plane_core::identity::algorithm::Algorithm;
use tempfile::TempDir;
use tokio::sync::watch;
use tower::Service;

use super::*;
use crate::{
    args::{Args, Command},
    connections::Limits,
    generate::Generate,
    issuer::{
        fake::Cluster,
        keys::{Keyring, SigningKey},
    },
    server::{self, Drain},
    serving_metrics::ServingMetrics,
    tls::Reloader,
};

const ISSUER: &str = "https://identity.example.org/argocd";

fn issuer() -> IssuerUrl {
    one("issuer-url", ISSUER).unwrap()
}

fn pem() -> Zeroizing<String> {
    SigningKey::generate(Algorithm::Rs256).unwrap().1
}

/// What the control plane serves with a key.
fn router(pem: &str) -> axum::Router {
    let key = SigningKey::from_pem(pem.as_bytes()).unwrap();
    documents::router(issuer(), Keyring::new(key, Duration::ZERO))
}

/// What it serves at a path.
async fn served(pem: &str, path: &str) -> Vec<u8> {
    let mut router = router(pem);
    let request = axum::http::Request::get(path).body(Body::empty()).unwrap();
    let response = Service::call(&mut router, request).await.unwrap();
    let read = body::to_bytes(response.into_body(), usize::MAX).await;
    read.unwrap().to_vec()
}

/// A folder with a key in PEM, and a folder for the documents.
struct Bench {
    folder: TempDir,
    pem: Zeroizing<String>,
}

impl Bench {
    fn new() -> Self {
        let pem = pem();
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("tls.key"), &*pem).unwrap();
        Self { folder, pem }
    }

    fn output(&self, path: &str) -> PathBuf {
        self.folder.path().join("host").join(path)
    }

    /// Outcome, stdout and stderr, without the folder's name.
    async fn generate(&self, flags: &[&str]) -> anyhow::Result<(Outcome, String, String)> {
        let output = format!("--output={}", self.output("").display());
        let issuer = format!("--issuer-url={ISSUER}");
        let always = ["argocd-identity", "generate", "issuer-documents"];
        let all = always.into_iter().chain([&*output, &issuer]);
        let all = all.chain(flags.iter().copied());
        let Command::Generate(Generate::IssuerDocuments(args)) = Args::try_parse_from(all)?.command
        else {
            panic!("another command");
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let outcome = run(*args, &mut out, &mut err).await?;
        let root = self.output("").display().to_string();
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(&root, "");
        Ok((outcome, text(out), text(err)))
    }

    fn key_file(&self) -> String {
        format!("--key-file={}/tls.key", self.folder.path().display())
    }

    async fn assert_written(&self) {
        for path in [DISCOVERY_PATH, KEYS_PATH] {
            let written = fs::read(self.output(&path[1..])).unwrap();
            let expected = served(&self.pem, path).await;
            assert_eq!(written, expected, "{path}");
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_static_host_serves_what_the_control_plane_does() {
    let bench = Bench::new();
    fs::create_dir_all(bench.output(".well-known")).unwrap();
    let other = bench.output(".well-known/security.txt");
    fs::write(&other, "somebody else's").unwrap();

    let key_file = bench.key_file();
    let (outcome, out, err) = bench.generate(&[&key_file]).await.unwrap();
    assert_eq!((outcome, &*err), (Outcome::Clean, ""));
    assert_eq!(
        out,
        "keys: written\n.well-known/openid-configuration: written\n"
    );
    bench.assert_written().await;
    assert_eq!(mode(&bench.output("keys")), 0o644);
    assert_eq!(fs::read_to_string(&other).unwrap(), "somebody else's");
    let count = |path| fs::read_dir(bench.output(path)).unwrap().count();
    assert_eq!(
        (count(""), count(".well-known")),
        (2, 2),
        "nothing is left over"
    );

    let (_, out, _) = bench.generate(&[&key_file]).await.unwrap();
    assert_eq!(
        out,
        "keys: unchanged\n.well-known/openid-configuration: unchanged\n"
    );
}

#[tokio::test]
async fn a_check_writes_nothing_and_tells_what_differs() {
    let bench = Bench::new();
    let flags = [&*bench.key_file(), "--check"];
    let (outcome, _, err) = bench.generate(&flags).await.unwrap();
    assert_eq!(outcome, Outcome::Flawed);
    assert_eq!(err.lines().count(), 2, "{err}");
    assert!(!bench.output("").exists());

    bench.generate(&flags[..1]).await.unwrap();
    let (outcome, _, err) = bench.generate(&flags).await.unwrap();
    assert_eq!((outcome, &*err), (Outcome::Clean, ""));

    fs::write(bench.output("keys"), "{}").unwrap();
    let (outcome, _, err) = bench.generate(&flags).await.unwrap();
    assert_eq!(outcome, Outcome::Flawed);
    assert_eq!(err, "keys: is not what the issuer has now\n");
    assert_eq!(fs::read_to_string(bench.output("keys")).unwrap(), "{}");
}

#[tokio::test]
async fn only_public_halves_are_written() {
    let bench = Bench::new();
    bench.generate(&[&bench.key_file()]).await.unwrap();
    let keys = fs::read(bench.output("keys")).unwrap();
    let keys: serde_json::Value = serde_json::from_slice(&keys).unwrap();
    let members: Vec<_> = keys["keys"][0].as_object().unwrap().keys().collect();
    assert_eq!(members, ["alg", "e", "kid", "kty", "n", "use"]);
}

#[tokio::test]
async fn every_key_of_the_secret_is_published_the_signing_key_first() {
    let pems = [(); 2].map(|()| pem());
    let kid = |at: usize| PublicJwk::from_pem(pems[at].as_bytes()).unwrap().kid;
    let namespace: Namespace = one("installation-namespace", "identity").unwrap();
    let kids = async |entries: &[(&str, &str)]| {
        let cluster = Cluster::default();
        cluster.add_secret("identity", SECRET, entries);
        let keys = of_cluster(cluster.client(), &namespace).await;
        let keys = keys.map_err(|error| format!("{error:#}"))?;
        let documents = Documents::new(&issuer(), keys).unwrap();
        let set: serde_json::Value = serde_json::from_slice(&documents.keys).unwrap();
        let kids = set["keys"].as_array().unwrap().iter();
        let kids = kids.map(|key| key["kid"].as_str().unwrap().to_owned());
        Ok::<Vec<_>, String>(kids.collect())
    };
    let (first, second) = (&**pems[0], &**pems[1]);
    let both = [("tls.key", first), ("retired.pem", second), ("note", "x")];
    assert_eq!(kids(&both).await.unwrap(), [kid(0), kid(1)]);
    let twice = [("a.pem", first), ("b.pem", second), ("tls.key", first)];
    assert_eq!(kids(&twice).await.unwrap(), [kid(0), kid(1)]);

    let error = kids(&[("a.pem", first)]).await.unwrap_err();
    assert!(error.contains("no key tls.key"), "{error}");
    let error = kids(&[("tls.key", first), ("a.pem", "x")]).await;
    let error = error.unwrap_err();
    assert!(
        error.contains("Secret identity/argocd-identity-issuer: key a.pem"),
        "{error}"
    );
}

#[tokio::test]
async fn a_running_control_plane_is_copied_over_verified_tls() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let bench = Bench::new();
    let tls = TempDir::new().unwrap();
    let ca = tls.path().join("tls.crt");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(&ca, made.cert.pem()).unwrap();
    fs::write(tls.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    let metrics = ServingMetrics::register(&mut prometheus_client::registry::Registry::default());
    let (certificates, _reloader) = Reloader::open(tls.path().to_owned(), metrics).await;
    let listener = server::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(server::serve_tls(
        listener,
        router(&bench.pem),
        certificates.server_config(None).unwrap(),
        Limits::DOCUMENTS,
        stopping,
        Drain::default(),
    ));

    let fetch = format!("--fetch=https://localhost:{port}");
    let trust = format!("--ca-file={}", ca.display());
    let error = bench.generate(&[&fetch]).await.unwrap_err();
    assert!(format!("{error:#}").contains("certificate"), "{error:#}");
    let (outcome, _, err) = bench.generate(&[&fetch, &trust]).await.unwrap();
    assert_eq!((outcome, &*err), (Outcome::Clean, ""));
    bench.assert_written().await;
    let plain = format!("--fetch=http://localhost:{port}");
    assert!(bench.generate(&[&plain]).await.is_err());

    stop.send_replace(true);
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_there_stays_when_a_file_cannot_be_written() {
    let bench = Bench::new();
    // A folder in the place of the discovery document's folder's name.
    fs::create_dir_all(bench.output("")).unwrap();
    fs::write(bench.output(".well-known"), "a file").unwrap();
    let error = bench.generate(&[&bench.key_file()]).await.unwrap_err();
    assert!(
        format!("{error:#}").contains("openid-configuration"),
        "{error:#}"
    );
    assert_eq!(
        fs::read_to_string(bench.output(".well-known")).unwrap(),
        "a file"
    );
}
