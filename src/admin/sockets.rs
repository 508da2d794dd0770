//! The operator's sockets as values: bound before anything runs, served, and in the end left to a
//! successor or closed.

use std::{io, net::SocketAddr, path::Path, sync::Arc};

use tokio::{net::TcpListener, task::JoinSet};

use super::{
    handlers::State,
    server::{self, Service, Socket},
    service::Api,
    socket::UnixSocket,
};
use crate::{
    config::{Admin, AdminRemote, AdminSocket},
    control::Operator,
    drain,
    net::listener,
};

/// Bound sockets. A process that takes over from another fills in what it was handed and has
/// [`bind_missing`](Self::bind_missing) bind the rest.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Of metrics and readiness.
    pub metrics: Option<TcpListener>,
    /// Of the API.
    pub socket: Option<UnixSocket>,
    /// Of the API over TCP.
    pub remote: Option<TcpListener>,
}

impl Sockets {
    /// Binds everything that is configured. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// An address or a path that cannot be listened on, named. That the usual place is another
    /// process's is none: this one then has no unix socket, and says so.
    pub fn bind(config: &Admin) -> io::Result<Self> {
        Self::default().bind_missing(config)
    }

    /// Binds what is configured and not there yet.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_missing(mut self, config: &Admin) -> io::Result<Self> {
        if let (Some(address), None) = (config.metrics, &self.metrics) {
            self.metrics = Some(bind_tcp(address)?);
        }
        if let (Some(remote), None) = (&config.remote, &self.remote) {
            self.remote = Some(bind_tcp(remote.address)?);
        }
        if self.socket.is_none() {
            self.socket = bind_unix(&config.socket)?;
        }
        Ok(self)
    }

    /// Serves. `remote` has the token of the API over TCP, which is not served without.
    pub fn serve(self, state: State, operator: &Operator, remote: Option<&AdminRemote>) -> Serving {
        let metrics = Arc::clone(&state.metrics);
        let (leave, stay) = drain::channel();
        let mut tasks = JoinSet::new();
        let mut spawn = |socket, service| {
            tasks.spawn(server::serve(socket, service, Arc::clone(&metrics), stay.clone()));
        };
        let tcp = self.metrics.map(Arc::new);
        if let Some(socket) = &tcp {
            spawn(Socket::Tcp(Arc::clone(socket)), Service::Metrics(Arc::new(state)));
        }
        if let Some(socket) = &self.socket {
            let api = Api::new(operator.clone(), None);
            spawn(Socket::Unix(Arc::clone(&socket.listener)), Service::Api(Arc::new(api)));
        }
        let far = self.remote.map(Arc::new);
        if let (Some(socket), Some(remote)) = (&far, remote) {
            let api = Api::new(operator.clone(), Some(&remote.token));
            spawn(Socket::Tcp(Arc::clone(socket)), Service::Api(Arc::new(api)));
        }
        Serving { metrics: tcp, socket: self.socket, remote: far, leave, _tasks: tasks }
    }

    /// Address of metrics and readiness.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|socket| socket.local_addr().ok())
    }

    /// Path of the unix socket.
    pub fn path(&self) -> Option<&Path> {
        self.socket.as_ref().map(UnixSocket::path)
    }

    /// Address of the API over TCP.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.remote.as_ref().and_then(|socket| socket.local_addr().ok())
    }
}

/// Sockets that are served until this is dropped; the unix socket's file goes with it.
#[derive(Debug)]
pub struct Serving {
    /// Of metrics and readiness.
    pub metrics: Option<Arc<TcpListener>>,
    /// Of the API.
    pub socket: Option<UnixSocket>,
    /// Of the API over TCP.
    pub remote: Option<Arc<TcpListener>>,
    leave: drain::Trigger,
    _tasks: JoinSet<()>,
}

impl Serving {
    /// Leaves the sockets to a process that has them now: accepts nothing any more, answers what is
    /// being asked, and keeps the unix socket's file.
    pub fn hand_over(&self) {
        if let Some(socket) = &self.socket {
            socket.leave();
        }
        self.leave.graceful();
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    listener::bind_one(address)
        .map_err(|error| io::Error::new(error.kind(), format!("admin: bind {address}: {error}")))
}

fn bind_unix(place: &AdminSocket) -> io::Result<Option<UnixSocket>> {
    match place {
        AdminSocket::Off => Ok(None),
        AdminSocket::At(path) => UnixSocket::bind(path).map(Some),
        AdminSocket::Usual => Ok(UnixSocket::bind_usual()
            .inspect_err(|why| {
                tracing::warn!(%why, "no admin socket; another place can be named in `admin`");
            })
            .ok()),
    }
}
