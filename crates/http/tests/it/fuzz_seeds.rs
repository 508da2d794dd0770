//! Seeds of the fuzz targets pass the checks of the targets. `tests/fuzz` runs the targets.

use std::{fs, path::PathBuf};

use moorline_http::ChunkedOutput;

use crate::body_checks;

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

#[test]
fn seeds_pass_the_checks_of_their_fuzz_target() {
    let seeds = seeds("body");
    assert!(seeds.len() > 10, "{} seeds", seeds.len());
    for (name, bytes) in seeds {
        println!("body/{name}");
        body_checks::check(&bytes);
        let read = body_checks::decode(&bytes, ChunkedOutput::Framed, []);
        assert_eq!(read.trailers.is_err(), name.starts_with("bad-"), "{name}: {read:?}");
    }
}
