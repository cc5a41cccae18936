//! The control groups of a run: one of the name of its folder in every hierarchy, made for kubelet to put
//! pods into. Namespaces do not own them, so they are removed when every process in them is gone.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

const ROOT: &str = "/sys/fs/cgroup";
/// The kernel empties a group a moment after its last process has ended.
const LIMIT: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_millis(20);

/// The name of the group of the run with this folder, with a leading slash, as kubelet takes it.
pub(super) fn name(run: &Path) -> Result<String> {
    run.file_name()
        .and_then(|name| name.to_str())
        .map(|name| format!("/{name}"))
        .context("the run's folder has no name")
}

/// Makes the group in every hierarchy.
pub(super) fn create(run: &Path) -> Result<()> {
    for group in groups(run)? {
        fs::create_dir(&group).with_context(|| format!("create {}", group.display()))?;
        // Of the old cpuset hierarchy only: a new group has no processor until somebody gives it some.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (ours, parents) = (group.join(file), group.join("..").join(file));
            if ours.is_file() && parents.is_file() {
                fs::copy(&parents, &ours).with_context(|| format!("fill {}", ours.display()))?;
            }
        }
    }
    Ok(())
}

/// Removes what [`create`] made and everything below; nothing happens where there is none.
pub(super) fn remove(run: &Path) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    for group in groups(run)? {
        loop {
            match remove_all(&group) {
                Ok(()) => break,
                Err(error) if Instant::now() >= deadline => {
                    return Err(anyhow!(error))
                        .with_context(|| format!("remove control group {}", group.display()));
                }
                Err(_busy) => std::thread::sleep(INTERVAL),
            }
        }
    }
    Ok(())
}

/// A control group's files cannot be removed, and need not: its folder can.
fn remove_all(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_all(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The run's group in the one hierarchy of version 2, or in each of version 1.
pub(super) fn groups(run: &Path) -> Result<Vec<PathBuf>> {
    let name = name(run)?;
    let name = name.trim_start_matches('/');
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").is_file() {
        return Ok(vec![root.join(name)]);
    }
    let mut hierarchies = Vec::new();
    for entry in fs::read_dir(root).with_context(|| format!("list {ROOT}"))? {
        let path = entry.with_context(|| format!("list {ROOT}"))?.path();
        // Links are other names of a hierarchy that is listed anyway.
        if path.is_dir() && !path.is_symlink() {
            hierarchies.push(path.join(name));
        }
    }
    Ok(hierarchies)
}
