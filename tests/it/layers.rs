//! Which modules may use which libraries.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Modules of the data plane.
const DATA_PLANE: [&str; 6] =
    ["src/proxy", "src/layer4", "src/tunnel", "src/upstream", "src/sticky", "src/route"];

/// All Rust files of a module: its own file and those of its folder.
fn files(module: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut left) =
        (vec![root.join(module).with_extension("rs")], vec![root.join(module)]);
    while let Some(folder) = left.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.retain(|file| file.exists());
    files
}

/// Files of these modules whose text contains `word`.
fn with_word(modules: &[&str], word: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found: Vec<_> = modules
        .iter()
        .flat_map(|module| {
            let files = files(module);
            assert!(!files.is_empty(), "{module} has no file");
            files
        })
        .filter(|file| fs::read_to_string(file).unwrap().contains(word))
        .map(|file| file.strip_prefix(root).unwrap().display().to_string())
        .collect();
    found.sort();
    found
}

#[test]
fn the_data_plane_does_not_use_hyper() {
    assert_eq!(with_word(&DATA_PLANE, "hyper"), [""; 0]);
    assert_eq!(with_word(&["crates/http/src"], "hyper"), [""; 0]);
}

#[test]
fn one_module_uses_the_client_of_hyper() {
    let uses = with_word(&["src"], "client::conn");
    assert_eq!(uses, ["src/http_client.rs"]);
    assert_eq!(with_word(&["src"], "hyper::upgrade"), ["src/http_client.rs"]);
}
