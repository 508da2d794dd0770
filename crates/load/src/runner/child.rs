//! A node in a child process, with the means to inject faults.

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::node;

/// Maximum time until a node listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time until a node ends by itself, after it has closed its connections.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which the end of a process is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// A node. Its process ends when this value is dropped, or when the parent process ends.
#[derive(Debug)]
pub(super) struct ChildNode {
    /// Name that the node sends.
    pub(super) name: String,
    reserved: ReservedAddress,
    /// `None` if the node was killed.
    process: Option<Process>,
}

/// Process of a node, killed on drop.
#[derive(Debug)]
struct Process {
    child: Child,
    /// Commands to the node. The node ends when this pipe is closed.
    stdin: Option<ChildStdin>,
}

/// An address whose port stays reserved while no node listens on it, so that a restarted node finds it free.
#[derive(Debug)]
struct ReservedAddress {
    address: SocketAddr,
    _socket: Socket,
}

impl ReservedAddress {
    fn reserve() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Sockets that are both bound this way can share an address if only one of them listens (socket(7)).
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { address, _socket: socket })
    }
}

impl ChildNode {
    /// Starts a node on a free port and waits until it listens.
    ///
    /// # Errors
    ///
    /// No port is free, or the node does not start.
    pub(super) async fn start(name: String) -> anyhow::Result<Self> {
        let reserved =
            ReservedAddress::reserve().with_context(|| format!("no free port for {name}"))?;
        let process = Process::start(&name, reserved.address).await?;
        Ok(Self { name, reserved, process: Some(process) })
    }

    /// Starts the node again on the same address, under a new name that distinguishes its sessions from
    /// earlier ones.
    ///
    /// # Errors
    ///
    /// The node does not start.
    pub(super) async fn restart(&mut self, name: String) -> anyhow::Result<()> {
        self.process = Some(Process::start(&name, self.reserved.address).await?);
        self.name = name;
        Ok(())
    }

    /// Address of the node.
    pub(super) fn address(&self) -> SocketAddr {
        self.reserved.address
    }

    /// Whether the node was not killed.
    pub(super) fn is_alive(&self) -> bool {
        self.process.is_some()
    }

    /// Sends SIGTERM and waits until the node has closed its connections and ended.
    pub(super) async fn stop(mut self) {
        let Some(process) = &mut self.process else { return };
        process.signal(Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(process.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            sleep(CHECK_INTERVAL).await;
        }
    }

    /// Kills the process.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the process (SIGSTOP); its connections stay open.
    pub(super) fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// Continues the process (SIGCONT).
    pub(super) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Makes the node reset all its connections.
    ///
    /// # Errors
    ///
    /// The command could not be sent.
    pub(super) fn reset(&mut self) -> anyhow::Result<()> {
        let stdin = self.process.as_mut().and_then(|process| process.stdin.as_mut());
        let sent = match stdin {
            Some(stdin) => writeln!(stdin, "{}", node::RESET).and_then(|()| stdin.flush()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        sent.with_context(|| {
            format!("cannot send {} the command to reset its connections", self.name)
        })
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }
}

impl Process {
    async fn start(name: &str, address: SocketAddr) -> anyhow::Result<Self> {
        let failed = |e: io::Error| anyhow!("cannot start {name}: {e}");
        let mut process = Self::spawn(name, address).map_err(failed)?;
        let stdout = process.child.stdout.take();
        let stdout = stdout.ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        // On a timeout, the process is dropped, which kills it and ends the read.
        match timeout(START_TIMEOUT, spawn_blocking(move || first_line(stdout))).await {
            Ok(Ok(Ok(line))) if line.contains(" listens on ") => Ok(process),
            Ok(Ok(Err(error))) => Err(failed(error)),
            Ok(_) => bail!("{name} ended before it listened on {address}"),
            Err(_) => bail!("{name} did not listen on {address} within {START_TIMEOUT:?}"),
        }
    }

    fn spawn(name: &str, address: SocketAddr) -> io::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["node", "--nodes", "1", "--until-eof", "--name", name])
            .args(["--listen", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A separate process group: an interrupt from the terminal reaches only the run, which stops its
            // nodes after its clients. If the run is killed while a node is stopped, the kernel continues the
            // orphaned group (setpgid(2)).
            .process_group(0)
            .spawn()?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin })
    }

    fn signal(&self, signal: Signal) {
        // Fails only if the process has ended; then there is nothing to signal.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn first_line(stdout: impl Read) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    Ok(line)
}
