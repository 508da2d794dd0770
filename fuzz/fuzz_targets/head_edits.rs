#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks/head_edits.rs"]
mod properties;

fuzz_target!(|bytes: &[u8]| {
    properties::check(bytes);
});
