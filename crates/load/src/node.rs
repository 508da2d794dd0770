//! Socket.IO nodes and an echo server, as targets.
//!
//! Owns their replies, and the start and end of their process. Each reply has the name of its node, so that
//! misrouting is measured and not guessed. Does not know about clients or the proxy in front.

mod argument;
mod connection;
pub(crate) mod echo;
pub(crate) mod list;
mod request;
mod socket_io;

use std::{
    io::{self, BufRead, Write},
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use tokio::{
    net::TcpListener,
    runtime,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use self::{
    connection::Connections,
    socket_io::{Heartbeat, Node},
};
use crate::scenario::{capacity, options::NodeOptions};

/// Command on standard input: reset all connections.
pub(crate) const RESET: &str = "reset";
/// Maximum time until a node has disconnected its clients.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the nodes and the echo server, prints their addresses to standard output, and serves until SIGINT
/// or SIGTERM. A node that was started by a run also ends with its standard input.
///
/// # Errors
///
/// An address is not available, or the backend list cannot be written.
pub(crate) fn serve(options: &NodeOptions) -> anyhow::Result<()> {
    ensure!(
        options.nodes > 0 || options.echo.is_some(),
        "nothing to start: set --nodes to at least 1, or give --echo"
    );
    capacity::raise_descriptors();
    let mut bound = Vec::new();
    for index in 0..options.nodes {
        let name = options.name.clone().unwrap_or_else(|| format!("node-{index}"));
        bound.push((name, bind(address_of(options.listen, index)?)?));
    }
    let echo = options.echo.map(bind).transpose()?;
    if let Some(file) = &options.backends_file {
        list::write(file, bound.iter().map(|(_, (_, address))| *address))?;
    }
    announce(&bound, echo.as_ref()).context("cannot write to standard output")?;

    let stop = CancellationToken::new();
    let connections = Arc::new(Connections::default());
    let heartbeat =
        Heartbeat { interval: options.ping_interval.0, timeout: options.ping_timeout.0 };
    let mut threads = Vec::new();
    for (name, (listener, _)) in bound {
        let node = Node::new(&name, heartbeat, Arc::clone(&connections))?;
        let stop = stop.clone();
        threads.push(spawn(name, listener, |listener| node.run(listener, stop))?);
    }
    if let Some((listener, _)) = echo {
        let stop = stop.clone();
        let serve = async move |listener| {
            stop.run_until_cancelled(echo::serve(listener)).await;
        };
        threads.push(spawn("echo".to_owned(), listener, serve)?);
    }
    let ended = wait(options.until_eof, &connections);
    stop.cancel();
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a node panicked"))?;
    }
    ended
}

/// Returns the address of the node at `index`: consecutive ports from `first` on, or any free port if its
/// port is 0.
fn address_of(first: SocketAddr, index: u16) -> anyhow::Result<SocketAddr> {
    let port = match first.port() {
        0 => 0,
        port => port.checked_add(index).with_context(|| {
            format!("too many nodes for {first}: port {port} + {index} is too large; use a lower --listen port")
        })?,
    };
    Ok(SocketAddr::new(first.ip(), port))
}

fn bind(address: SocketAddr) -> anyhow::Result<(StdListener, SocketAddr)> {
    let bind = || {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    bind().map_err(|error: io::Error| anyhow!("cannot listen on {address}: {error}"))
}

fn announce(
    nodes: &[(String, (StdListener, SocketAddr))],
    echo: Option<&(StdListener, SocketAddr)>,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (name, (_, address)) in nodes {
        writeln!(out, "{name} listens on {address}")?;
    }
    if let Some((_, address)) = echo {
        writeln!(out, "echo listens on {address}")?;
    }
    out.flush()
}

/// Serves in a separate thread: nodes share no locks, and a busy node does not delay the others.
fn spawn<F: Future<Output = ()>>(
    name: String,
    listener: StdListener,
    serve: impl FnOnce(TcpListener) -> F + Send + 'static,
) -> anyhow::Result<JoinHandle<()>> {
    let builder = thread::Builder::new().name(name.clone());
    let run = move || {
        let served = runtime().and_then(|runtime| {
            runtime.block_on(async {
                serve(TcpListener::from_std(listener)?).await;
                Ok(())
            })
        });
        if let Err(error) = served {
            eprintln!("{name}: {error}");
        }
    };
    builder.spawn(run).context("cannot start a thread for a node")
}

fn runtime() -> io::Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// Waits for the end. With `until_eof`, also runs the commands on standard input.
fn wait(until_eof: bool, connections: &Connections) -> anyhow::Result<()> {
    let waited =
        runtime().and_then(|runtime| runtime.block_on(run_until_stop(until_eof, connections)));
    waited.context("cannot handle signals")
}

async fn run_until_stop(until_eof: bool, connections: &Connections) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (sender, mut lines) = mpsc::unbounded_channel();
    // Dropped with the last line of standard input. Without `until_eof`, never dropped.
    let _open = if until_eof {
        // The thread is never joined: it may wait for a line until the process ends.
        thread::spawn(move || {
            let lines = io::stdin().lock().lines().map_while(Result::ok);
            lines.map(|line| sender.send(line)).find(Result::is_err)
        });
        None
    } else {
        Some(sender)
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            line = lines.recv() => match line.as_deref() {
                Some(RESET) => connections.reset(),
                Some(other) => eprintln!("unknown command {other:?}: the only command is {RESET}"),
                None => return Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_use_consecutive_ports() {
        let first = "127.0.0.1:65534".parse().unwrap();
        assert_eq!(address_of(first, 1).unwrap(), "127.0.0.1:65535".parse().unwrap());
        assert!(address_of(first, 2).unwrap_err().to_string().contains("too large"));
        let any = "127.0.0.1:0".parse().unwrap();
        assert_eq!(address_of(any, 2).unwrap(), any);
    }

    #[test]
    fn used_address_is_reported() {
        let (_held, address) = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let fault = bind(address).unwrap_err().to_string();
        assert!(fault.starts_with(&format!("cannot listen on {address}: ")), "{fault}");
    }
}
