//! Socket.IO nodes and an echo origin to aim at.
//!
//! Owns what they answer, and how a process of them starts and ends. Each tells its name with every
//! reply, so that misrouting is seen and not inferred. Must not know clients, nor who stands in front.

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

/// On a line of standard input: reset all connections.
pub(crate) const RESET: &str = "reset";
/// Longest wait for a node to say goodbye to its clients.
const GOODBYE: Duration = Duration::from_secs(2);

/// Starts what is asked for, says on standard output where each listens, and serves until SIGINT or
/// SIGTERM; a child also until its standard input ends.
///
/// # Errors
///
/// A sentence for the user.
pub(crate) fn serve(options: &NodeOptions) -> Result<(), String> {
    if options.nodes == 0 && options.echo.is_none() {
        return Err("nothing to start; set --nodes to at least 1, or set --echo".into());
    }
    capacity::raise_descriptors();
    let mut bound = Vec::new();
    for index in 0..options.nodes {
        let name = options.name.clone().unwrap_or_else(|| format!("node-{index}"));
        bound.push((name, bind(at(options.listen, index)?)?));
    }
    let echo = options.echo.map(bind).transpose()?;
    if let Some(file) = &options.backends_file {
        list::write(file, bound.iter().map(|(_, (_, address))| *address))?;
    }
    announce(&bound, echo.as_ref()).map_err(|e| format!("standard output: {e}"))?;

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
        thread.join().map_err(|_| "a node panicked".to_owned())?;
    }
    ended
}

/// The address of the node at `index`: the ports from the first one on, or any that is free.
fn at(first: SocketAddr, index: u16) -> Result<SocketAddr, String> {
    let port = match first.port() {
        0 => 0,
        port => port.checked_add(index).ok_or_else(|| {
            format!("there are not so many ports from {first} on: {port} + {index} is too large")
        })?,
    };
    Ok(SocketAddr::new(first.ip(), port))
}

fn bind(address: SocketAddr) -> Result<(StdListener, SocketAddr), String> {
    let bind = || {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    bind().map_err(|e: io::Error| format!("{address} cannot be listened on: {e}"))
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

/// Serves in a thread of its own: nodes share no lock, and one that is busy delays no other.
fn spawn<F: Future<Output = ()>>(
    name: String,
    listener: StdListener,
    serve: impl FnOnce(TcpListener) -> F + Send + 'static,
) -> Result<JoinHandle<()>, String> {
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
    builder.spawn(run).map_err(|e| format!("no thread can be started: {e}"))
}

fn runtime() -> io::Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// Waits for the end, and does what standard input says until then where it is listened to.
fn wait(until_eof: bool, connections: &Connections) -> Result<(), String> {
    let waited = runtime().and_then(|runtime| runtime.block_on(until_told(until_eof, connections)));
    waited.map_err(|e| format!("signals cannot be waited for: {e}"))
}

async fn until_told(until_eof: bool, connections: &Connections) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (sender, mut lines) = mpsc::unbounded_channel();
    // Dropped with the last line of standard input, or never.
    let _open = if until_eof {
        // Never joined: it may wait for a line at the end of the process.
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
                Some(other) => eprintln!("unknown command {other:?}; the only command is {RESET}"),
                None => return Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_take_the_ports_after_the_first() {
        let first = "127.0.0.1:65534".parse().unwrap();
        assert_eq!(at(first, 1), Ok("127.0.0.1:65535".parse().unwrap()));
        assert!(at(first, 2).unwrap_err().contains("too large"));
        let any = "127.0.0.1:0".parse().unwrap();
        assert_eq!(at(any, 2), Ok(any));
    }

    #[test]
    fn a_taken_address_is_told() {
        let (_held, address) = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let fault = bind(address).unwrap_err();
        assert!(fault.starts_with(&format!("{address} cannot be listened on: ")), "{fault}");
    }
}
