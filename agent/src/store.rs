//! The only writer of credential files. Contents flow in, files on a verified
//! tmpfs come out: whole, or not at all.
//!
//! Every operation opens the volume anew and asks the kernel what it is
//! ([`VerifiedTmpfs`]); all further steps are relative to those descriptors
//! and never follow a symbolic link, so a volume that was unmounted or
//! replaced in between is an error, not a credential on a disk. A file is
//! written beside its name, synced, and renamed over it: a reader has the old
//! content or the new one. Directories are made once and stay, because a
//! `subPath` mount pins their inodes.

mod program;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use shared::layout;
use zeroize::Zeroizing;

pub use program::Program;

/// Largest file that is read back.
const LARGEST: u64 = 4 << 20;
/// Prefix of files that are being written; no name of ours starts with a dot.
const TEMPORARY: &str = ".new-";
/// From linux/magic.h; the type differs between architectures, hence `as`.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The directories of a credential volume: three in Argo CD's view, the root
/// alone in the credential proxy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Directory {
    /// The Docker configuration.
    Docker,
    /// ExecCredentials of cluster Secrets.
    Clusters,
    /// The exec plugin.
    Bin,
    /// The volume itself.
    Root,
}

impl Directory {
    /// Those that are made in Argo CD's view.
    pub const MADE: [Self; 3] = [Self::Docker, Self::Clusters, Self::Bin];

    /// The directory's name in the volume.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => layout::DOCKER_DIR,
            Self::Clusters => layout::CLUSTERS_DIR,
            Self::Bin => layout::BIN_DIR,
            Self::Root => ".",
        }
    }
}

/// A file name that is safe as a single path component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String);

impl FileName {
    /// Takes the last component of a path of [`shared::layout`].
    ///
    /// # Errors
    /// [`Error::Name`] for anything but one visible component of at most 240 bytes.
    pub fn of(path: impl AsRef<Path>) -> Result<Self, Error> {
        path.as_ref()
            .file_name()
            .and_then(OsStr::to_str)
            .filter(|name| {
                !name.starts_with('.')
                    && name.len() <= 240
                    && !name
                        .chars()
                        .any(|c| c == '/' || c == '\\' || c.is_control())
            })
            .map(|name| Self(name.to_owned()))
            .ok_or_else(|| Error::Name {
                name: path.as_ref().display().to_string(),
            })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why the volume could not be read or changed. Never repeats content.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The volume is not there, or its files are not on a tmpfs.
    #[error("{}: credentials are only written to a tmpfs, and this is none", .path.display())]
    NotTmpfs {
        /// The volume, or a directory in it.
        path: PathBuf,
    },
    /// The name is not one path component.
    #[error("`{}` cannot be a file name", .name.escape_debug())]
    Name {
        /// The refused name.
        name: String,
    },
    /// The operating system refused a step.
    #[error("cannot {step} {}", .path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The file has new content.
    Replace,
    /// The file already had this content.
    Keep,
}

/// A directory of which the kernel said, when it was opened, that it lies on a
/// tmpfs. There is no other way to obtain one.
#[derive(Debug)]
pub struct VerifiedTmpfs {
    directory: OwnedFd,
    path: PathBuf,
}

impl VerifiedTmpfs {
    /// Opens `path`, whose last component must not be a symbolic link.
    ///
    /// # Errors
    /// [`Error::NotTmpfs`], and [`Error::Io`] if it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let directory = rustix::fs::open(path, DIRECTORY, Mode::empty())
            .map_err(|source| failed("open the volume", path, source))?;
        Self::verify(directory, path.to_owned())
    }

    /// Opens a directory in this one, verified on its own: something else may
    /// be mounted there.
    fn subdirectory(&self, name: &str) -> Result<Self, Error> {
        let path = self.path.join(name);
        let directory = rustix::fs::openat(&self.directory, name, DIRECTORY, Mode::empty())
            .map_err(|source| failed("open", &path, source))?;
        Self::verify(directory, path)
    }

    fn verify(directory: OwnedFd, path: PathBuf) -> Result<Self, Error> {
        let found = rustix::fs::fstatfs(&directory)
            .map_err(|source| failed("ask for the file system of", &path, source))?;
        #[allow(
            clippy::unnecessary_cast,
            reason = "the field's type differs by architecture"
        )]
        if found.f_type as i64 != TMPFS_MAGIC {
            return Err(Error::NotTmpfs { path });
        }
        Ok(Self { directory, path })
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn failed(step: &'static str, path: &Path, source: Errno) -> Error {
    Error::Io {
        step,
        path: path.to_owned(),
        source: source.into(),
    }
}

/// The files of one credential volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    volume: PathBuf,
}

impl Store {
    /// The volume mounted at `volume`; nothing is touched yet.
    pub fn at(volume: impl Into<PathBuf>) -> Self {
        Self {
            volume: volume.into(),
        }
    }

