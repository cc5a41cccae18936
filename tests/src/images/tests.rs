//! Images are built, pushed into the real registry, pulled back, and their programs are run in them.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::digest;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::push::{Source, name};
use super::*;
use crate::peers::Peers;
use crate::process::{Process, output, wait_until};
use crate::registry::Registry;

/// An image's files as a container would see them.
struct Root {
    folder: TempDir,
}

impl Root {
    fn new(image: &Image) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let built = image.build(folder.path()).unwrap();
        let Source::File(layer) = built.layer.source else {
            panic!("a layer is a file");
        };
        let root = Self { folder };
        unpack(&layer, &root.path());
        root
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// A command in it, with nothing else of this machine but `/proc` and devices.
    fn command(&self) -> Command {
        let mut command = Command::new("bwrap");
        command
            .arg("--bind")
            .arg(self.path())
            .args(["/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"])
            .args(["--die-with-parent", "--clearenv"])
            .args(["--setenv", "PATH", PATH, "--setenv", "HOME", "/tmp"])
            .args(["--chdir", "/tmp"]);
        command
    }

    fn run(&self, program: &[&str]) -> String {
        output(self.command().args(program)).unwrap()
    }
}

fn unpack(layer: &Path, to: &Path) {
    let mut archive = tar::Archive::new(File::open(layer).unwrap());
    archive.set_preserve_permissions(true);
    archive.unpack(to).unwrap();
}

/// These tests may be the first that run on a machine, and run beside one another.
static PACKAGES: LazyLock<()> = LazyLock::new(|| packages::ensure().unwrap());

fn peers() -> Peers {
    LazyLock::force(&PACKAGES);
    Peers::prepare().unwrap()
}

fn empty() -> Image {
    LazyLock::force(&PACKAGES);
    Image::new("empty:test".parse().unwrap())
}

#[test]
fn a_program_runs_with_its_libraries_alone() {
    let mut image = empty();
    image.installed(&["ls"]).unwrap();
    let seen = Root::new(&image).run(&["ls", "/"]);
    let seen: Vec<&str> = seen.lines().collect();
    assert_eq!(
        seen,
        ["bin", "dev", "lib", "lib64", "proc", "sbin", "tmp", "usr"]
    );
}

#[test]
fn the_same_files_make_the_same_image() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("first"), "content").unwrap();
    std::fs::hard_link(source.path().join("first"), source.path().join("second")).unwrap();
    std::os::unix::fs::symlink("second", source.path().join("third")).unwrap();
    let digest = |folder: &Path| {
        let mut image = empty();
        image.tree(source.path()).unwrap();
        image.text("/bin/script", 0o755, "#!/bin/sh\n");
        image.build(folder).unwrap().digest().to_owned()
    };
    let folder = tempfile::tempdir().unwrap();
    let first = digest(folder.path());
    // Times are no part of it.
    File::open(source.path().join("first"))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    assert_eq!(first, digest(folder.path()));

    let root = folder.path().join("root");
    unpack(&folder.path().join("library-empty-test.tar"), &root);
    let below = root.join(source.path().strip_prefix("/").unwrap());
    let inode = |name: &str| std::fs::metadata(below.join(name)).unwrap().ino();
    assert_eq!(inode("first"), inode("second"));
    assert!(below.join("third").is_symlink());
    assert!(root.join("usr/bin/script").is_file());
}

#[tokio::test]
async fn a_registry_gives_back_what_was_pushed() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let peers = peers();
    let registry = Registry::open(peers.registry(), &folder.path().join("registry"))
        .await
        .unwrap();
    let mut image = busybox::image().unwrap();
    image.text("/etc/motd", 0o644, "as pushed");
    let built = image.build(folder.path()).unwrap();
    built.push(&registry.url()).await.unwrap();
    let uploads = registry.accesses("\"PUT ").unwrap().len();
    assert_eq!(uploads, 3, "layer, configuration, manifest");
    built.push(&registry.url()).await.unwrap();
    assert_eq!(registry.accesses("\"PUT ").unwrap().len(), uploads + 1);

    let base = format!("{}/v2/library/busybox", registry.url());
    let manifest = pull(&format!("{base}/manifests/test")).await;
    assert_eq!(sha256(&manifest), built.digest());
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let config = &manifest["config"]["digest"].as_str().unwrap();
    let config = pull(&format!("{base}/blobs/{config}")).await;
    let config: Value = serde_json::from_slice(&config).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    assert_eq!(config["rootfs"]["diff_ids"][0], layer);
    let content = pull(&format!("{base}/blobs/{layer}")).await;
    assert_eq!(sha256(&content), layer);

    let pulled = folder.path().join("pulled.tar");
    std::fs::write(&pulled, content).unwrap();
    let root = folder.path().join("pulled");
    unpack(&pulled, &root);
    assert_eq!(
        std::fs::read_to_string(root.join("etc/motd")).unwrap(),
        "as pushed"
    );
}

async fn pull(url: &str) -> Vec<u8> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(url).header("accept", MANIFEST_TYPE);
    let answer = request.send().await.unwrap().error_for_status().unwrap();
    answer.bytes().await.unwrap().to_vec()
}

