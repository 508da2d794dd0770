//! Runs of `moorline-load`, and its nodes.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{TIMEOUT, eventually, harness::harness, process, wait_for};

/// A run of the harness; dropping it kills the process.
pub(crate) struct Load {
    child: Child,
    directory: TempDir,
}

/// Result of a run.
pub(crate) struct Report {
    /// Exit code; `None`: a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard error.
    pub(crate) stderr: String,
    /// Content of the JSON file; null if there is none.
    pub(crate) json: Value,
}

impl Load {
    /// Starts a run with these arguments and `--quiet`.
    pub(crate) fn start(words: &[&str]) -> Self {
        Self::shown(&[words, &["--quiet"]].concat())
    }

    /// Starts a run that prints its status once per second.
    pub(crate) fn shown(words: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let child = Command::new(harness())
            .args(words)
            .arg("--json")
            .arg(directory.path().join("figures.json"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    /// Runs until the end.
    pub(crate) async fn run(words: &[&str]) -> Report {
        Self::start(words).ended().await
    }

    /// Waits until standard error contains `words`.
    pub(crate) async fn says(&self, words: &str) {
        let file = self.directory.path().join("stderr");
        eventually(words, || fs::read_to_string(&file).unwrap().contains(words)).await;
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        process::signal(self.pid(), name);
    }

    /// Waits for the end.
    pub(crate) async fn ended(self) -> Report {
        self.ended_within(TIMEOUT).await
    }

    /// Waits for the end, for at most this time.
    pub(crate) async fn ended_within(mut self, limit: Duration) -> Report {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the run does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let file = |name| fs::read_to_string(self.directory.path().join(name));
        // A run that was rejected writes no file.
        let json = file("figures.json").unwrap_or_default();
        let json = if json.is_empty() { Value::Null } else { json.parse().unwrap() };
        Report { code: status.code(), stderr: file("stderr").unwrap(), json }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // An error means that the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Report {
    /// A total of the run: `finished`, `disconnects`, `node_gone`…
    pub(crate) fn total(&self, name: &str) -> u64 {
        let total = self.json["totals"][name].as_u64();
        total.unwrap_or_else(|| panic!("no {name} in {} {}", self.json["totals"], self.stderr))
    }

    /// Number of errors of a kind: `code1`, `timeout`…
    pub(crate) fn errors(&self, kind: &str) -> u64 {
        let errors = self.json["errors"].as_array().unwrap();
        let of_kind = errors.iter().find(|error| error["kind"] == kind);
        of_kind.map_or(0, |error| error["count"].as_u64().unwrap())
    }

    /// Number of sessions of a node during the run.
    pub(crate) fn sessions(&self, node: &str) -> u64 {
        let nodes = self.json["nodes"].as_array().unwrap();
        let named = nodes.iter().find(|entry| entry["name"] == node);
        named.map_or(0, |node| node["sessions"].as_u64().unwrap())
    }

    /// Events of the run.
    pub(crate) fn marks(&self) -> Vec<&str> {
        let marks = self.json["marks"].as_array().unwrap();
        marks.iter().map(|mark| mark["text"].as_str().unwrap()).collect()
    }

    /// Asserts that there were no losses except those that the run itself caused.
    pub(crate) fn assert_unharmed(&self) {
        assert_eq!(self.code, Some(0), "{} {}", self.stderr, self.json["errors"]);
        for name in ["errors", "disconnects", "misrouted"] {
            assert_eq!(self.total(name), 0, "{name}: {}", self.json["errors"]);
        }
        assert_eq!(self.errors("code1"), 0);
    }
}

/// A process of Socket.IO nodes; dropping it kills it.
pub(crate) struct LoadNodes {
    /// Names and addresses of the nodes, as printed.
    pub(crate) listening: Vec<(String, SocketAddr)>,
    child: Child,
    _stdout: BufReader<ChildStdout>,
}

impl LoadNodes {
    /// Starts `moorline-load node` with these arguments, and reads the addresses of `count` nodes.
    pub(crate) fn start(words: &[&str], count: usize) -> Self {
        let mut child = Command::new(harness())
            .arg("node")
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = || {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            let (name, address) = line.trim_end().split_once(" listens on ").unwrap();
            (name.to_owned(), address.parse().unwrap())
        };
        let listening = (0..count).map(|_| line()).collect();
        Self { listening, child, _stdout: stdout }
    }

    /// Sends a signal by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        process::signal(self.child.id(), name);
    }

    /// Waits for the end and returns the exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        wait_for("the nodes' end", || self.child.try_wait().unwrap()).await.code()
    }
}

impl Drop for LoadNodes {
    fn drop(&mut self) {
        // An error means that the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `moorline demo`; dropping it kills the process.
pub(crate) struct Demo {
    /// Address of its TLS listener.
    pub(crate) url: String,
    child: Child,
    _directory: TempDir,
}

impl Demo {
    /// Starts a demo and waits until it listens.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stderr = directory.path().join("stderr");
        let child = Command::new(env!("CARGO_BIN_EXE_moorline"))
            .args(["demo", "--listen-tls", "127.0.0.1:0", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        let mut demo = Self { url: String::new(), child, _directory: directory };
        demo.url = wait_for("the demo's `listening on`", || {
            let said = fs::read_to_string(&stderr).unwrap();
            let line = said.lines().find(|line| line.contains(" listening on https://"))?;
            Some(line.split_once(" listening on ")?.1.split(' ').next()?.to_owned())
        })
        .await;
        demo
    }

    /// Whether the process runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // An error means that the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
