//! Mounts and unmounts the tmpfs of a volume. Paths flow in that are already
//! known to lie in kubelet's folder; the mount table says what is there.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// Source name of our mounts in the mount table.
const SOURCE: &str = "argocd-identity";
/// exec-auth is about 1.5 MB; a credential is some kilobytes.
const OPTIONS: &str = "size=16m,nr_inodes=4096,mode=0755";
/// Exists where SELinux is on.
const SELINUX: &str = "/sys/fs/selinux/enforce";
/// What containers may read (container-selinux).
const CONTEXT: &str = "context=\"system_u:object_r:container_file_t:s0\"";

/// What is mounted at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mounted {
    /// Nothing.
    Nothing,
    /// A tmpfs of ours.
    Ours,
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
            true => Mounted::Ours,
            false => Mounted::Other,
        }))
}

/// Our volumes below `folder`: those that an earlier process of the agent left.
pub(crate) fn volumes_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let real = folder.canonicalize()?;
    Ok(table()?
        .into_iter()
        .filter(|mount| mount.ours)
        .filter_map(|mount| Some(folder.join(mount.point.strip_prefix(&real).ok()?)))
        .collect())
}

/// Mounts a tmpfs at `target`: no device files, no set-user-ID programs, and
/// never swapped out where the kernel can promise it (6.4 and later).
pub(super) fn mount(target: &Path) -> io::Result<()> {
    let context = match Path::new(SELINUX).exists() {
        true => format!(",{CONTEXT}"),
        false => String::new(),
    };
    match mount_with(target, &format!("{OPTIONS},noswap{context}")) {
        Err(Errno::INVAL) => Ok(mount_with(target, &format!("{OPTIONS}{context}"))?),
        result => Ok(result?),
    }
}

fn mount_with(target: &Path, options: &str) -> rustix::io::Result<()> {
    let options = CString::new(options).map_err(|_contains_nul| Errno::INVAL)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(SOURCE, target, "tmpfs", flags, Some(options.as_c_str()))
}

/// Unmounts whatever is mounted at `target`, all layers. Busy mounts are
/// detached: they go when their last user goes.
pub(super) fn unmount(target: &Path) -> io::Result<()> {
    while mounted(target)? != Mounted::Nothing {
        match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::BUSY) => {
                rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?;
            }
            // Somebody else was quicker.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    ours: bool,
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
            let ours = after.next()? == b"tmpfs" && after.next()? == SOURCE.as_bytes();
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
            38 35 0:41 / /pods/y/mount rw - tmpfs tmpfs rw\nbroken\n";
        let mounts: Vec<(String, bool)> = parse(table)
            .into_iter()
            .map(|mount| (mount.point.display().to_string(), mount.ours))
            .collect();
        let expected = [
            ("/mnt 2", false),
            ("/pods/x/mount", true),
            ("/pods/y/mount", false),
        ];
        assert_eq!(
            mounts,
            expected.map(|(point, ours)| (point.to_owned(), ours))
        );
        assert_eq!(mounted(Path::new("/proc")).unwrap(), Mounted::Other);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
        }
    }
}
