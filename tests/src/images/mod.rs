//! Container images from this machine's files, for a registry that containerd takes as its mirror.
//!
//! ```text
//!   files, programs and their libraries ─▶ Image ─▶ Built (layer, config, manifest) ─▶ registry
//! ```
//!
//! There is one layer, an uncompressed tar. The same files make the same digests: entries are sorted
//! and carry no times. `/bin`, `/sbin`, `/lib` and `/lib64` lead into `/usr`, as on Debian, and what
//! is put below them lands there.

pub mod argocd;
pub mod busybox;
pub mod mirror;
pub mod project;
pub mod redis;

mod layer;
mod libraries;
mod push;
mod reference;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use self::layer::{Content, Entry};
use self::push::{Blob, CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE};
use crate::packages;

pub use self::push::Built;
pub use self::reference::{Reference, references};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Folders of the root that are links into `/usr`.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// An image before it is built. Paths in it are absolute; missing folders above an entry are made.
#[derive(Debug)]
pub struct Image {
    /// What pods call it.
    pub reference: Reference,
    /// What a container of it runs.
    pub config: Config,
    entries: BTreeMap<PathBuf, Entry>,
}

/// What a container runs unless the pod says otherwise (OCI image configuration, `config`).
#[derive(Debug, Default)]
pub struct Config {
    /// What the arguments are given to; without it, they are the command.
    pub entrypoint: Vec<String>,
    /// The arguments.
    pub command: Vec<String>,
    /// Variables, beside `PATH`, which is always there.
    pub environment: BTreeMap<String, String>,
    /// A number, so that kubelet can tell that it is not root; empty means root.
    pub user: String,
    /// Working folder; empty means `/`.
    pub folder: String,
}

impl Image {
    /// An image with nothing but the links into `/usr`.
    #[must_use]
    pub fn new(reference: Reference) -> Self {
        let mut image = Self {
            reference,
            config: Config::default(),
            entries: BTreeMap::new(),
        };
        for name in MERGED {
            let target = Path::new("usr").join(name);
            image.folder(&target, 0o755);
            let entry = Entry::root(Content::Link(target), 0o777);
            image.entries.insert(PathBuf::from(name), entry);
        }
        image
    }

    /// A folder.
    pub fn folder(&mut self, at: impl AsRef<Path>, mode: u32) {
        self.insert(at.as_ref(), Entry::root(Content::Folder, mode));
    }

    /// A folder that belongs to another user than root.
    pub fn owned_folder(&mut self, at: impl AsRef<Path>, mode: u32, user: u64, group: u64) {
        let entry = Entry {
            content: Content::Folder,
            mode,
            user,
            group,
        };
        self.insert(at.as_ref(), entry);
    }

    /// A symbolic link; `target` is taken as it is.
    pub fn link(&mut self, at: impl AsRef<Path>, target: impl Into<PathBuf>) {
        self.insert(
            at.as_ref(),
            Entry::root(Content::Link(target.into()), 0o777),
        );
    }

    /// A file with this text.
    pub fn text(&mut self, at: impl AsRef<Path>, mode: u32, text: impl Into<String>) {
        self.insert(at.as_ref(), Entry::root(Content::Text(text.into()), mode));
    }

    /// A copy of this machine's file `from`, which is read when the image is built.
    pub fn file(&mut self, at: impl AsRef<Path>, mode: u32, from: impl Into<PathBuf>) {
        self.insert(at.as_ref(), Entry::root(Content::File(from.into()), mode));
    }

    /// A program, with the shared libraries and the loader that it needs, where the loader finds them.
    ///
    /// # Errors
    /// When the file cannot be read, or the machine lacks a library of it.
    pub fn program(&mut self, at: impl AsRef<Path>, from: &Path) -> Result<()> {
        let from = real(from)?;
        self.libraries(&from)?;
        self.file(at, 0o755, from);
        Ok(())
    }

    /// Programs that are installed on this machine, each at its own path.
    ///
    /// # Errors
    /// When one is not on PATH, or its libraries are not there.
    pub fn installed(&mut self, programs: &[&str]) -> Result<()> {
        for program in programs {
            let path = packages::find(program)
                .with_context(|| format!("{program} is not on this machine's PATH"))?;
            self.program(&path, &path)?;
        }
        Ok(())
    }

    /// A folder of this machine at the same path with all below it: modes, symbolic links and hard
    /// links as they are, owned by root, and the libraries of the programs in it.
    ///
    /// # Errors
    /// When something below it cannot be read, or a library is missing.
    pub fn tree(&mut self, folder: &Path) -> Result<()> {
        self.walk(folder, &mut HashMap::new())
    }

