//! Leases come from the machine; files lie on a tmpfs that needs no root.

use std::time::Duration;

use crate::docker_config::{self, BasicCredential};
use serde_json::json;
use shared::exec_credential::ExecCredential;
use shared::layout;
use shared::registry::RegistryHost;

use super::*;
use crate::jwt::tests::token;
use crate::refresh::{Event, Fresh, Machine, Now, Outcome};
use crate::store::FileName;

#[path = "volume/proxy_tests.rs"]
mod proxy;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A lease from second 0, made the only way there is: by the machine.
fn lease(credential: Credential, expires: i64) -> Lease<Credential> {
    let mut machine: Machine<(), (), Credential> = Machine::default();
    let now = Now {
        wall: at(0),
        mono: Duration::ZERO,
    };
    let wanted = BTreeMap::from([((), BTreeMap::from([((), 1)]))]);
    machine.step(Event::Wanted(wanted), now, 0.0);
    let outcome = Outcome {
        proofs: BTreeMap::from([((), Ok(()))]),
        credential: Some(Ok(Fresh {
            credential,
            expires_at: at(expires),
        })),
    };
    let acquired = Event::Acquired {
        key: (),
        number: 1,
        outcome,
    };
    machine.step(acquired, now, 0.0);
    machine.held(&(), &()).unwrap().clone()
}

fn basic(expires: i64) -> Lease<Credential> {
    let credential = BasicCredential {
        username: "robot".into(),
        secret: token(&json!({"exp": expires})).into(),
    };
    lease(Credential::Basic(credential), expires)
}

fn bearer(expires: i64) -> Lease<Credential> {
    let token = token(&json!({"exp": expires}));
    lease(Credential::Bearer(token.into()), expires)
}

fn registry(host: &str) -> Slot {
    Slot::Docker(RegistryHost::parse(host).unwrap())
}

fn cluster(name: &str) -> Slot {
    Slot::Cluster(FileName::of(layout::cluster_file(name).unwrap()).unwrap())
}

type Row<'a> = (&'a Slot, Option<&'a Lease<Credential>>);

struct Check {
    folder: tempfile::TempDir,
    volume: Volume,
}

impl Check {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let volume = Volume::adopt(Store::at(folder.path())).unwrap();
        Self { folder, volume }
    }

    fn restart(&mut self) {
        self.volume = Volume::adopt(Store::at(self.folder.path())).unwrap();
    }

    fn reconcile(&mut self, content: Option<&[Row<'_>]>, now: i64) {
        let content: Option<Content<'_>> = content.map(|content| content.iter().copied().collect());
        self.volume.reconcile(content.as_ref(), at(now)).unwrap();
    }

    /// Keys of the Docker configuration, then cluster files.
    fn files(&self) -> Vec<String> {
        let bytes = std::fs::read(self.folder.path().join(layout::DOCKER_CONFIG)).unwrap();
        let mut found: Vec<String> = docker_config::parse(&bytes).unwrap().into_keys().collect();
        let clusters = self.folder.path().join(layout::CLUSTERS_DIR);
        let mut files: Vec<String> = std::fs::read_dir(clusters)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        found.extend(files);
        found
    }
}

#[test]
fn files_follow_what_is_held() {
    let mut check = Check::new();
    let (quay, spoke) = (registry("quay.test"), cluster("spoke"));
    let (password, credential) = (basic(100), bearer(100));
    check.reconcile(Some(&[(&quay, None), (&spoke, None)]), 1);
    assert_eq!(check.files(), [""; 0]);
    check.reconcile(
        Some(&[(&quay, Some(&password)), (&spoke, Some(&credential))]),
        1,
    );
    assert_eq!(check.files(), ["quay.test", "spoke.json"]);
    let bytes = std::fs::read(check.folder.path().join("clusters/spoke.json")).unwrap();
    let document = ExecCredential::parse(&bytes).unwrap();
    assert_eq!(document.status.expiration_timestamp, at(90));
    check.reconcile(Some(&[(&spoke, Some(&credential))]), 1);
    assert_eq!(check.files(), ["spoke.json"]);
    check.reconcile(Some(&[(&spoke, None)]), 100);
    assert_eq!(check.files(), [""; 0]);
}

#[test]
fn a_restart_keeps_the_last_good_until_it_expires() {
    let mut check = Check::new();
    let slots = [
        registry("docker.io"),
        registry("b.test"),
        cluster("a"),
        cluster("b"),
    ];
    let leases = [basic(100), basic(200), bearer(100), bearer(200)];
    let held: Vec<_> = slots.iter().zip(leases.iter().map(Some)).collect();
    let none: Vec<_> = slots.iter().map(|slot| (slot, None)).collect();
    let hub = "https://index.docker.io/v1/";
    check.reconcile(Some(&held), 1);

    check.restart();
    check.reconcile(None, 50);
    assert_eq!(check.files(), ["b.test", hub, "a.json", "b.json"]);
    assert_eq!(check.volume.next_expiry(), Some(at(100)));
    check.reconcile(Some(&none), 60);
    assert_eq!(check.files(), ["b.test", hub, "a.json", "b.json"]);
    check.reconcile(None, 100);
    assert_eq!(check.files(), ["b.test", "b.json"], "expired files go");
    check.restart();
    check.reconcile(Some(&none[..1]), 150);
    assert_eq!(check.files(), [""; 0], "so does what nobody wants");
}

#[test]
fn what_has_no_known_expiry_does_not_survive_a_restart() {
    let mut check = Check::new();
    let opaque = lease(
        Credential::Basic(BasicCredential {
            username: "AWS".into(),
            secret: "opaque".into(),
        }),
        100,
    );
    let slot = registry("a.test");
    check.reconcile(Some(&[(&slot, Some(&opaque))]), 1);
    std::fs::write(check.folder.path().join("clusters/x.json"), "{").unwrap();
    check.restart();
    check.reconcile(None, 2);
    assert_eq!(check.files(), [""; 0]);
}

#[test]
fn what_a_killed_writer_left_goes_at_the_next_start() {
    let mut check = Check::new();
    let left = ["docker/.new-config.json", "clusters/.new-spoke.json"];
    let left = left.map(|path| check.folder.path().join(path));
    for path in &left {
        std::fs::write(path, "half").unwrap();
    }
    check.restart();
    assert!(left.iter().all(|path| !path.exists()));
}
