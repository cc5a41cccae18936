//! Any body on each admission path: no panic, and what is answered is for the request's uid.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use control_plane_core::admission::{Path, Rules, review};

fuzz_target!(|body: &[u8]| {
    for path in Path::ALL {
        let Ok(answer) = review(path, body, &Rules::default()) else {
            continue;
        };
        let json: Value = serde_json::from_slice(&answer.body).expect("the answer is JSON");
        assert_eq!(json["response"]["uid"], answer.uid.as_str());
    }
});
