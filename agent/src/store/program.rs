//! The program for `bin/`. Its bytes are read once, at the agent's start, and
//! flow into every volume.
//!
//! Kubelet publishes every volume again every few seconds, so the usual case
//! has to cost next to nothing: a file is taken for ours as long as the kernel
//! gives the same inode, size, mode and time of change that it gave when this
//! process last wrote the file or compared its bytes. Whoever changes the file
//! changes one of those, and the bytes are compared again. A digest would have
//! to read the whole file each time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{
    AtFlags, Directory, Errno, Error, File, FileName, Mode, OFlags, Read, Store, TEMPORARY,
    VerifiedTmpfs, Written, failed, layout, replace, sweep, sync, unlink,
};

/// A volume is never smaller: credentials of many clusters fit.
const SMALLEST_VOLUME: u64 = 16 << 20;
/// What is there for credentials beside the program and its replacement.
const FOR_CREDENTIALS: u64 = 8 << 20;
/// Mode of the program: everybody may run it, nobody may change it but us.
const MODE: u32 = 0o755;

/// A program in memory, and where it is installed.
#[derive(Debug)]
pub struct Program {
    content: Vec<u8>,
    name: FileName,
    alias: FileName,
    /// By volume, what the kernel said about a file whose bytes were right.
    installed: Mutex<HashMap<PathBuf, Stamp>>,
}

/// What changes when a file is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    mode: u32,
    changed: (i64, i64),
}

impl Program {
    /// Reads exec-auth.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let content = std::fs::read(path).map_err(|source| Error::Io {
            step: "read the program",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            content,
            name: FileName::of(layout::EXEC_AUTH)?,
            alias: FileName::of(layout::EXEC_AUTH_ALIAS)?,
            installed: Mutex::default(),
        })
    }

    /// Fails in every volume: its name is no name.
    #[cfg(test)]
    pub(crate) fn that_cannot_be_installed() -> Self {
        Self {
            content: Vec::new(),
            name: FileName("no/name".into()),
            alias: FileName("alias".into()),
            installed: Mutex::default(),
        }
    }

    /// Bytes that a volume must be able to hold: the program, its replacement
    /// beside it while an upgrade is written, and the credentials.
    pub fn volume_size(&self) -> u64 {
        (2 * self.content.len() as u64 + FOR_CREDENTIALS).max(SMALLEST_VOLUME)
    }

    /// Puts the program into `bin/`, mode 0755, and a link under its other
    /// name, unless both are there.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn install(&self, store: &Store) -> Result<Written, Error> {
        let bin = VerifiedTmpfs::open(&store.volume)?.subdirectory(Directory::Bin.name())?;
        let found = stamp(&bin, &self.name)?;
        if found.is_some() && found == self.noted(&store.volume) && self.is_linked(&bin)? {
            return Ok(Written::Keep);
        }
        // What an interrupted upgrade left takes as much space as the program.
        sweep(&bin)?;
        let written = match found.is_some_and(|found| found.mode == MODE) && self.is_in(&bin)? {
            true => Written::Keep,
            false => {
                replace(&bin, &self.name, &mut self.content.as_slice(), MODE)?;
                Written::Replace
            }
        };
        if !self.is_linked(&bin)? {
            self.link(&bin)?;
        }
        // Of a file that was compared, the stamp from before counts: it may
        // have been changed since.
        let now = match written {
            Written::Keep => found,
            Written::Replace => stamp(&bin, &self.name)?,
        };
        if let Some(now) = now {
            self.notes().insert(store.volume.clone(), now);
        }
        Ok(written)
    }

    /// Forgets a volume that goes away.
    pub fn forget(&self, volume: &Path) {
        self.notes().remove(volume);
    }

    fn noted(&self, volume: &Path) -> Option<Stamp> {
        self.notes().get(volume).copied()
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Stamp>> {
        self.installed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the file has these bytes. Read in pieces: the file may be large.
    fn is_in(&self, bin: &VerifiedTmpfs) -> Result<bool, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = bin.path.join(self.name.as_str());
        let mut file =
            match rustix::fs::openat(&bin.directory, self.name.as_str(), flags, Mode::empty()) {
                Ok(file) => File::from(file),
                Err(Errno::NOENT | Errno::LOOP) => return Ok(false),
                Err(source) => return Err(failed("open", &path, source)),
            };
        let mut rest = self.content.as_slice();
        let mut piece = vec![0; 1 << 16];
        loop {
            let length = file.read(&mut piece).map_err(|source| Error::Io {
                step: "read",
                path: path.clone(),
                source,
            })?;
            if length == 0 {
                return Ok(rest.is_empty());
            }
            match rest.strip_prefix(&piece[..length]) {
                Some(after) => rest = after,
                None => return Ok(false),
            }
        }
    }

    fn is_linked(&self, bin: &VerifiedTmpfs) -> Result<bool, Error> {
        match rustix::fs::readlinkat(&bin.directory, self.alias.as_str(), Vec::new()) {
            Ok(target) => Ok(target.as_bytes() == self.name.as_str().as_bytes()),
            // No link, or a file of another kind.
            Err(Errno::NOENT | Errno::INVAL) => Ok(false),
            Err(source) => {
                let path = bin.path.join(self.alias.as_str());
                Err(failed("read the link", &path, source))
            }
        }
    }

    fn link(&self, bin: &VerifiedTmpfs) -> Result<(), Error> {
        let temporary = format!("{TEMPORARY}{}", self.alias.as_str());
        let path = bin.path.join(self.alias.as_str());
        unlink(bin, &temporary)?;
        rustix::fs::symlinkat(self.name.as_str(), &bin.directory, &temporary)
            .and_then(|()| {
                rustix::fs::renameat(
                    &bin.directory,
                    &temporary,
                    &bin.directory,
                    self.alias.as_str(),
                )
            })
            .map_err(|source| failed("link", &path, source))?;
        sync(bin)
    }
}

/// `None` for what is no plain file.
fn stamp(bin: &VerifiedTmpfs, name: &FileName) -> Result<Option<Stamp>, Error> {
    let found = match rustix::fs::statat(&bin.directory, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(None),
        Err(source) => return Err(failed("look at", &bin.path.join(name.as_str()), source)),
    };
    if rustix::fs::FileType::from_raw_mode(found.st_mode) != rustix::fs::FileType::RegularFile {
        return Ok(None);
    }
    #[allow(
        clippy::unnecessary_cast,
        reason = "the fields' types differ by architecture"
    )]
    Ok(Some(Stamp {
        device: found.st_dev as u64,
        inode: found.st_ino as u64,
        size: found.st_size as i64,
        mode: found.st_mode as u32 & 0o7777,
        changed: (found.st_ctime as i64, found.st_ctime_nsec as i64),
    }))
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