    fn walk(&mut self, at: &Path, seen: &mut HashMap<(u64, u64), PathBuf>) -> Result<()> {
        let what = || format!("read {}", at.display());
        let status = fs::symlink_metadata(at).with_context(what)?;
        let mode = status.permissions().mode() & 0o7777;
        if status.is_symlink() {
            self.link(at, fs::read_link(at).with_context(what)?);
        } else if status.is_dir() {
            self.folder(at, mode);
            let children: Result<Vec<_>, _> = fs::read_dir(at)
                .with_context(what)?
                .map(|child| child.map(|child| child.path()))
                .collect();
            let mut children = children.with_context(what)?;
            // As the layer is sorted: a hard link comes after the file that it names.
            children.sort();
            for child in children {
                self.walk(&child, seen)?;
            }
        } else if status.is_file() {
            match seen.get(&(status.dev(), status.ino())) {
                Some(first) => {
                    let content = Content::HardLink(first.clone());
                    self.insert(at, Entry::root(content, mode));
                }
                None => {
                    seen.insert((status.dev(), status.ino()), place(at));
                    self.libraries(at)?;
                    self.file(at, mode, at);
                }
            }
        }
        Ok(())
    }

    /// Users by name and number. Programs ask for the name and the home folder of the number that
    /// they run as.
    fn users(&mut self, users: &[(&str, u32, &str)]) {
        let passwd = users
            .iter()
            .map(|(name, id, home)| format!("{name}:x:{id}:{id}:{name}:{home}:/bin/sh\n"));
        self.text("/etc/passwd", 0o644, passwd.collect::<String>());
        let group = users
            .iter()
            .map(|(name, id, _)| format!("{name}:x:{id}:\n"));
        self.text("/etc/group", 0o644, group.collect::<String>());
    }

    /// The certificate authorities that this machine trusts, if it has any.
    fn certificates(&mut self) {
        if Path::new(CERTIFICATES).is_file() {
            self.file(CERTIFICATES, 0o644, CERTIFICATES);
        }
    }

    fn libraries(&mut self, program: &Path) -> Result<()> {
        for library in libraries::needed(program)? {
            let from = real(&library)?;
            self.file(&library, 0o755, from);
        }
        Ok(())
    }

    fn insert(&mut self, at: &Path, entry: Entry) {
        let at = place(at);
        for above in at.ancestors().skip(1).filter(|path| *path != Path::new("")) {
            self.entries
                .entry(above.to_owned())
                .or_insert_with(|| Entry::root(Content::Folder, 0o755));
        }
        self.entries.insert(at, entry);
    }

    /// Writes the layer as a file into `folder`, which must exist until the image is pushed.
    ///
    /// # Errors
    /// When a file of the image cannot be read, or the layer cannot be written.
    pub fn build(&self, folder: &Path) -> Result<Built> {
        let name = self.reference.name.replace('/', "-");
        let file = folder.join(format!("{name}-{}.tar", self.reference.tag));
        let layer = layer::write(&self.entries, &file)
            .with_context(|| format!("write the layer of {}", self.reference))?;
        let mut environment = vec![format!("PATH={PATH}")];
        let own = self.config.environment.iter();
        environment.extend(own.map(|(name, value)| format!("{name}={value}")));
        let config = Blob::from_json(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.config.entrypoint,
                "Cmd": self.config.command,
                "Env": environment,
                "User": self.config.user,
                "WorkingDir": self.config.folder,
            },
            // A layer's name in the configuration is that of its tar, which here is not compressed.
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
        }))?;
        let manifest = Blob::from_json(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.descriptor(CONFIG_TYPE),
            "layers": [layer.descriptor(LAYER_TYPE)],
        }))?;
        Ok(Built {
            reference: self.reference.clone(),
            layer,
            config,
            manifest,
        })
    }
}

/// Where an entry is in the layer: relative, and below `/usr` when its top folder is a link there.
fn place(at: &Path) -> PathBuf {
    let relative = at.strip_prefix("/").unwrap_or(at);
    let mut parts = relative.components();
    match parts.next() {
        Some(Component::Normal(top)) if MERGED.iter().any(|name| top == *name) => {
            Path::new("usr").join(relative)
        }
        _ => relative.to_owned(),
    }
}

fn real(path: &Path) -> Result<PathBuf> {
    let real = fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?;
    ensure!(real.is_file(), "{} is no file", real.display());
    Ok(real)
}

/// As Go and OCI name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
