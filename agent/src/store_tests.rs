//! Real files on a tmpfs that needs no root: below /dev/shm.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;

/// A folder on a tmpfs that needs no root: /dev/shm is one.
fn volume() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = Store::at(folder.path());
    store.prepare().unwrap();
    (folder, store)
}

fn name(name: &str) -> FileName {
    FileName::of(name).unwrap()
}

#[test]
fn refuses_a_folder_that_is_no_tmpfs() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let store = Store::at(folder.path());
    assert!(matches!(store.prepare(), Err(Error::NotTmpfs { .. })));
    std::fs::create_dir(folder.path().join("docker")).unwrap();
    let put = store.put(Directory::Docker, &name("config.json"), b"x");
    assert!(matches!(put, Err(Error::NotTmpfs { .. })));
    assert_eq!(
        std::fs::read_dir(folder.path().join("docker"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn refuses_symbolic_links_out_of_the_volume() {
    let (folder, store) = volume();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    // A link in place of the directory.
    std::fs::remove_dir(folder.path().join("docker")).unwrap();
    symlink(elsewhere.path(), folder.path().join("docker")).unwrap();
    assert!(
        store
            .put(Directory::Docker, &name("config.json"), b"x")
            .is_err()
    );
    // A link in place of the file is replaced, not followed.
    let victim = elsewhere.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    symlink(&victim, folder.path().join("clusters/a.json")).unwrap();
    store
        .put(Directory::Clusters, &name("a.json"), b"x")
        .unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    assert!(
        folder
            .path()
            .join("clusters/a.json")
            .symlink_metadata()
            .unwrap()
            .is_file()
    );
    // A link in place of the volume.
    let link = elsewhere.path().join("volume");
    symlink(folder.path(), &link).unwrap();
    assert!(
        Store::at(&link)
            .put(Directory::Clusters, &name("b.json"), b"x")
            .is_err()
    );
}

#[test]
fn replaces_whole_files_and_keeps_directories() {
    let (folder, store) = volume();
    let inode = |path: &str| std::fs::metadata(folder.path().join(path)).unwrap().ino();
    let directory = inode("docker");
    let config = name("config.json");
    assert_eq!(
        store.put(Directory::Docker, &config, b"one").unwrap(),
        Written::Replace
    );
    let first = inode("docker/config.json");
    assert_eq!(
        store.put(Directory::Docker, &config, b"one").unwrap(),
        Written::Keep
    );
    assert_eq!(inode("docker/config.json"), first);
    assert_eq!(
        store.put(Directory::Docker, &config, b"two").unwrap(),
        Written::Replace
    );
    assert_ne!(
        inode("docker/config.json"),
        first,
        "renamed, never rewritten in place"
    );
    let mode = std::fs::metadata(folder.path().join("docker/config.json")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o7777, 0o644);
    store.prepare().unwrap();
    assert_eq!(inode("docker"), directory);
    assert_eq!(
        store.list(Directory::Docker).unwrap(),
        std::slice::from_ref(&config)
    );
    assert!(store.remove(Directory::Docker, &config).unwrap());
    assert!(!store.remove(Directory::Docker, &config).unwrap());
    assert_eq!(inode("docker"), directory);
}

#[test]
fn only_the_writer_removes_what_an_interrupted_write_left() {
    let (folder, store) = volume();
    let left = folder.path().join("clusters/.new-a.json");
    std::fs::write(&left, "half").unwrap();
    assert_eq!(store.list(Directory::Clusters).unwrap(), []);
    // Kubelet publishes again while the engine writes.
    store.prepare().unwrap();
    store.sweep(Directory::Docker).unwrap();
    assert!(left.exists());
    store.sweep(Directory::Clusters).unwrap();
    assert!(!left.exists());
}

#[test]
fn a_reader_in_a_loop_never_sees_half_a_file() {
    let (folder, store) = volume();
    let path = folder.path().join("docker/config.json");
    let contents: Vec<Vec<u8>> = (0..4_u8).map(|n| vec![n; 64 << (4 * n)]).collect();
    store
        .put(Directory::Docker, &name("config.json"), &contents[0])
        .unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..400 {
                let content = &contents[n % contents.len()];
                store
                    .put(Directory::Docker, &name("config.json"), content)
                    .unwrap();
            }
        });
        while !writer.is_finished() {
            let seen = std::fs::read(&path).unwrap();
            assert!(contents.contains(&seen), "{} bytes", seen.len());
        }
    });
}

proptest! {
    #[test]
    fn a_file_name_is_one_visible_component(text in "\\PC{0,20}|[./\\\\a]{0,6}") {
        if let Ok(name) = FileName::of(&text) {
            prop_assert_eq!(Path::new(name.as_str()).components().count(), 1);
            prop_assert!(!name.as_str().starts_with('.'));
        }
    }

    #[test]
    fn what_is_put_is_read_back(contents in proptest::collection::vec(any::<Vec<u8>>(), 1..5)) {
        let (_folder, store) = volume();
        for content in contents {
            store.put(Directory::Clusters, &name("a.json"), &content).unwrap();
            let read = store.read(Directory::Clusters, &name("a.json")).unwrap().unwrap();
            prop_assert_eq!(read.as_slice(), content.as_slice());
        }
    }
}
