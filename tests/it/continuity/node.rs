//! A Socket.IO node in its own process, of `moorline-load` or of npm, that a test can kill, stop or reset.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::support::{
    harness::harness,
    process::{self, Namespace},
};

/// Folder of the npm packages and of the programs that use them.
const NPM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/socketio");

/// Ping interval and ping timeout of the nodes, in seconds.
const PING: (u32, u32) = (5, 20);

/// Implementation of nodes and clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Implementation {
    /// `moorline-load`, which uses socketioxide.
    Harness,
    /// The packages `socket.io` and `socket.io-client`.
    Npm,
}

/// A running node; dropping it kills the process.
pub(super) struct Node {
    /// Name that the node sends to its clients.
    pub(super) name: String,
    /// Address, as written in a backend list.
    pub(super) address: String,
    child: Child,
    stdin: ChildStdin,
    _stdout: BufReader<ChildStdout>,
}

impl Implementation {
    /// Command of clients that the test controls, over TLS to a loopback port. `kind` is their transport.
    pub(super) fn clients(
        self,
        kind: &str,
        count: u64,
        port: u16,
        authority: &Path,
    ) -> tokio::process::Command {
        let count = count.to_string();
        let mut command = match self {
            Self::Harness => {
                let mut command = Command::new(harness());
                command.arg("controlled").arg(format!("https://127.0.0.1:{port}"));
                command.args(["--client", kind, "--clients", &count, "--ramp", "2s"]);
                command.args(["--every", "2s", "--quiet", "--ca"]).arg(authority);
                command
            }
            Self::Npm => {
                let mut command = Command::new("node");
                command
                    .arg(format!("{NPM}/controlled.mjs"))
                    .arg(format!("https://localhost:{port}"));
                command.arg(authority).args([kind, &count]);
                command
            }
        };
        command.stderr(Stdio::inherit());
        command.into()
    }

    fn node(self, name: &str, namespace: Option<&Namespace>) -> Command {
        let program = |program: &str| match namespace {
            Some(namespace) => namespace.command(program),
            None => Command::new(program),
        };
        let host = namespace.map_or_else(|| "127.0.0.1".to_owned(), Namespace::inside);
        let (interval, timeout) = PING;
        match self {
            Self::Harness => {
                let mut command = program(harness().to_str().unwrap());
                command.args(["node", "--nodes", "1", "--until-eof"]);
                command.args(["--listen", &format!("{host}:0")]);
                command.args(["--name", name, "--ping-interval", &format!("{interval}s")]);
                command.args(["--ping-timeout", &format!("{timeout}s")]);
                command
            }
            Self::Npm => {
                let (interval, timeout) = (interval * 1000, timeout * 1000);
                let engine = format!("{{\"pingInterval\":{interval},\"pingTimeout\":{timeout}}}");
                let mut command = program("node");
                command.arg(format!("{NPM}/lib/node-main.mjs"));
                let options = format!("\"generation\":\"v4\",\"host\":\"{host}\"");
                command.arg(format!("{{\"name\":\"{name}\",{options},\"engine\":{engine}}}"));
                command
            }
        }
    }
}

impl Node {
    /// Starts a node and waits until it listens.
    pub(super) fn start(implementation: Implementation, name: &str) -> Self {
        Self::run(implementation.node(name, None), name)
    }

    /// Starts a node in a network namespace.
    pub(super) fn inside(
        implementation: Implementation,
        name: &str,
        namespace: &Namespace,
    ) -> Self {
        Self::run(implementation.node(name, Some(namespace)), name)
    }

    fn run(mut command: Command, name: &str) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let (_, address) = line.trim_end().split_once(" listens on ").unwrap_or_else(|| {
            panic!("{name} does not listen: {line:?}; run tests/setup");
        });
        let address = address.to_owned();
        Self { name: name.to_owned(), address, child, stdin, _stdout: stdout }
    }

    /// Kills the process.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops the process; its connections stay open.
    pub(super) fn hang(&self) {
        process::signal(self.child.id(), "STOP");
    }

    /// Continues the process.
    pub(super) fn resume(&self) {
        process::signal(self.child.id(), "CONT");
    }

    /// Makes the node reset all connections.
    pub(super) fn reset(&mut self) {
        self.stdin.write_all(b"reset\n").unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // An error means that the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
