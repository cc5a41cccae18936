//! A program in; the shared libraries and the loader that it starts with out, as `ldd` tells them.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// First bytes of an ELF file.
const MAGIC: [u8; 4] = *b"\x7fELF";

/// Paths under which the loader opens the libraries of `program`, its own path among them; none for a
/// script and for a static program.
pub(super) fn needed(program: &Path) -> Result<Vec<PathBuf>> {
    if !is_elf(program)? {
        return Ok(Vec::new());
    }
    let ldd = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        // Cargo sets it for tests; in a container it is not there.
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::null())
        .output()
        .context("start ldd")?;
    let text = String::from_utf8(ldd.stdout).context("output of ldd")?;
    let said = String::from_utf8_lossy(&ldd.stderr);
    if [&*text, &*said]
        .concat()
        .contains("not a dynamic executable")
    {
        return Ok(Vec::new());
    }
    ensure!(
        ldd.status.success(),
        "ldd {} failed ({}): {said}",
        program.display(),
        ldd.status
    );
    parse(&text).with_context(|| format!("libraries of {}", program.display()))
}

fn is_elf(path: &Path) -> Result<bool> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut begin = Vec::new();
        File::open(path)?.take(4).read_to_end(&mut begin)?;
        Ok(begin)
    };
    let begin = read().with_context(|| format!("read {}", path.display()))?;
    Ok(begin == MAGIC)
}

/// Lines are `name => path (address)`, `path (address)` for the loader, and a name alone for what the
/// kernel maps.
fn parse(text: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        let found = line.split_once(" => ").map_or(line, |(_, found)| found);
        if found.starts_with("not found") {
            bail!("this machine lacks {line}");
        }
        if let Some((path, _address)) = found.split_once(" (")
            && path.starts_with('/')
        {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ldd_writes() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libz.so.1",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(parse(text).unwrap(), expected.map(PathBuf::from));
        assert!(parse("\tstatically linked\n").unwrap().is_empty());
        let missing = parse("\tlibrain.so.1 => not found\n").unwrap_err();
        assert!(missing.to_string().contains("librain.so.1"));
    }
}
