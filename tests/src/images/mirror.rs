//! Points containerd at the test's registry for every image, whatever host its name has.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Writes `_default/hosts.toml` into `folder`, which containerd has as its registry `config_path`.
/// `registry` is a URL without a path.
///
/// # Errors
/// When the file cannot be written.
pub fn write(folder: &Path, registry: &str) -> Result<()> {
    let default = folder.join("_default");
    fs::create_dir_all(&default).with_context(|| format!("create {}", default.display()))?;
    let file = default.join("hosts.toml");
    fs::write(&file, hosts(registry)).with_context(|| format!("write {}", file.display()))
}

/// With `server`, nothing is left to fall back to: an image that was not pushed is an error at once
/// and not a request to the internet.
fn hosts(registry: &str) -> String {
    format!(
        "server = \"{registry}\"\n\n[host.\"{registry}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
    )
}
