//! Installs a Python program into the cache from a list of exact versions, or finds it there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::build::{MODULES, cache, key, lock};
use crate::packages;
use crate::process::output;
use crate::progress;

/// The folder to put on `PYTHONPATH` for `python3 -m moto.server`, installed when the cache lacks it.
///
/// # Errors
/// When there is no `python3` with pip, the cache cannot be written, or pip fails (with its words).
pub fn moto() -> Result<PathBuf> {
    packages::ensure_for_python()?;
    install("moto", &cache()?)
}

fn install(name: &str, cache: &Path) -> Result<PathBuf> {
    let list = Path::new(MODULES).join(name).join("requirements.txt");
    let versions = fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
    let platform = "import sys, sysconfig; print(sys.version, sysconfig.get_platform())";
    let python = output(Command::new("python3").args(["-c", platform]))?;
    let folder = cache.join(format!("{name}-{}", key(&[&versions, &python])));
    if folder.is_dir() {
        return Ok(folder);
    }

    let _lock = lock(cache, name)?;
    if folder.is_dir() {
        return Ok(folder);
    }
    packages::ensure_pip()?;
    progress::step(format_args!(
        "installing {name} from the Python package index"
    ));
    let begin = Instant::now();
    // As for programs that are built: a name of its own until it is whole.
    let partial = cache.join(format!(".{name}-partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("clear {}", partial.display()))?;
    }
    output(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-input", "--no-deps"])
            .args([
                "--disable-pip-version-check",
                "--only-binary",
                ":all:",
                "--target",
            ])
            .arg(&partial)
            .arg("--requirement")
            .arg(&list),
    )
    .with_context(|| format!("install {name}"))?;
    fs::rename(&partial, &folder).with_context(|| format!("keep {}", folder.display()))?;
    let seconds = begin.elapsed().as_secs_f64();
    progress::step(format_args!("installed {name} in {seconds:.0} s"));
    Ok(folder)
}
