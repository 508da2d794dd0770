//! The origin behind every proxy: nodes and echo server of the load harness, in a separate process.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::{
    harness::harness,
    local::{CERTS, free_address},
};

/// Socket.IO nodes behind each proxy.
const NODES: usize = 3;
/// Longest time from the start of the process to its last listener.
const STARTING: Duration = Duration::from_secs(10);

/// Nodes and echo origin; killed on drop.
pub(crate) struct Origin {
    child: Child,
    /// The process that terminates TLS in front of the origin.
    terminator: Child,
    /// HTTP and WebSocket echo, and downloads.
    pub(crate) echo: SocketAddr,
    /// The echo address over TLS.
    pub(crate) secure: SocketAddr,
    /// The Socket.IO nodes, as a backend list names them.
    pub(crate) nodes: Vec<String>,
    _directory: TempDir,
}

impl Origin {
    /// Starts the processes on free ports.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let (echo, list) = (free_address()?, directory.path().join("nodes"));
        let secure = free_address()?;
        let mut command = Command::new(harness());
        command.args(["node", "--nodes", &NODES.to_string(), "--listen", "127.0.0.1:0"]);
        command.args(["--echo", &echo.to_string()]).arg("--backends-file").arg(&list);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().context("moorline-load")?;
        let terminator = terminate(directory.path(), secure, echo)?;
        let nodes = Vec::new();
        let mut origin = Self { child, terminator, echo, secure, nodes, _directory: directory };
        let deadline = Instant::now() + STARTING;
        while origin.nodes.len() < NODES
            || [echo, secure].iter().any(|address| TcpStream::connect(address).is_err())
        {
            if let Some(status) = origin.child.try_wait()? {
                bail!("the origin ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("the origin has not started after {STARTING:?}");
            }
            thread::sleep(Duration::from_millis(20));
            let listed = fs::read_to_string(&list).unwrap_or_default();
            let lines = listed.lines().filter_map(|line| line.split_whitespace().next());
            origin.nodes = lines.filter(|word| !word.starts_with('#')).map(str::to_owned).collect();
        }
        Ok(origin)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        for child in [&mut self.child, &mut self.terminator] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a process that terminates TLS in front of `echo`, on the origin's core.
fn terminate(directory: &Path, secure: SocketAddr, echo: SocketAddr) -> anyhow::Result<Child> {
    let words = [
        ("{secure}", secure.to_string()),
        ("{origin}", echo.to_string()),
        ("{certs}", CERTS.to_owned()),
    ];
    let template = include_str!("peers/layer4/origin.toml").to_owned();
    let text = words.iter().fold(template, |text, (word, value)| text.replace(word, value));
    let file = directory.join("origin.toml");
    fs::write(&file, text)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorline"));
    command.arg("run").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("the origin's TLS")
}
