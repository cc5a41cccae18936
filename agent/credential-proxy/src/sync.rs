//! Follows the two folders that change under the proxy: the volume view (one
//! file per binding) and Argo CD's certificates. Bindings, roots and the
//! folder for Argo CD flow out. It polls, since both are swapped by renames
//! and neither is large.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shared::errors::{Code, Named};
use shared::layout::FileStem;
use shared::proxy_view::{self, KeyHash, ProxyBinding};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::authorize::Bindings;
use crate::folder;

/// File name → content of Argo CD's certificates.
pub type Roots = BTreeMap<String, Vec<u8>>;

/// Where things are.
#[derive(Debug, Clone)]
pub struct Folders {
    /// The volume view.
    pub view: PathBuf,
    /// The mounted argocd-tls-certs-cm.
    pub source: PathBuf,
    /// What `ARGOCD_TLS_DATA_PATH` names.
    pub tls_data: PathBuf,
}

/// The follower's state between two rounds.
#[derive(Debug)]
pub struct Follower {
    folders: Folders,
    ca: String,
    system: String,
    files: BTreeMap<String, (KeyHash, Option<ProxyBinding>)>,
    written: Option<(BTreeSet<String>, Roots)>,
    bindings: watch::Sender<Arc<Bindings>>,
    roots: watch::Sender<Arc<Roots>>,
}

/// What the rest of the proxy reads.
#[derive(Debug, Clone)]
pub struct Followed {
    /// The bindings.
    pub bindings: watch::Receiver<Arc<Bindings>>,
    /// Argo CD's certificates.
    pub roots: watch::Receiver<Arc<Roots>>,
}

impl Follower {
    /// Starts empty. `ca` and `system` are PEM.
    pub fn new(folders: Folders, ca: &str, system: String) -> (Self, Followed) {
        let (bindings, bindings_seen) = watch::channel(Arc::default());
        let (roots, roots_seen) = watch::channel(Arc::default());
        let follower = Self {
            folders,
            ca: ca.to_owned(),
            system,
            files: BTreeMap::new(),
            written: None,
            bindings,
            roots,
        };
        let followed = Followed {
            bindings: bindings_seen,
            roots: roots_seen,
        };
        (follower, followed)
    }

    /// One round. The folder for Argo CD is written before the bindings are
    /// published, so that a host is trusted before it is terminated.
    ///
    /// # Errors
    /// When a folder cannot be read or written, with its name; what was there
    /// stays.
    pub fn round(&mut self) -> io::Result<()> {
        let view = self.read_view();
        let changed = view.map_err(|error| at(&self.folders.view, &error))?;
        let source =
            folder::read(&self.folders.source).map_err(|error| at(&self.folders.source, &error))?;
        let bindings: Bindings = self
            .files
            .values()
            .filter_map(|(_, binding)| binding.clone())
            .collect();
        let hosts = bindings
            .iter()
            .map(|binding| binding.target.name().to_owned())
            .collect();
        let wanted = (hosts, source);
        if self.written.as_ref() != Some(&wanted) {
            let files = folder::plan(&wanted.0, &self.ca, &wanted.1, &self.system);
            let changes = folder::write(&self.folders.tls_data, &files)
                .map_err(|error| at(&self.folders.tls_data, &error))?;
            tracing::info!(hosts = wanted.0.len(), changes, "certificates for Argo CD");
            self.roots.send_replace(Arc::new(wanted.1.clone()));
            self.written = Some(wanted);
        }
        if changed {
            tracing::info!(bindings = bindings.iter().count(), "bindings");
            self.bindings.send_replace(Arc::new(bindings));
        }
        Ok(())
    }

    /// Reads what changed. A file that cannot be read keeps the binding that
    /// it held; its credential ends at its expiry all the same.
    fn read_view(&mut self) -> io::Result<bool> {
        let mut changed = false;
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(&self.folders.view)? {
            let Ok(name) = entry?.file_name().into_string() else {
                continue;
            };
            if name.starts_with('.') || !name.ends_with(".json") {
                continue;
            }
            let bytes = match fs::read(self.folders.view.join(&name)) {
                // Removed since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                bytes => Zeroizing::new(bytes?),
            };
            let hash = KeyHash::of(&bytes);
            if self.files.get(&name).is_none_or(|(seen, _)| *seen != hash) {
                let binding = match binding(Path::new(&name), &bytes) {
                    Ok(binding) => Some(binding),
                    Err(error) => {
                        tracing::warn!(file = name, code = %error.code, "{error}");
                        self.files.remove(&name).and_then(|(_, last)| last)
                    }
                };
                self.files.insert(name.clone(), (hash, binding));
                changed = true;
            }
            present.insert(name);
        }
        let before = self.files.len();
        self.files.retain(|name, _| present.contains(name));
        Ok(changed || before != self.files.len())
    }
}

fn at(folder: &Path, error: &io::Error) -> io::Error {
    let words = format!("{}: {error}", folder.display());
    io::Error::new(error.kind(), words)
}

/// A file's binding, which must be the one that the file is named after: two
/// files can then not speak for one binding.
fn binding(file: &Path, bytes: &[u8]) -> Result<ProxyBinding, Named> {
    let binding = proxy_view::parse(bytes)?;
    let stem = FileStem::new(&binding.name).ok();
    let named = stem.as_ref().map(FileStem::as_str);
    if named.is_none() || file.file_stem().and_then(|stem| stem.to_str()) != named {
        let reason = "the file is not named after its binding";
        return Err(Named::new(Code::ProxyViewUnreadable, reason));
    }
    Ok(binding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorize::tests::binding;

    #[test]
    fn bindings_and_certificates_follow_their_folders() {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders {
            view: root.path().join("view"),
            source: root.path().join("source"),
            tls_data: root.path().join("tls"),
        };
        for folder in [&folders.view, &folders.source, &folders.tls_data] {
            fs::create_dir(folder).unwrap();
        }
        let (mut follower, followed) = Follower::new(folders.clone(), "ca", "system".into());
        let write = |name: &str, bytes: &[u8]| fs::write(folders.view.join(name), bytes).unwrap();
        let names = || -> Vec<String> {
            let bindings = followed.bindings.borrow().clone();
            bindings.iter().map(|it| it.name.clone()).collect()
        };
        let a = proxy_view::render(&binding("a", "a", "quay.test:8443", "a")).unwrap();
        write("a.json", &a);
        write("b.json", &a);
        write(".a.json.tmp", b"half");
        follower.round().unwrap();
        assert_eq!(names(), ["a"]);
        assert_eq!(
            fs::read(folders.tls_data.join("quay.test")).unwrap(),
            b"ca\nsystem"
        );

        fs::write(folders.source.join("quay.test"), "corp").unwrap();
        write("a.json", b"broken");
        follower.round().unwrap();
        assert_eq!(names(), ["a"], "the last good binding stays");
        assert_eq!(
            fs::read(folders.tls_data.join("quay.test")).unwrap(),
            b"ca\ncorp"
        );
        assert_eq!(followed.roots.borrow().get("quay.test").unwrap(), b"corp");

        fs::remove_file(folders.view.join("a.json")).unwrap();
        follower.round().unwrap();
        assert!(names().is_empty());
        assert_eq!(
            fs::read(folders.tls_data.join("quay.test")).unwrap(),
            b"ca\ncorp",
            "trusted before its next binding comes"
        );
    }
}
