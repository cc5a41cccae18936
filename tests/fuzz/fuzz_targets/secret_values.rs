//! Lines `key=value` as a Secret's data: no panic, and errors name the object.
#![no_main]

use libfuzzer_sys::fuzz_target;
use control_plane_core::secret::{SecretKind, SecretValues, parse};

fuzz_target!(|data: &[u8]| {
    let lines = data.split(|byte| *byte == b'\n');
    let pairs = lines.filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (std::str::from_utf8(&line[..at]).ok()?, &line[at + 1..]);
        Some((key, value))
    });
    let values = SecretValues::from_bytes(pairs);
    for kind in [SecretKind::Repository, SecretKind::RepoCreds, SecretKind::Cluster] {
        if let Err(problems) = parse(kind, "Secret a/b", &values) {
            assert!(!problems.is_empty());
            assert!(problems.iter().all(|problem| problem.detail.starts_with("Secret a/b")));
        }
    }
});
