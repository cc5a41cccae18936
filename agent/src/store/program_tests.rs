//! Real files on a tmpfs that needs no root: below /dev/shm.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

struct Check {
    folder: tempfile::TempDir,
    store: Store,
    program: Program,
}

impl Check {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let store = Store::at(folder.path());
        store.prepare().unwrap();
        let program = load(b"#!/bin/true");
        Self {
            folder,
            store,
            program,
        }
    }

    fn install(&self) -> Written {
        self.program.install(&self.store).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("bin").join(name)
    }

    fn inode(&self) -> u64 {
        std::fs::symlink_metadata(self.path("exec-auth"))
            .unwrap()
            .ino()
    }

    #[track_caller]
    fn is_complete(&self, content: &[u8]) {
        let (program, alias) = (
            self.path("exec-auth"),
            self.path("k8s-spiffe-workload-jwt-exec-auth"),
        );
        assert_eq!(std::fs::read(&program).unwrap(), content);
        let mode = std::fs::symlink_metadata(&program).unwrap();
        assert!(mode.is_file());
        assert_eq!(mode.permissions().mode() & 0o7777, 0o755);
        assert_eq!(std::fs::read_link(alias).unwrap(), Path::new("exec-auth"));
        assert_eq!(std::fs::read_dir(self.path("")).unwrap().count(), 2);
    }
}

fn load(content: &[u8]) -> Program {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, content).unwrap();
    Program::load(file.path()).unwrap()
}

#[test]
fn installs_once_and_again_after_an_upgrade() {
    let mut check = Check::new();
    assert_eq!(check.install(), Written::Replace);
    check.is_complete(b"#!/bin/true");
    let inode = check.inode();
    assert_eq!(check.install(), Written::Keep);
    // A process that starts with the same program only reads, and cleans up
    // after an upgrade that was taken back half-way.
    std::fs::write(check.path(".new-exec-auth"), "half").unwrap();
    check.program = load(b"#!/bin/true");
    assert_eq!(check.install(), Written::Keep);
    check.is_complete(b"#!/bin/true");
    assert_eq!(check.inode(), inode);

    check.program = load(b"#!/bin/false");
    std::fs::write(check.path(".new-exec-auth"), "half an upgrade").unwrap();
    assert_eq!(check.install(), Written::Replace);
    check.is_complete(b"#!/bin/false");
    assert_ne!(check.inode(), inode, "who runs it keeps the old one");
}

#[test]
fn the_bytes_are_not_read_again_while_nothing_has_changed() {
    let mut check = Check::new();
    check.install();
    // The file is no longer what it should be, but nobody has touched it.
    check.program.content = b"#!/bin/else".to_vec();
    assert_eq!(check.install(), Written::Keep);
    check.program.forget(check.folder.path());
    assert_eq!(check.install(), Written::Replace);
    check.is_complete(b"#!/bin/else");
}

#[test]
fn whatever_somebody_changes_is_put_right() {
    let check = Check::new();
    let content = b"#!/bin/true";
    check.install();
    let program = check.path("exec-auth");
    let alias = check.path("k8s-spiffe-workload-jwt-exec-auth");
    let tamper: [&dyn Fn(); 8] = [
        // The same length, in place.
        &|| std::fs::write(&program, "#!/bin/evil").unwrap(),
        &|| std::fs::write(&program, "#!/bin/true; evil").unwrap(),
        &|| std::fs::write(&program, "").unwrap(),
        &|| std::fs::remove_file(&program).unwrap(),
        &|| std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4777)).unwrap(),
        &|| {
            std::fs::remove_file(&program).unwrap();
            symlink("/bin/sh", &program).unwrap();
        },
        &|| {
            std::fs::remove_file(&alias).unwrap();
            std::fs::write(&alias, "evil").unwrap();
        },
        &|| {
            std::fs::remove_file(&alias).unwrap();
            symlink("/bin/sh", &alias).unwrap();
        },
    ];
    for (case, tamper) in tamper.iter().enumerate() {
        // The kernel's clock for files ticks every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(10));
        tamper();
        check.install();
        check.is_complete(content);
        assert_eq!(check.install(), Written::Keep, "case {case}");
    }
}

#[test]
fn a_volume_has_room_for_the_program_its_successor_and_credentials() {
    const MIB: usize = 1 << 20;
    let size = |bytes: usize| {
        let mut program = load(b"");
        program.content = vec![0; bytes];
        program.volume_size()
    };
    assert_eq!(size(3 * MIB / 2), 16 << 20);
    assert_eq!(size(4 * MIB), 16 << 20);
    assert_eq!(size(60 * MIB), 128 << 20);
}

#[test]
fn a_program_larger_than_any_credential_is_kept_too() {
    let mut check = Check::new();
    let large: Vec<u8> = (0..5_u32 << 20).map(|n| (n >> 7) as u8).collect();
    check.program = load(&large);
    assert_eq!(check.install(), Written::Replace);
    check.program = load(&large);
    assert_eq!(check.install(), Written::Keep);
    assert!(matches!(
        Program::load(Path::new("/nowhere")),
        Err(Error::Io { .. })
    ));
}
