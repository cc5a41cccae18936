//! Entries of an image in; a tar file and its digest out. Files go through in pieces.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aws_lc_rs::digest;
use tar::{EntryType, Header};

use super::push::{Blob, Source, name};

/// Large enough that a program of hundreds of megabytes is not many writes.
const BUFFER: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) content: Content,
    pub(super) mode: u32,
    pub(super) user: u64,
    pub(super) group: u64,
}

#[derive(Debug)]
pub(super) enum Content {
    Folder,
    /// A file of this machine.
    File(PathBuf),
    Text(String),
    Link(PathBuf),
    /// Another entry's path.
    HardLink(PathBuf),
}

impl Entry {
    pub(super) fn root(content: Content, mode: u32) -> Self {
        Self {
            content,
            mode,
            user: 0,
            group: 0,
        }
    }
}

pub(super) fn write(entries: &BTreeMap<PathBuf, Entry>, to: &Path) -> Result<Blob> {
    let file = File::create(to).with_context(|| format!("create {}", to.display()))?;
    let mut tar = tar::Builder::new(Digested::new(BufWriter::with_capacity(BUFFER, file)));
    for (path, entry) in entries {
        append(&mut tar, path, entry).with_context(|| format!("add {}", path.display()))?;
    }
    let mut written = tar.into_inner().context("end the tar")?;
    written.flush().context("write the tar's end")?;
    Ok(Blob {
        digest: name(written.digest.finish()),
        size: written.size,
        source: Source::File(to.to_owned()),
    })
}

fn append(tar: &mut tar::Builder<impl Write>, path: &Path, entry: &Entry) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.user);
    header.set_gid(entry.group);
    // Times would make another digest of the same files.
    header.set_mtime(0);
    header.set_size(0);
    match &entry.content {
        Content::Folder => {
            header.set_entry_type(EntryType::Directory);
            tar.append_data(&mut header, path, io::empty())?;
        }
        Content::File(from) => {
            let file = File::open(from).with_context(|| format!("open {}", from.display()))?;
            let size = file.metadata().context("size of a file")?.len();
            header.set_size(size);
            tar.append_data(&mut header, path, file.take(size))?;
        }
        Content::Text(text) => {
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, path, text.as_bytes())?;
        }
        Content::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            tar.append_link(&mut header, path, target)?;
        }
        Content::HardLink(target) => {
            header.set_entry_type(EntryType::Link);
            tar.append_link(&mut header, path, target)?;
        }
    }
    Ok(())
}

/// Counts and digests what it passes on. aws-lc's digest, since a debug build of a Rust one would take
/// longer than all else.
struct Digested<W> {
    inner: W,
    digest: digest::Context,
    size: u64,
}

impl<W> Digested<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            digest: digest::Context::new(&digest::SHA256),
            size: 0,
        }
    }
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.digest.update(&bytes[..taken]);
        self.size += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
