//! A node in a process of its own, which can be hurt.

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::node;

/// Longest wait for a node to listen.
const START: Duration = Duration::from_secs(10);
/// Longest wait for a node to end by itself, its goodbyes included.
const END: Duration = Duration::from_secs(5);
/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// A node. It ends when this is dropped, and by itself when this process does.
#[derive(Debug)]
pub(super) struct ChildNode {
    /// As it tells.
    pub(super) name: String,
    place: Place,
    /// `None`: it was killed.
    process: Option<Process>,
}

/// Its process, killed on drop.
#[derive(Debug)]
struct Process {
    child: Child,
    /// Takes commands. The node ends with it.
    stdin: Option<ChildStdin>,
}

/// An address of which nobody else can take the port, while nothing listens there either: a node that
/// comes back finds it free.
#[derive(Debug)]
struct Place {
    address: SocketAddr,
    _socket: Socket,
}

impl Place {
    fn free() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // What is bound this way by both, and listened to by one of them, can be shared (socket(7)).
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
    /// A sentence for the user.
    pub(super) async fn start(name: String) -> Result<Self, String> {
        let place = Place::free().map_err(|e| format!("no port is free for {name}: {e}"))?;
        let process = Process::start(&name, place.address).await?;
        Ok(Self { name, place, process: Some(process) })
    }

    /// Starts it again on the same address, under a name that tells its sessions from those of before.
    ///
    /// # Errors
    ///
    /// A sentence for the user.
    pub(super) async fn start_again(&mut self, name: String) -> Result<(), String> {
        self.process = Some(Process::start(&name, self.place.address).await?);
        self.name = name;
        Ok(())
    }

    /// Where it listens, or did.
    pub(super) fn address(&self) -> SocketAddr {
        self.place.address
    }

    /// Whether it was not killed.
    pub(super) fn is_alive(&self) -> bool {
        self.process.is_some()
    }

    /// Asks it to end, and waits until it has, so that it can say goodbye to its clients.
    pub(super) async fn stop(mut self) {
        let Some(process) = &mut self.process else { return };
        process.signal(Signal::TERM);
        let deadline = Instant::now() + END;
        while matches!(process.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            sleep(LOOK).await;
        }
    }

    /// Kills it.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// Makes it stand still, its connections open.
    pub(super) fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(super) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Makes it reset all its connections.
    ///
    /// # Errors
    ///
    /// A sentence for the user, where it cannot be told.
    pub(super) fn reset(&mut self) -> Result<(), String> {
        let stdin = self.process.as_mut().and_then(|process| process.stdin.as_mut());
        let told = match stdin {
            Some(stdin) => writeln!(stdin, "{}", node::RESET).and_then(|()| stdin.flush()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        told.map_err(|e| format!("{} cannot be told to reset its connections: {e}", self.name))
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }
}

impl Process {
    async fn start(name: &str, address: SocketAddr) -> Result<Self, String> {
        let failed = |e: io::Error| format!("{name} cannot be started: {e}");
        let mut process = Self::spawn(name, address).map_err(failed)?;
        let stdout = process.child.stdout.take();
        let stdout = stdout.ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        // Where it takes too long, the process is dropped, killed by that, and so the read ends.
        match timeout(START, spawn_blocking(move || first_line(stdout))).await {
            Ok(Ok(Ok(line))) if line.contains(" listens on ") => Ok(process),
            Ok(Ok(Err(error))) => Err(failed(error)),
            Ok(_) => Err(format!("{name} ended before it listened on {address}")),
            Err(_) => Err(format!("{name} did not listen within {START:?}")),
        }
    }

    fn spawn(name: &str, address: SocketAddr) -> io::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["node", "--nodes", "1", "--until-eof", "--name", name])
            .args(["--listen", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A group of its own: an interrupt from the terminal is for the run, which ends its nodes
            // after its clients. Should the run die while a node stands still, the kernel wakes the
            // orphaned group (setpgid(2)).
            .process_group(0)
            .spawn()?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin })
    }

    fn signal(&self, signal: Signal) {
        // It fails where the process has ended, and then there is nothing left to be hurt.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn first_line(stdout: impl Read) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    Ok(line)
}
