//! Files of the credential proxy's view: no panic, and what was read can be written and read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::proxy_view;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(binding) = proxy_view::parse(bytes) {
        let written = proxy_view::render(&binding).expect("what was read can be written");
        let again = proxy_view::parse(&written).expect("what was written can be read");
        assert_eq!(*proxy_view::render(&again).expect("twice"), *written);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = proxy_view::upstream_proxy(text);
    }
});
