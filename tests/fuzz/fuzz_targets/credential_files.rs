//! Files and tokens that others wrote: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::{exec_credential::ExecCredential};
use agent::docker_config;

fuzz_target!(|bytes: &[u8]| {
    let _ = docker_config::parse(bytes);
    if let Ok(credential) = ExecCredential::parse(bytes) {
        let again = credential.render().expect("what was read can be written");
        ExecCredential::parse(&again).expect("what was written can be read");
    }
    if let Ok(token) = std::str::from_utf8(bytes) {
        let _ = agent::jwt::Claims::read(token);
    }
});
