//! The folder that `ARGOCD_TLS_DATA_PATH` names: bound hosts, the pod's own CA
//! and Argo CD's own folder (argocd-tls-certs-cm) flow in, one file per host
//! flows out. Argo CD reads `<folder>/<host>` at every use, and trusts for that
//! host what is in the file and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::CertificateDer;
use shared::layout::{AUTHORITY_DIR, AUTHORITY_FILE};

/// What the folder shall hold: file name → content. Pure.
///
/// Every file has our CA, also that of a host without a binding: Helm reads
/// its file when it starts, and the binding may come while it already waits
/// for our answer. A host that is not bound is tunnelled, so nobody else
/// gains by it.
pub fn plan(
    hosts: &BTreeSet<String>,
    ca: &str,
    source: &BTreeMap<String, Vec<u8>>,
    system: &str,
) -> BTreeMap<String, Vec<u8>> {
    // What the administrator wrote for the host, else the system's roots:
    // other repositories on that host still work without the proxy.
    let written = source
        .iter()
        .map(|(host, others)| (host, others.as_slice()));
    let others = hosts
        .iter()
        .filter(|host| !source.contains_key(*host))
        .map(|host| (host, system.as_bytes()));
    written
        .chain(others)
        .map(|(host, others)| {
            let bundle = [ca.trim_end().as_bytes(), b"\n", others].concat();
            (host.clone(), bundle)
        })
        .collect()
}

/// Reads the files of a mounted ConfigMap, leaving out kubelet's own entries.
/// A folder that does not exist is empty.
///
/// # Errors
/// When a file cannot be read.
pub fn read(folder: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !name.starts_with('.') && fs::metadata(entry.path())?.is_file() {
            files.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(files)
}

/// Makes the folder hold `files` and nothing else; each file changes at once
/// (temporary file, rename), and only if its content does. Returns how many
/// files were written or removed.
///
/// # Errors
/// When the folder cannot be read or written.
pub fn write(folder: &Path, files: &BTreeMap<String, Vec<u8>>) -> io::Result<usize> {
    let present = read(folder)?;
    let mut changes = 0;
    for (name, content) in files {
        if present.get(name) != Some(content) {
            let temporary = folder.join(format!(".{name}.tmp"));
            fs::write(&temporary, content)?;
            fs::rename(&temporary, folder.join(name))?;
            changes += 1;
        }
    }
    for name in present.keys().filter(|name| !files.contains_key(*name)) {
        fs::remove_file(folder.join(name))?;
        changes += 1;
    }
    Ok(changes)
}

/// Puts the pod's own CA into a folder of its own, for programs that Argo CD
/// starts without naming a file: Helm, when it builds dependencies.
///
/// # Errors
/// When it cannot be written.
pub fn write_authority(folder: &Path, ca: &str) -> io::Result<()> {
    let folder = folder.join(AUTHORITY_DIR);
    fs::create_dir_all(&folder)?;
    let files = BTreeMap::from([(AUTHORITY_FILE.to_owned(), ca.as_bytes().to_vec())]);
    write(&folder, &files).map(drop)
}

/// Certificates as PEM text.
pub fn pem(certificates: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        let owned =
            |(name, content): &(&str, &str)| ((*name).to_owned(), content.as_bytes().to_vec());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn the_authority_stays_beside_the_hosts() {
        let root = tempfile::tempdir().unwrap();
        write_authority(root.path(), "ca").unwrap();
        write(root.path(), &files(&[("quay.test", "bundle")])).unwrap();
        write(root.path(), &files(&[])).unwrap();
        let file = root.path().join(AUTHORITY_DIR).join(AUTHORITY_FILE);
        assert_eq!(fs::read(file).unwrap(), b"ca");
    }

    #[test]
    fn every_host_gets_our_ca_before_what_it_had() {
        let hosts = ["quay.test".to_owned(), "git.test".to_owned()].into();
        let source = files(&[("git.test", "corp"), ("other.test", "other")]);
        assert_eq!(
            plan(&hosts, "ca\n", &source, "system"),
            files(&[
                ("quay.test", "ca\nsystem"),
                ("git.test", "ca\ncorp"),
                ("other.test", "ca\nother")
            ])
        );
    }

    #[test]
    fn the_folder_follows_and_unchanged_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("stale.test"), "x").unwrap();
        let wanted = files(&[("a", "1"), ("b", "2")]);
        assert_eq!(write(folder.path(), &wanted).unwrap(), 3);
        assert_eq!(read(folder.path()).unwrap(), wanted);
        assert_eq!(write(folder.path(), &wanted).unwrap(), 0);
        let wanted = files(&[("b", "3")]);
        assert_eq!(write(folder.path(), &wanted).unwrap(), 2);
        assert_eq!(read(folder.path()).unwrap(), wanted);
    }

    #[test]
    fn a_config_maps_symlinks_are_followed_and_its_own_entries_left_out() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("..2026")).unwrap();
        fs::write(folder.path().join("..2026/a.test"), "pem").unwrap();
        std::os::unix::fs::symlink("..2026", folder.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/a.test", folder.path().join("a.test")).unwrap();
        assert_eq!(read(folder.path()).unwrap(), files(&[("a.test", "pem")]));
        assert!(read(&folder.path().join("absent")).unwrap().is_empty());
    }
}
