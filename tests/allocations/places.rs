//! The places of allocations in the source, from a heap profile of dhat.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde_json::Value;

/// Frames of a stack that are recorded. The tasks of a connection nest deeply.
const DEPTH: usize = 80;
/// Frames of a stack that are listed.
const LISTED: usize = 8;

/// Runs `work` once more with recorded stacks, and lists where it allocates, for each of `requests`.
pub(crate) fn record(work: impl FnOnce(), requests: u64) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("profile.json");
    let profiler = dhat::Profiler::builder().file_name(&file).trim_backtraces(Some(DEPTH)).build();
    work();
    drop(profiler);
    let profile: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    list(&profile, requests)
}

/// Stacks by their number of allocations. Stacks without an allocation for every second request are left out.
fn list(profile: &Value, requests: u64) -> String {
    let frames = profile["ftbl"].as_array().unwrap();
    let mut stacks: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    for point in profile["pps"].as_array().unwrap() {
        let stack = point["fs"].as_array().unwrap().iter();
        let stack = stack.filter_map(|at| frames[at.as_u64()? as usize].as_str());
        *stacks.entry(stack.filter_map(own).take(LISTED).collect()).or_default() +=
            point["tbk"].as_u64().unwrap();
    }
    let mut stacks: Vec<_> =
        stacks.into_iter().filter(|(_, count)| 2 * count >= requests).collect();
    stacks.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut text = String::new();
    for (stack, count) in stacks {
        let _ = writeln!(text, "{:.2} by", count as f64 / requests as f64);
        for frame in stack {
            let _ = writeln!(text, "    {frame}");
        }
    }
    text
}

/// Place and function of a frame; `None` for a frame outside this workspace.
fn own(frame: &str) -> Option<String> {
    let (_, frame) = frame.split_once(": ")?;
    let (function, place) = frame.rsplit_once(" (")?;
    let mut place = place.split(':');
    let (file, line) = (place.next()?, place.next()?);
    // The profile has only the last parts of a path.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["", "..", "crates", "crates/http"].map(|folder| root.join(folder));
    let exists = folders.iter().any(|folder| folder.join(file).exists());
    let (function, _) = function.split_once('<').unwrap_or((function, ""));
    (exists && !file.starts_with("tests/")).then(|| format!("{file}:{line} {function}"))
}
