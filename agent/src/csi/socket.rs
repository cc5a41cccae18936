//! Unix sockets that kubelet calls. A path flows in, a listener and what is
//! needed to clean up after it flow out.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::net::UnixListener;

/// The file of a bound socket. Removed when this is dropped, unless another
/// process has put its own there in the meantime.
#[derive(Debug)]
pub(crate) struct Bound {
    path: PathBuf,
    identity: Identity,
}

/// What became of the file of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is there.
    Ours,
    /// Somebody removed it.
    Gone,
    /// Somebody else's file is there.
    Replaced,
}

/// An inode's number alone may be used again; its time tells the two apart.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            modified: (found.mtime(), found.mtime_nsec()),
        }
    }
}

impl Bound {
    /// Looks at the file.
    pub(super) fn standing(&self) -> Standing {
        match std::fs::symlink_metadata(&self.path) {
            Ok(found) if Identity::of(&found) == self.identity => Standing::Ours,
            Ok(_) => Standing::Replaced,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Standing::Gone,
            // Not to be seen at the moment: nothing is known to have changed.
            Err(_) => Standing::Ours,
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.standing() == Standing::Ours
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(socket = %self.path.display(), %error, "the socket stays behind");
        }
    }
}

/// Binds a socket: mode 0600, a stale one of an earlier process removed.
/// `flag` is the setting that an error names.
///
/// # Errors
/// When there is something else at `path`, or it cannot be bound.
pub(crate) fn bind(path: &Path, flag: &str) -> anyhow::Result<(UnixListener, Bound)> {
    let shown = path.display();
    remove_stale(path, flag)?;
    let listener = UnixListener::bind(path).with_context(|| format!("{flag} {shown}"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("{flag} {shown}: mode"))?;
    let found = std::fs::symlink_metadata(path).with_context(|| format!("{flag} {shown}"))?;
    let bound = Bound {
        path: path.to_owned(),
        identity: Identity::of(&found),
    };
    Ok((listener, bound))
}

/// Removes the socket that an earlier process left at `path`, if there is one.
///
/// # Errors
/// When there is something else, or it cannot be removed.
pub(super) fn remove_stale(path: &Path, flag: &str) -> anyhow::Result<()> {
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)
            .with_context(|| format!("{flag} {shown}: remove the stale socket")),
        Ok(_) => anyhow::bail!("{flag} {shown}: there is a file that is no socket"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{flag} {shown}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &Path) -> anyhow::Result<(UnixListener, Bound)> {
        super::bind(path, "--socket")
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("csi.sock");
        let (listener, killed) = bind(&path).unwrap();
        std::mem::forget(killed);
        drop(listener);
        assert!(path.exists(), "a killed process leaves its socket");
        let (_listener, _bound) = bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let error = format!("{:#}", bind(&file).unwrap_err());
        assert!(error.contains("--socket"), "{error}");
        assert!(file.exists());
    }

    #[tokio::test]
    async fn a_socket_is_removed_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("csi.sock");
        let (_listener, bound) = bind(&path).unwrap();
        assert_eq!(bound.standing(), Standing::Ours);
        drop(bound);
        assert!(!path.exists());

        let (_old_listener, old) = bind(&path).unwrap();
        let (_new_listener, new) = bind(&path).unwrap();
        assert_eq!(old.standing(), Standing::Replaced);
        drop(old);
        assert_eq!(new.standing(), Standing::Ours);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(new.standing(), Standing::Gone);
    }
}
