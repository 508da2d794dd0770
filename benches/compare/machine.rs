//! The machine and the versions of a run, to compare with other machines.

use std::{fs, process::Command};

use crate::{
    process::{Cores, field},
    results::About,
};

/// Collects all facts about a run.
pub(crate) fn about(cores: &Cores, versions: Vec<String>, rounds: usize, quick: bool) -> About {
    About {
        date: output_of("date", &["-u", "+%-d %B %Y, %H:%M UTC"]),
        commit: commit(),
        machine: machine(),
        kernel: output_of("uname", &["-srm"]),
        cores: format!("one worker each, on {cores}"),
        versions,
        rounds,
        quick,
    }
}

/// Hash and date of the commit, and whether files differ from it.
fn commit() -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let git = |args: &[&str]| output_of("git", &[&["-C", root], args].concat());
    let changed = git(&["status", "--porcelain", "--", "src", "Cargo.lock", "Cargo.toml"]);
    let hash = git(&["log", "-1", "--format=%h of %cd", "--date=format:%-d %B %Y"]);
    if changed.is_empty() { hash } else { hash + ", with changes to it" }
}

fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        field(&processors, "model name").unwrap_or("unknown").trim_start_matches([':', ' ']);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = field(&memory, "MemTotal:").and_then(|value| value.strip_suffix(" kB"));
    let memory = memory.and_then(|value| value.parse::<f64>().ok()).unwrap_or_default();
    let cores = processors.lines().filter(|line| line.starts_with("processor")).count();
    let host = output_of("lscpu", &[]);
    let host = field(&host, "Hypervisor vendor:").map(|vendor| format!(", virtual ({vendor})"));
    let memory = memory / 1024.0 / 1024.0;
    format!("{model}, {cores} cores, {memory:.0} GiB{}", host.unwrap_or_default())
}

/// The output of a program; empty if the program is not installed.
fn output_of(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let printed = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&printed).trim().to_owned()
}
