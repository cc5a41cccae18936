//! Mounts and unmounts the tmpfs of a volume. Paths flow in that are already
//! known to lie in kubelet's folder; the mount table says what is there.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::demand::View;

/// Source name of our mounts in the mount table. It says which view a volume
/// is: it is there with the mount, so no crash leaves a volume that cannot be
/// told, and nothing in the volume can change it.
fn source(view: View) -> &'static str {
    match view {
        View::ArgoCd => "argocd-identity",
        View::Proxy => "argocd-identity-proxy",
    }
}
/// Each cluster Secret, and each binding in the proxy's view, is one file.
const OPTIONS: &str = "nr_inodes=4096,mode=0755";
/// Exists where SELinux is on.
const SELINUX: &str = "/sys/fs/selinux/enforce";
/// What containers may read (container-selinux).
const CONTEXT: &str = "context=\"system_u:object_r:container_file_t:s0\"";

const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// What is mounted at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mounted {
    /// Nothing.
    Nothing,
    /// A tmpfs of ours.
    Ours(View),
    /// Something else.
    Other,
}

/// What is mounted on top at exactly `path`.
pub(super) fn mounted(path: &Path) -> io::Result<Mounted> {
    // The table has real paths, kubelet's folder may be behind a link.
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Mounted::Other);
    };
    let real = match parent.canonicalize() {
        Ok(parent) => parent.join(name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Mounted::Nothing),
        Err(error) => return Err(error),
    };
    Ok(table()?
        .into_iter()
        .rfind(|mount| mount.point == real)
        .map_or(Mounted::Nothing, |mount| match mount.ours {
            Some(view) => Mounted::Ours(view),
            None => Mounted::Other,
        }))
}

/// Our volumes below `folder`, with their views: those that an earlier process of the agent left.
/// Where several mounts lie on one another, only the topmost can be reached,
/// and it is the one that a container that starts there sees; the others go
/// when the volume is unpublished.
pub(crate) fn volumes_below(folder: &Path) -> io::Result<Vec<(PathBuf, View)>> {
    Ok(visible_below(
        table()?,
        &folder.canonicalize()?,
        folder.to_owned(),
    ))
}

fn visible_below(table: Vec<Mount>, real: &Path, folder: PathBuf) -> Vec<(PathBuf, View)> {
    // The table has the topmost last.
    let topmost: BTreeMap<PathBuf, Option<View>> = table
        .into_iter()
        .map(|mount| (mount.point, mount.ours))
        .collect();
    topmost
        .into_iter()
        .filter_map(|(point, ours)| Some((folder.join(point.strip_prefix(real).ok()?), ours?)))
        .collect()
}

/// Mounts a tmpfs of `size` bytes at `target`: no device files, no set-user-ID
/// programs, and never swapped out where the kernel can promise it (6.4 and later).
pub(crate) fn mount(target: &Path, view: View, size: u64) -> io::Result<()> {
    let context = match Path::new(SELINUX).exists() {
        true => format!(",{CONTEXT}"),
        false => String::new(),
    };
    let mount = |options: &str| {
        let options = CString::new(options).map_err(|_contains_nul| Errno::INVAL)?;
        rustix::mount::mount(
            source(view),
            target,
            "tmpfs",
            FLAGS,
            Some(options.as_c_str()),
        )
    };
    match mount(&format!("size={size},{OPTIONS},noswap{context}")) {
        Err(Errno::INVAL) => Ok(mount(&format!("size={size},{OPTIONS}{context}"))?),
        result => Ok(result?),
    }
}

/// Lets the tmpfs at `target` have `size` bytes, if it has less: an earlier
/// version of the agent had a smaller program. It never shrinks.
pub(super) fn grow(target: &Path, size: u64) -> io::Result<()> {
    let found = rustix::fs::statvfs(target)?;
    if found.f_blocks.saturating_mul(found.f_frsize) >= size {
        return Ok(());
    }
    // A remount says `noswap` exactly if the mount has it.
    let remount = |options: String| rustix::mount::mount_remount(target, FLAGS, options);
    match remount(format!("size={size},noswap")) {
        Err(Errno::INVAL) => Ok(remount(format!("size={size}"))?),
        result => Ok(result?),
    }
}

/// Unmounts whatever is mounted at `target`, all layers.
pub(crate) fn unmount(target: &Path) -> io::Result<()> {
    while mounted(target)? != Mounted::Nothing {
        unmount_top(target)?;
    }
    Ok(())
}

/// Unmounts the topmost mount at `target`. A busy one is detached: it goes when
/// its last user goes.
pub(super) fn unmount_top(target: &Path) -> io::Result<()> {
    match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
        Err(Errno::BUSY) => {
            rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
            Ok(())
        }
        // Somebody else was quicker.
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        result => Ok(result?),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    ours: Option<View>,
}

fn table() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// proc_pid_mountinfo(5): six fields, optional ones, `-`, type, source, options.
fn parse(table: &[u8]) -> Vec<Mount> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let point = PathBuf::from(unescape(fields.nth(4)?));
            let mut after = fields.skip_while(|field| *field != b"-").skip(1);
            let (kind, name) = (after.next()?, after.next()?);
            let ours = [View::ArgoCd, View::Proxy]
                .into_iter()
                .find(|view| kind == b"tmpfs" && name == source(*view).as_bytes());
            Some(Mount { point, ours })
        })
        .collect()
}

/// Blank, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, tail @ ..] = rest {
        rest = match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                bytes.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                tail
            }
            (byte, tail) => {
                bytes.push(*byte);
                tail
            }
        };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_the_mount_table() {
        let table = b"36 35 98:0 /a /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw\n\
            37 35 0:40 / /pods/x/mount rw,nosuid shared:1 master:2 - tmpfs argocd-identity rw\n\
            38 35 0:41 / /pods/y/mount rw - tmpfs tmpfs rw\nbroken\n\
            39 35 0:42 / /pods/z/mount rw - tmpfs argocd-identity-proxy rw\n\
            40 35 0:43 / /pods/w/mount rw - ext4 argocd-identity rw\n";
        let mounts: Vec<(String, Option<View>)> = parse(table)
            .into_iter()
            .map(|mount| (mount.point.display().to_string(), mount.ours))
            .collect();
        let expected = [
            ("/mnt 2", None),
            ("/pods/x/mount", Some(View::ArgoCd)),
            ("/pods/y/mount", None),
            ("/pods/z/mount", Some(View::Proxy)),
            ("/pods/w/mount", None),
        ];
        assert_eq!(
            mounts,
            expected.map(|(point, ours)| (point.to_owned(), ours))
        );
        assert_eq!(mounted(Path::new("/proc")).unwrap(), Mounted::Other);
    }

    #[test]
    fn of_several_layers_the_topmost_counts() {
        let mount = |point: &str, ours| Mount {
            point: point.into(),
            ours,
        };
        let argocd = Some(View::ArgoCd);
        let table = vec![
            mount("/real/a", argocd),
            mount("/real/b", argocd),
            mount("/real/c", None),
            mount("/elsewhere/d", argocd),
            mount("/real/a", Some(View::Proxy)),
            mount("/real/b", None),
            mount("/real/c", argocd),
        ];
        assert_eq!(
            visible_below(table, Path::new("/real"), "/link".into()),
            [
                ("/link/a".into(), View::Proxy),
                ("/link/c".into(), View::ArgoCd)
            ]
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
        }
    }
}
