//! Seeds of the fuzz targets pass the checks of the targets. `tests/fuzz` runs the targets.

use std::{fs, path::PathBuf};

use http::Method;
use moorline_http::ChunkedOutput;

use crate::{body_checks, head_checks, head_edits_checks};

/// Names and contents of a target's seeds.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let entries = fs::read_dir(folder).expect("a folder of seeds").map(|entry| {
        let path = entry.expect("a seed").path();
        let name = path.file_name().expect("a file name").to_string_lossy().into_owned();
        (name, fs::read(path).expect("a readable seed"))
    });
    entries.collect()
}

/// Checks each seed of a target; `is_valid` says whether a parser accepts a seed that is not a bad one.
fn check_seeds(target: &str, check: fn(&[u8]), is_valid: fn(&str, &[u8]) -> bool) {
    let seeds = seeds(target);
    assert!(seeds.len() > 10, "{} seeds", seeds.len());
    for (name, bytes) in seeds {
        println!("{target}/{name}");
        check(&bytes);
        assert_eq!(is_valid(&name, &bytes), !name.starts_with("bad-"), "{name}");
    }
}

#[test]
fn bodies_pass_the_checks_of_their_fuzz_target() {
    check_seeds("body", body_checks::check, |_, bytes| {
        body_checks::decode(bytes, ChunkedOutput::Framed, []).trailers.is_ok()
    });
}

#[test]
fn heads_pass_the_checks_of_their_fuzz_target() {
    check_seeds("head", head_checks::check, |name, bytes| {
        let request = matches!(head_checks::request(bytes, &[]), Ok(Some(_)));
        let response = matches!(head_checks::response(bytes, &Method::GET, &[]), Ok(Some(_)));
        if name.starts_with("response-") { response && !request } else { request && !response }
    });
}

#[test]
fn edited_heads_pass_the_checks_of_their_fuzz_target() {
    let check = |bytes: &[u8]| {
        head_edits_checks::check(bytes);
    };
    check_seeds("head_edits", check, |_, bytes| head_edits_checks::check(bytes));
}
