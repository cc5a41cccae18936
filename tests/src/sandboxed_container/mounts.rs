//! The file system of a container, as arguments of bubblewrap.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Container;

use super::Options;
use super::volumes::Source;

/// What of /etc the machine's programs need.
const OF_THE_MACHINE: &[&str] = &[
    "alternatives",
    "ca-certificates",
    "ld.so.cache",
    "localtime",
    "pki",
    "ssl",
];

/// One volumeMount.
pub(super) struct Mount {
    source: PathBuf,
    target: PathBuf,
    writable: bool,
}

impl Mount {
    /// The folders above the target, open to every user (bubblewrap's own would be private), then the mount.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut above: Vec<&Path> = self.target.ancestors().skip(1).collect();
        above.pop();
        let mut arguments: Vec<OsString> = Vec::new();
        for folder in above.into_iter().rev() {
            arguments.extend(public_folder(folder));
        }
        let how = if self.writable { "--bind" } else { "--ro-bind" };
        arguments.extend([
            how.into(),
            self.source.clone().into(),
            self.target.clone().into(),
        ]);
        arguments
    }
}

/// The container's mounts, outer ones before those inside them.
pub(super) fn of_container(
    container: &Container,
    sources: &HashMap<String, Source>,
) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = sources
            .get(&mount.name)
            .with_context(|| format!("the pod has no volume {}", mount.name))?;
        ensure!(
            mount
                .sub_path_expr
                .as_deref()
                .unwrap_or_default()
                .is_empty(),
            "subPathExpr of {} is not supported here",
            mount.mount_path
        );
        let mut source = volume.path.clone();
        if let Some(sub_path) = mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
            let inside = Path::new(sub_path)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            ensure!(inside, "subPath {sub_path} leaves its volume");
            source.push(sub_path);
            if volume.writable && !source.exists() {
                fs::create_dir_all(&source)
                    .with_context(|| format!("create {}", source.display()))?;
            }
        }
        ensure!(
            source.exists(),
            "{} for {} is not there: is the volume published?",
            source.display(),
            mount.mount_path
        );
        mounts.push(Mount {
            source,
            target: PathBuf::from(&mount.mount_path),
            writable: volume.writable && mount.read_only != Some(true),
        });
    }
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

/// What every container sees below its mounts: the machine's programs and trusted roots, the image's
/// programs, and files of its own for names and users. Everything else of its root is empty.
pub(super) fn root(options: &Options<'_>, folder: &Path) -> Result<Vec<OsString>> {
    let image = options.image;
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |words: &[&Path]| arguments.extend(words.iter().map(|word| (*word).into()));
    let word = Path::new;

    add(&[word("--ro-bind"), word("/usr"), word("/usr")]);
    for link in ["/bin", "/sbin", "/lib", "/lib64"] {
        match fs::read_link(link) {
            Ok(target) => add(&[word("--symlink"), &target, word(link)]),
            Err(_) => add(&[word("--ro-bind-try"), word(link), word(link)]),
        }
    }
    arguments.extend(public_folder(word("/etc")));
    let mut add = |words: &[&Path]| arguments.extend(words.iter().map(|word| (*word).into()));
    for name in OF_THE_MACHINE {
        let path = word("/etc").join(name);
        add(&[word("--ro-bind-try"), &path, &path]);
    }
    for (name, content) in own_files(options) {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        add(&[word("--ro-bind"), &path, &word("/etc").join(name)]);
    }
    add(&[word("--tmpfs"), word("/usr/local/bin")]);
    for (name, file) in &image.programs {
        add(&[word("--ro-bind"), file, &word("/usr/local/bin").join(name)]);
    }
    for (name, target) in &image.links {
        add(&[
            word("--symlink"),
            word(target),
            &word("/usr/local/bin").join(name),
        ]);
    }
    add(&[word("--dev"), word("/dev"), word("--proc"), word("/proc")]);
    add(&[
        word("--perms"),
        word("1777"),
        word("--tmpfs"),
        word("/dev/shm"),
    ]);
    for folder in [word("/run"), word("/var"), word("/var/run"), word("/tmp")] {
        arguments.extend(public_folder(folder));
    }
    let home: Vec<&Path> = image.home.ancestors().collect();
    for folder in home.into_iter().rev().skip(1) {
        arguments.extend(public_folder(folder));
    }
    Ok(arguments)
}

fn public_folder(folder: &Path) -> [OsString; 4] {
    [
        "--perms".into(),
        "0755".into(),
        "--dir".into(),
        folder.into(),
    ]
}

/// Names come from the hosts file alone: nothing of a test may ask the machine's DNS.
fn own_files(options: &Options<'_>) -> [(&'static str, String); 4] {
    let (user, home) = (options.image.user, options.image.home.display());
    let mut hosts = "127.0.0.1 localhost\n".to_owned();
    for (name, address) in options.hosts {
        hosts.push_str(&format!("{address} {name}\n"));
    }
    [
        ("hosts", hosts),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n".to_owned(),
        ),
        (
            "passwd",
            format!("root:x:0:0::/root:/bin/sh\nargocd:x:{user}:{user}::{home}:/bin/sh\n"),
        ),
        ("group", format!("root:x:0:\nargocd:x:{user}:\n")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(of: serde_json::Value, folder: &Path) -> Result<Vec<(PathBuf, PathBuf, bool)>> {
        let container: Container = serde_json::from_value(of).unwrap();
        let source = |writable| Source {
            path: folder.to_owned(),
            writable,
        };
        let sources = HashMap::from([
            ("work".to_owned(), source(true)),
            ("credentials".to_owned(), source(false)),
        ]);
        let mounts = of_container(&container, &sources)?;
        Ok(mounts
            .into_iter()
            .map(|mount| (mount.source, mount.target, mount.writable))
            .collect())
    }

    #[test]
    fn outer_mounts_come_first_and_sub_paths_count() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        let container = serde_json::json!({ "name": "c", "volumeMounts": [
            { "name": "work", "mountPath": "/home/argocd/params", "readOnly": true },
            { "name": "credentials", "mountPath": "/binaries", "subPath": "bin" },
            { "name": "work", "mountPath": "/home/argocd" },
        ]});
        let path = folder.path().to_owned();
        assert_eq!(
            mounts(container, folder.path()).unwrap(),
            [
                (path.join("bin"), "/binaries".into(), false),
                (path.clone(), "/home/argocd".into(), true),
                (path, "/home/argocd/params".into(), false),
            ]
        );
    }

    #[test]
    fn a_sub_path_that_leaves_or_is_missing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for sub_path in ["../x", "/x", "missing"] {
            let container = serde_json::json!({ "name": "c", "volumeMounts": [
                { "name": "credentials", "mountPath": "/x", "subPath": sub_path },
            ]});
            assert!(mounts(container, folder.path()).is_err(), "{sub_path}");
        }
    }
}
