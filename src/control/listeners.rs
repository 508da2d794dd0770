//! Listening sockets across reloads.
//!
//! A socket is known by the address it was asked for. One that stays in the configuration is never
//! closed, whatever else of its listener changes; new ones are bound before anything else happens,
//! so that one that cannot be is a refused reload. Those that this process was given are taken before
//! any is bound, and all of them can be given to the next process.

use std::{collections::HashMap, io, mem, net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use tokio::{net::TcpListener, task::JoinHandle};

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

/// Every listening socket, and the drains of the listeners they belong to.
#[derive(Default)]
pub(super) struct Listeners {
    open: HashMap<SocketKey, OpenSocket>,
    /// One drain a listener, by name.
    drains: HashMap<String, (shutdown::Trigger, shutdown::Watch)>,
    /// Drains of listeners that are gone.
    leaving: Vec<shutdown::Trigger>,
    /// Sockets that need not be bound.
    given: InheritedSockets,
    /// Nothing is accepted yet.
    held: bool,
}

struct OpenSocket {
    socket: Arc<TcpListener>,
    listener: String,
    accepting: Option<JoinHandle<()>>,
}

/// Sockets bound for a configuration that is not in force yet.
pub(super) struct Bound(Vec<(SocketKey, Arc<TcpListener>)>);

impl Listeners {
    /// With sockets that need not be bound. `held`: nothing is accepted until [`open`](Self::open).
    pub(super) fn new(given: InheritedSockets, held: bool) -> Self {
        Self { given, held, ..Self::default() }
    }

    /// Binds what `listeners` ask for beyond what is open.
    ///
    /// # Errors
    /// The first address that cannot be bound, named. Nothing is left bound then.
    pub(super) fn bind(&mut self, listeners: &[config::ListenerConfig]) -> io::Result<Bound> {
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
        Ok(Bound(bound))
    }

    fn obtain(&mut self, key: &SocketKey) -> io::Result<TcpListener> {
        match self.given.tcp(&Purpose::Listener(key.clone()))? {
            Some(given) => TcpListener::from_std(given),
            None => listener::bind_one(key.address),
        }
    }

    /// Begins to accept, where that was held back.
    pub(super) fn open(&mut self, proxy: &Arc<SharedState>) {
        self.held = false;
        for open in self.open.values_mut() {
            let Some((_, watch)) = self.drains.get(&open.listener) else { continue };
            let name = mem::take(&mut open.listener);
            open.serve(&name, watch.clone(), proxy);
        }
    }

    /// Closes given sockets that no listener has asked for.
    pub(super) fn close_given(&mut self) {
        mem::take(&mut self.given).close_rest();
    }

    /// Descriptors of every socket, for another process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn copies(&self) -> io::Result<Vec<(Purpose, OwnedFd)>> {
        let copy = |(key, open): (&SocketKey, &OpenSocket)| {
            Ok((Purpose::Listener(key.clone()), inherited::copy(&*open.socket)?))
        };
        self.open.iter().map(copy).collect()
    }

    /// Opens what was bound, hands sockets that changed their listener over, closes the rest. To be
    /// called once the snapshot knows the listeners.
    pub(super) fn settle(
        &mut self,
        listeners: &[config::ListenerConfig],
        bound: Bound,
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
        self.leave(|name| listeners.iter().any(|listener| listener.name == name));
        for (key, name) in wanted {
            let watch =
                self.drains.entry(name.to_owned()).or_insert_with(shutdown::channel).1.clone();
            match self.open.get_mut(&key) {
                Some(open) if self.held => name.clone_into(&mut open.listener),
                Some(open) => open.serve(name, watch, proxy),
                None => {}
            }
        }
    }

    /// Addresses listened on, by listener name, in the order of the configuration.
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

    /// Stops accepting everywhere and asks every connection to finish.
    pub(super) fn close_all(&mut self) {
        for (_, mut open) in self.open.drain() {
            open.stop();
        }
        self.leave(|_| false);
        self.finish();
    }

    /// Stops accepting everywhere, for another process does; connections end when nobody notices.
    pub(super) fn part(&mut self) {
        for (_, mut open) in self.open.drain() {
            open.stop();
        }
        for (_, (trigger, _)) in self.drains.drain() {
            trigger.part();
            self.leaving.push(trigger);
        }
    }

    /// Asks every connection of a closed door to finish.
    pub(super) fn finish(&self) {
        self.leaving.iter().for_each(shutdown::Trigger::graceful);
    }

    /// Asks every connection of a closed door to stop at once.
    pub(super) fn force(&self) {
        self.leaving.iter().for_each(shutdown::Trigger::force);
    }

    /// Resolves when every connection and tunnel of the closed doors has ended.
    pub(super) async fn idle(&self) {
        for drain in &self.leaving {
            drain.idle().await;
        }
    }

    fn leave(&mut self, stays: impl Fn(&str) -> bool) {
        self.leaving.retain(|drain| drain.live() > 0);
        let gone: Vec<String> =
            self.drains.keys().filter(|name| !stays(name.as_str())).cloned().collect();
        for name in gone {
            if let Some((trigger, _)) = self.drains.remove(&name) {
                trigger.graceful();
                self.leaving.push(trigger);
            }
        }
    }
}

impl OpenSocket {
    fn serve(&mut self, name: &str, drain: shutdown::Watch, proxy: &Arc<SharedState>) {
        if self.accepting.is_some() && self.listener == name {
            return;
        }
        self.stop();
        name.clone_into(&mut self.listener);
        let metrics = proxy.metrics.listener(name);
        let door =
            ListenerHandle { proxy: Arc::clone(proxy), name: Arc::from(name), metrics, drain };
        self.accepting = Some(tokio::spawn(conn::accept(Arc::clone(&self.socket), door)));
    }

    /// Accepting is cancel-safe: what was not accepted waits in the kernel's queue.
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
