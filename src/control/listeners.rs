//! Listening sockets across reloads.
//!
//! A socket is identified by its configured address. While the configuration has the address, the socket
//! stays open, whatever else of its listener changes. New sockets are bound before anything else happens, so
//! that a failure rejects the reload. Inherited sockets are used before new ones are bound, and all of them
//! can be handed to the next process. Sockets and accept loops belong to the runtime of the workers.

use std::{collections::HashMap, io, mem, net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use tokio::{net::TcpListener, runtime::Handle, task::JoinHandle};

use crate::{
    config,
    conn::{self, ListenerHandle},
    net::{
        bind_error,
        inherited::{self, InheritedSockets, Purpose, SocketKey},
        listener,
    },
    shared::SharedState,
    shutdown,
};

/// Every listening socket, and the shutdown of the connections of each listener.
pub(super) struct Listeners {
    /// The runtime that accepts and serves connections.
    workers: Handle,
    open: HashMap<SocketKey, OpenSocket>,
    /// By listener name.
    shutdowns: HashMap<String, (shutdown::Trigger, shutdown::Watch)>,
    /// Shutdowns of removed listeners.
    closing: Vec<shutdown::Trigger>,
    /// Inherited sockets that no listener uses yet.
    given: InheritedSockets,
    /// Accepting is held back.
    held: bool,
}

struct OpenSocket {
    socket: Arc<TcpListener>,
    listener: String,
    accepting: Option<JoinHandle<()>>,
}

/// Sockets bound for a configuration that is not applied yet.
pub(super) struct BoundSockets(Vec<(SocketKey, Arc<TcpListener>)>);

impl Listeners {
    /// `given` are the inherited sockets. `held`: nothing is accepted until [`open`](Self::open). `workers`
    /// accept and serve connections.
    pub(super) fn new(given: InheritedSockets, held: bool, workers: Handle) -> Self {
        let (open, shutdowns, closing) = (HashMap::new(), HashMap::new(), Vec::new());
        Self { workers, open, shutdowns, closing, given, held }
    }

    /// Binds the addresses that are not open yet.
    ///
    /// # Errors
    /// An address cannot be bound; the error names it. No new socket stays bound.
    pub(super) fn bind(
        &mut self,
        listeners: &[config::ListenerConfig],
    ) -> io::Result<BoundSockets> {
        // The workers wait for connections on these sockets.
        let workers = self.workers.clone();
        let _context = workers.enter();
        let mut bound = Vec::new();
        for (listener, key) in keys(listeners) {
            if self.open.contains_key(&key) {
                continue;
            }
            let socket = self.obtain(&key).map_err(|error| {
                bind_error::explained(&format!("listener {}", listener.name), key.address, &error)
            })?;
            bound.push((key, Arc::new(socket)));
        }
        Ok(BoundSockets(bound))
    }

    fn obtain(&mut self, key: &SocketKey) -> io::Result<TcpListener> {
        match self.given.tcp(&Purpose::Listener(key.clone()))? {
            Some(given) => TcpListener::from_std(given),
            None => listener::bind_one(key.address),
        }
    }

    /// Starts to accept connections, if that was held back.
    pub(super) fn open(&mut self, proxy: &Arc<SharedState>) {
        self.held = false;
        for open in self.open.values_mut() {
            let Some((_, watch)) = self.shutdowns.get(&open.listener) else { continue };
            let name = mem::take(&mut open.listener);
            open.serve(&name, watch.clone(), proxy, &self.workers);
        }
    }

    /// Closes inherited sockets that no listener uses.
    pub(super) fn close_unclaimed(&mut self) {
        mem::take(&mut self.given).close_rest();
    }

    /// Duplicates the descriptor of every socket, for another process.
    ///
    /// # Errors
    /// The process has no free descriptor.
    pub(super) fn copies(&self) -> io::Result<Vec<(Purpose, OwnedFd)>> {
        let copy = |(key, open): (&SocketKey, &OpenSocket)| {
            Ok((Purpose::Listener(key.clone()), inherited::copy(&*open.socket)?))
        };
        self.open.iter().map(copy).collect()
    }

    /// Accepts on the bound sockets, moves open sockets to their new listener, and closes the others. Call
    /// it when the snapshot has the listeners.
    pub(super) fn replace(
        &mut self,
        listeners: &[config::ListenerConfig],
        bound: BoundSockets,
        proxy: &Arc<SharedState>,
    ) {
        for (key, socket) in bound.0 {
            let open = OpenSocket { socket, listener: String::new(), accepting: None };
            self.open.insert(key, open);
        }
        let wanted: HashMap<SocketKey, &str> =
            keys(listeners).map(|(listener, key)| (key, listener.name.as_str())).collect();
        self.open.retain(|key, open| {
            let keep = wanted.contains_key(key);
            if !keep {
                open.stop();
            }
            keep
        });
        self.close_removed(|name| listeners.iter().any(|listener| listener.name == name));
        for (key, name) in wanted {
            let watch =
                self.shutdowns.entry(name.to_owned()).or_insert_with(shutdown::channel).1.clone();
            match self.open.get_mut(&key) {
                Some(open) if self.held => name.clone_into(&mut open.listener),
                Some(open) => open.serve(name, watch, proxy, &self.workers),
                None => {}
            }
        }
    }

    /// Returns the bound addresses by listener name, in the order of the configuration.
    pub(super) fn addresses(
        &self,
        listeners: &[config::ListenerConfig],
    ) -> Vec<(String, SocketAddr)> {
        keys(listeners)
            .filter_map(|(listener, key)| {
                let address = self.open.get(&key)?.socket.local_addr().ok()?;
                Some((listener.name.clone(), address))
            })
            .collect()
    }

    /// Stops accepting on all sockets, and ends connections gracefully.
    pub(super) fn close_all(&mut self) {
        for (_, mut open) in self.open.drain() {
            open.stop();
        }
        self.close_removed(|_| false);
        self.finish();
    }

    /// Stops accepting on all sockets, because another process accepts on them. Connections end at the next
    /// point that clients do not notice.
    pub(super) fn close_after_response(&mut self) {
        for (_, mut open) in self.open.drain() {
            open.stop();
        }
        for (_, (trigger, _)) in self.shutdowns.drain() {
            trigger.close_after_response();
            self.closing.push(trigger);
        }
    }

    /// Ends the connections of removed listeners gracefully.
    pub(super) fn finish(&self) {
        self.closing.iter().for_each(shutdown::Trigger::graceful);
    }

    /// Ends the connections of removed listeners at once.
    pub(super) fn force(&self) {
        self.closing.iter().for_each(shutdown::Trigger::force);
    }

    /// Resolves when every connection and tunnel of the removed listeners has ended.
    pub(super) async fn idle(&self) {
        for trigger in &self.closing {
            trigger.idle().await;
        }
    }

    /// Ends connections of listeners that do not stay.
    fn close_removed(&mut self, stays: impl Fn(&str) -> bool) {
        self.closing.retain(|trigger| trigger.live() > 0);
        let removed: Vec<String> =
            self.shutdowns.keys().filter(|name| !stays(name.as_str())).cloned().collect();
        for name in removed {
            if let Some((trigger, _)) = self.shutdowns.remove(&name) {
                trigger.graceful();
                self.closing.push(trigger);
            }
        }
    }
}

impl OpenSocket {
    fn serve(
        &mut self,
        name: &str,
        watch: shutdown::Watch,
        proxy: &Arc<SharedState>,
        workers: &Handle,
    ) {
        if self.accepting.is_some() && self.listener == name {
            return;
        }
        self.stop();
        name.clone_into(&mut self.listener);
        let metrics = proxy.metrics.listener(name);
        let (proxy, name) = (Arc::clone(proxy), Arc::from(name));
        let handle = ListenerHandle { proxy, name, metrics, drain: watch };
        self.accepting = Some(workers.spawn(conn::accept(Arc::clone(&self.socket), handle)));
    }

    /// Stops accepting. Accepting is cancel-safe: other connections wait in the kernel's queue.
    fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }
}

fn keys(
    listeners: &[config::ListenerConfig],
) -> impl Iterator<Item = (&config::ListenerConfig, SocketKey)> {
    listeners.iter().flat_map(|listener| {
        listener.bind.iter().enumerate().map(move |(place, &address)| {
            let of = (address.port() == 0).then(|| (listener.name.clone(), place));
            (listener, SocketKey { address, of })
        })
    })
}