    /// Makes the directories of Argo CD's view, where missing.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn prepare(&self) -> Result<(), Error> {
        let volume = VerifiedTmpfs::open(&self.volume)?;
        for directory in Directory::MADE {
            let path = self.volume.join(directory.name());
            match rustix::fs::mkdirat(&volume.directory, directory.name(), Mode::from(0o755)) {
                // The umask may have taken bits away, and the pod's user is not ours.
                Ok(()) => rustix::fs::fchmod(
                    &volume.subdirectory(directory.name())?.directory,
                    Mode::from(0o755),
                )
                .map_err(|source| failed("open to readers", &path, source))?,
                Err(Errno::EXIST) => {}
                Err(source) => return Err(failed("make", &path, source)),
            }
        }
        Ok(())
    }

    /// Removes what an interrupted write left. Only for who writes to the
    /// directory: anybody else would remove what is just being written.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn sweep(&self, directory: Directory) -> Result<(), Error> {
        let volume = VerifiedTmpfs::open(&self.volume)?;
        sweep(&volume.subdirectory(directory.name())?)
    }

    /// Puts a credential file, mode 0644, unless it has this content already.
    ///
    /// # Errors
    /// See [`Error`]; the old content is still there.
    pub fn put(
        &self,
        directory: Directory,
        name: &FileName,
        content: &[u8],
    ) -> Result<Written, Error> {
        let open = VerifiedTmpfs::open(&self.volume)?.subdirectory(directory.name())?;
        if let Some(current) = read(&open, name)?
            && current.as_slice() == content
        {
            return Ok(Written::Keep);
        }
        replace(&open, name, &mut &content[..], 0o644)?;
        Ok(Written::Replace)
    }

    /// Removes a credential file; `false` when there was none.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn remove(&self, directory: Directory, name: &FileName) -> Result<bool, Error> {
        let open = VerifiedTmpfs::open(&self.volume)?.subdirectory(directory.name())?;
        let removed = unlink(&open, name.as_str())?;
        if removed {
            sync(&open)?;
        }
        Ok(removed)
    }

    /// The content of a file, or `None` if there is none.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(
        &self,
        directory: Directory,
        name: &FileName,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let open = VerifiedTmpfs::open(&self.volume)?.subdirectory(directory.name())?;
        read(&open, name)
    }

    /// The names of the files in a directory, sorted, without temporary ones.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn list(&self, directory: Directory) -> Result<Vec<FileName>, Error> {
        let open = VerifiedTmpfs::open(&self.volume)?.subdirectory(directory.name())?;
        let mut names: Vec<FileName> = names(&open)?
            .into_iter()
            .filter_map(|name| FileName::of(name).ok())
            .collect();
        names.sort();
        Ok(names)
    }
}

fn sweep(directory: &VerifiedTmpfs) -> Result<(), Error> {
    for name in names(directory)? {
        if name.starts_with(TEMPORARY) {
            unlink(directory, &name)?;
        }
    }
    Ok(())
}

fn names(directory: &VerifiedTmpfs) -> Result<Vec<String>, Error> {
    let listed = Dir::read_from(&directory.directory)
        .and_then(|dir| dir.collect::<Result<Vec<_>, _>>())
        .map_err(|source| failed("list", &directory.path, source))?;
    Ok(listed
        .iter()
        .filter_map(|entry| entry.file_name().to_str().ok())
        .filter(|name| !matches!(*name, "." | ".."))
        .map(str::to_owned)
        .collect())
}

fn read(directory: &VerifiedTmpfs, name: &FileName) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let path = directory.path.join(name.as_str());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&directory.directory, name.as_str(), flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        // A link is not a file of ours: it counts as absent and is replaced.
        Err(Errno::LOOP) => return Ok(None),
        Err(source) => return Err(failed("open", &path, source)),
    };
    let cannot_read = |source| Error::Io {
        step: "read",
        path: path.clone(),
        source,
    };
    // Reserved at once: a growing buffer leaves copies behind that nobody wipes.
    let length = file.metadata().map_err(cannot_read)?.len().min(LARGEST);
    let mut content = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.take(LARGEST)
        .read_to_end(&mut content)
        .map_err(cannot_read)?;
    Ok(Some(content))
}

/// temporary (exclusive, same directory) → mode → sync → rename → sync.
fn replace(
    directory: &VerifiedTmpfs,
    name: &FileName,
    content: &mut dyn Read,
    mode: u32,
) -> Result<(), Error> {
    let temporary = format!("{TEMPORARY}{}", name.as_str());
    let path = directory.path.join(&temporary);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    unlink(directory, &temporary)?;
    let file = rustix::fs::openat(&directory.directory, &temporary, flags, Mode::from(0o600))
        .map_err(|source| failed("make", &path, source))?;
    let written = (|| {
        let mut file = File::from(file);
        io::copy(content, &mut file)?;
        file.flush()?;
        rustix::fs::fchmod(&file, Mode::from(mode))?;
        rustix::fs::fsync(&file)?;
        rustix::fs::renameat(
            &directory.directory,
            &temporary,
            &directory.directory,
            name.as_str(),
        )?;
        Ok(())
    })();
    written.map_err(|source: io::Error| {
        let _ = unlink(directory, &temporary);
        Error::Io {
            step: "write",
            path: directory.path.join(name.as_str()),
            source,
        }
    })?;
    sync(directory)
}

fn unlink(directory: &VerifiedTmpfs, name: &str) -> Result<bool, Error> {
    match rustix::fs::unlinkat(&directory.directory, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(source) => Err(failed("remove", &directory.path.join(name), source)),
    }
}

fn sync(directory: &VerifiedTmpfs) -> Result<(), Error> {
    rustix::fs::fsync(&directory.directory)
        .map_err(|source| failed("sync", &directory.path, source))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
