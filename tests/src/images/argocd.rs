//! Argo CD's image from the peer's binary and Debian's programs, as upstream's Dockerfile lays it out.
//!
//! Its entrypoint `tini --` is left out: install.yaml has `args` that begin with a program, which
//! without an entrypoint are the command.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Image, Reference, references};
use crate::peers::Peers;
use crate::process::output;

const USER: u32 = 999;
const FOLDER: &str = "/usr/local/bin";
const HOME: &str = "/home/argocd";
/// The binary's other names.
const LINKS: &[&str] = &[
    "argocd-server",
    "argocd-repo-server",
    "argocd-cmp-server",
    "argocd-application-controller",
    "argocd-dex",
    "argocd-notifications",
    "argocd-applicationset-controller",
    "argocd-k8s-auth",
    "argocd-commit-server",
];
/// Called by repo-server when it checks signatures.
const SCRIPTS: &[&str] = &["gpg-wrapper.sh", "git-verify-wrapper.sh"];
/// What repo-server calls: git, which is also called by its folder's scripts, and gpg with its agent.
const PROGRAMS: &[&str] = &["git", "gpg", "gpg-agent", "gpgconf", "gpg-connect-agent"];
/// A shell, and what scripts and people use in it. The manifest's init containers use `cp -n`.
const SHELL: &[&str] = &[
    "sh", "basename", "cat", "chmod", "cp", "date", "dirname", "env", "expr", "false", "find",
    "grep", "head", "id", "ln", "ls", "mkdir", "mktemp", "mv", "printf", "readlink", "rm", "rmdir",
    "sed", "sleep", "sort", "tail", "tar", "test", "touch", "tr", "true", "uname", "wc",
];

/// The peers' Argo CD and Helm under the name that install.yaml has.
///
/// # Errors
/// When a program, a library or a file of the module is missing.
pub fn image(peers: &Peers) -> Result<Image> {
    let mut image = Image::new(reference(peers, "/argocd")?);
    image.program(format!("{FOLDER}/argocd"), peers.argocd())?;
    for name in LINKS {
        image.link(format!("{FOLDER}/{name}"), format!("{FOLDER}/argocd"));
    }
    image.program(format!("{FOLDER}/helm"), peers.helm())?;
    let hack = peers.argocd_module().join("hack");
    for script in SCRIPTS {
        image.file(format!("{FOLDER}/{script}"), 0o755, hack.join(script));
    }
    image.installed(PROGRAMS)?;
    image.installed(SHELL)?;
    let git = output(Command::new("git").arg("--exec-path"))?;
    image.tree(Path::new(git.trim()))?;
    image.tree(Path::new("/usr/share/git-core/templates"))?;
    folders(&mut image);
    image.certificates();
    image.users(&[("root", 0, "/root"), ("argocd", USER, HOME)]);
    image.config.environment = [("USER", "argocd"), ("ARGOCD_USER_ID", "999")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    image.config.user = USER.to_string();
    image.config.folder = HOME.to_owned();
    Ok(image)
}

/// The image of install.yaml whose repository ends in `end`.
pub(super) fn reference(peers: &Peers, end: &str) -> Result<Reference> {
    let path = peers.argocd_module().join("manifests/install.yaml");
    let manifest = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    references(&manifest)?
        .into_iter()
        .find(|reference| reference.name.ends_with(end))
        .with_context(|| format!("{} has no image …{end}", path.display()))
}

fn folders(image: &mut Image) {
    let user = u64::from(USER);
    image.owned_folder(HOME, 0o775, user, 0);
    image.text("/app/config/ssh/ssh_known_hosts", 0o644, "");
    image.link(
        "/etc/ssh/ssh_known_hosts",
        "/app/config/ssh/ssh_known_hosts",
    );
    image.folder("/app/config/tls", 0o755);
    image.folder("/app/config/gpg/source", 0o755);
    image.owned_folder("/app/config/gpg/keys", 0o700, user, 0);
    image.folder("/tmp", 0o1777);
    image.folder("/run", 0o755);
    image.link("/var/run", "/run");
}
