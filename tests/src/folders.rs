//! Folders of a run.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// Makes a folder with those above it, unless it is there, and returns it.
pub(crate) fn create(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}
