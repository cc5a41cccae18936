//! What processes have in their memory: tokens that were or are in use are looked for in all of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};
use memchr::memmem::Finder;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// Whether the text is anywhere in what the process can read and write. Pages that go while they are looked
/// at had nothing that could be kept.
pub(crate) fn has(process: u32, text: &str) -> Result<bool> {
    let maps = format!("/proc/{process}/maps");
    let maps = fs::read_to_string(&maps).with_context(|| format!("read {maps}"))?;
    let memory = format!("/proc/{process}/mem");
    let memory = File::open(&memory).with_context(|| format!("open {memory}"))?;
    let finder = Finder::new(text);
    let mut piece = vec![0; PIECE + text.len()];
    for (start, end) in maps.lines().filter_map(writable) {
        let mut at = start;
        while at < end {
            // Pieces overlap, so that nothing is cut in two.
            let length = usize::try_from(end - at)?.min(piece.len());
            let read = memory.read_at(&mut piece[..length], at).unwrap_or(0);
            if finder.find(&piece[..read]).is_some() {
                return Ok(true);
            }
            at += PIECE as u64;
        }
    }
    Ok(false)
}

/// First and last address of a line of proc_pid_maps(5), if it is memory that the process writes.
fn writable(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split(' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let is_writable = fields.next()?.starts_with("rw");
    let address = |text| u64::from_str_radix(text, 16).ok();
    is_writable.then_some((address(start)?, address(end)?))
}