fn sha256(bytes: &[u8]) -> String {
    name(digest::digest(&digest::SHA256, bytes))
}

#[test]
fn argocd_has_the_programs_that_it_calls() {
    let peers = peers();
    let image = argocd::image(&peers).unwrap();
    let version = image.reference.tag.clone();
    assert_eq!(image.reference.host, "quay.io");
    let root = Root::new(&image);
    let said = root.run(&["argocd", "version", "--client"]);
    assert!(said.contains(&version), "{said}");
    let said = root.run(&["argocd-repo-server", "--help"]);
    assert!(said.contains("argocd-repo-server"), "{said}");
    root.run(&["helm", "version"]);
    assert!(root.run(&["git", "--version"]).starts_with("git version"));
    root.run(&[
        "sh",
        "-ec",
        "git init -q /tmp/a; git clone -q file:///tmp/a /tmp/b",
    ]);
    // With a key, the agent runs too.
    root.run(&[
        "sh",
        "-ec",
        "gpg --version; gpg --batch --passphrase '' --quick-generate-key a@example.test ed25519; \
         gpg-wrapper.sh --list-secret-keys a@example.test",
    ]);
    // As the manifest's init container does.
    root.run(&[
        "sh",
        "-ec",
        "/bin/cp -n /usr/local/bin/gpg-wrapper.sh /tmp/copy; /bin/cp -n /usr/local/bin/gpg-wrapper.sh /tmp/copy",
    ]);
}

#[test]
fn redis_starts_with_the_arguments_of_the_manifest() {
    let peers = peers();
    let image = redis::image(&peers).unwrap();
    assert_eq!(image.reference.name, "docker/library/redis");
    let root = Root::new(&image);
    assert!(root.run(&["redis-server", "--version"]).contains("v="));
    let mut server = root.command();
    // `$(REDIS_PASSWORD)` and its flag are one argument there.
    server.args(["redis-server", "--save", "", "--appendonly", "no"]);
    server.args([
        "--requirepass word",
        "--port",
        "0",
        "--unixsocket",
        "/data/socket",
    ]);
    let _server = Process::start("redis", &mut server, root.folder.path()).unwrap();
    let until = "until redis-cli -s /data/socket -a word ping | grep PONG; do sleep 0.1; done";
    let mut shell = empty();
    shell.installed(&["redis-cli"]).unwrap();
    busybox::add(&mut shell).unwrap();
    let shell = Root::new(&shell);
    output(
        shell
            .command()
            .arg("--bind")
            .arg(root.path().join("data"))
            .args(["/data", "timeout", "20", "sh", "-c", until]),
    )
    .unwrap();
}

#[tokio::test]
async fn the_supervisor_starts_again_what_ends_and_ends_with_it() {
    let mut image = empty();
    let agent = "#!/bin/sh\necho started $$ $PPID\nexec sleep 1000\n";
    image.text("/usr/local/bin/argocd-identity-agent", 0o755, agent);
    project::supervise(&mut image).unwrap();
    let root = Root::new(&image);
    let mut command = root.command();
    command.args(&image.config.entrypoint);
    let mut supervisor = Process::start("supervisor", &mut command, root.folder.path()).unwrap();
    let log = supervisor.log().to_owned();
    let started = async |times: usize| {
        wait_until("the agent", Duration::from_secs(10), async || {
            let text = std::fs::read_to_string(&log)?;
            let starts: Vec<(Pid, Pid)> = text.lines().filter_map(ids).collect();
            ensure!(starts.len() == times, "{text}");
            Ok(starts[times - 1])
        })
        .await
        .unwrap()
    };
    for times in 1..=5 {
        let (agent, _) = started(times).await;
        kill_process(agent, Signal::KILL).unwrap();
    }
    let (agent, script) = started(6).await;
    kill_process(script, Signal::TERM).unwrap();
    let ended = wait_until("the end", Duration::from_secs(10), || {
        let ended = supervisor.ended();
        async { ended?.context("it runs") }
    });
    assert_eq!(
        ended.await.unwrap().code(),
        Some(128 + Signal::TERM.as_raw())
    );
    assert!(test_kill_process(agent).is_err());
}

/// The process ids of an agent and of what started it.
fn ids(line: &str) -> Option<(Pid, Pid)> {
    let mut words = line.strip_prefix("started ")?.split(' ');
    let mut id = || Pid::from_raw(words.next()?.parse().ok()?);
    Some((id()?, id()?))
}

#[test]
fn containerd_is_pointed_at_one_registry() {
    let folder = tempfile::tempdir().unwrap();
    mirror::write(folder.path(), "http://127.0.0.1:5000").unwrap();
    let text = std::fs::read_to_string(folder.path().join("_default/hosts.toml")).unwrap();
    assert_eq!(
        text,
        "server = \"http://127.0.0.1:5000\"\n\n[host.\"http://127.0.0.1:5000\"]\n\
         capabilities = [\"pull\", \"resolve\"]\n"
    );
}
