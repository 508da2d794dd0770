//! The operator's sockets as values: bound or given before anything runs, served, and in the end left
//! to a successor or closed.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{net::TcpListener, task::JoinSet};

use super::{
    handlers::AdminState,
    server::{self, AdminListener, AdminService},
    service::Api,
    socket::{SocketFile, UnixSocket},
};
use crate::{
    config::{Admin, AdminRemote, AdminSocket},
    control::ControlHandle,
    net::{
        bind_error,
        inherited::{self, InheritedSockets, Purpose},
        listener,
    },
    shutdown,
};

/// Bound sockets.
#[derive(Debug)]
pub struct AdminSockets {
    metrics: Option<Tcp>,
    socket: Option<UnixSocket>,
    remote: Option<Tcp>,
}

/// A socket, and what it is known by to the next process: its configured address.
#[derive(Debug)]
struct Tcp {
    purpose: Purpose,
    listener: TcpListener,
}

impl AdminSockets {
    /// Takes what was given and binds the rest of what is configured. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// An address or a path that cannot be listened on, named. That the usual place is another
    /// process's is none: this one then has no unix socket, and says so.
    pub fn bind(config: &Admin, given: &mut InheritedSockets) -> io::Result<Self> {
        let mut tcp = |address: Option<SocketAddr>, purpose: fn(SocketAddr) -> Purpose| {
            address.map(|address| Tcp::bind(address, purpose(address), given)).transpose()
        };
        let metrics = tcp(config.metrics, Purpose::Metrics)?;
        let remote = tcp(config.remote.as_ref().map(|r| r.address), Purpose::AdminRemote)?;
        Ok(Self { metrics, remote, socket: bind_unix(&config.socket, given)? })
    }

    /// Serves. `remote` has the token of the API over TCP, which is not served without.
    pub fn serve(
        self,
        state: AdminState,
        operator: &ControlHandle,
        remote: Option<&AdminRemote>,
    ) -> ServedAdminSockets {
        let metrics = Arc::clone(&state.metrics);
        let (leave, stay) = shutdown::channel();
        let (mut tasks, mut sockets) = (JoinSet::new(), Vec::new());
        let mut spawn = |purpose, socket: AdminListener, service| {
            let task = server::serve(socket.clone(), service, Arc::clone(&metrics), stay.clone());
            tasks.spawn(task);
            sockets.push((purpose, socket));
        };
        if let Some(Tcp { purpose, listener }) = self.metrics {
            let service = AdminService::Metrics(Arc::new(state));
            spawn(purpose, AdminListener::Tcp(Arc::new(listener)), service);
        }
        if let Some(socket) = &self.socket {
            socket.own();
            let purpose = socket.purpose();
            let service = AdminService::Api(Arc::new(Api::new(operator.clone(), None)));
            spawn(purpose, AdminListener::Unix(socket.listener()), service);
        }
        if let (Some(Tcp { purpose, listener }), Some(remote)) = (self.remote, remote) {
            let api = Api::new(operator.clone(), Some(&remote.token));
            spawn(
                purpose,
                AdminListener::Tcp(Arc::new(listener)),
                AdminService::Api(Arc::new(api)),
            );
        }
        let file = self.socket.map(UnixSocket::into_file);
        ServedAdminSockets { sockets: Mutex::new(sockets), file, leave, _tasks: tasks }
    }

    /// Address of metrics and readiness.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|tcp| tcp.listener.local_addr().ok())
    }

    /// Path of the unix socket.
    pub fn path(&self) -> Option<&Path> {
        self.socket.as_ref().map(UnixSocket::path)
    }

    /// Address of the API over TCP.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.remote.as_ref().and_then(|tcp| tcp.listener.local_addr().ok())
    }
}

impl Tcp {
    fn bind(
        address: SocketAddr,
        purpose: Purpose,
        given: &mut InheritedSockets,
    ) -> io::Result<Self> {
        let listener = match given.tcp(&purpose) {
            Ok(Some(socket)) => TcpListener::from_std(socket),
            Ok(None) => listener::bind_one(address),
            Err(error) => Err(error),
        };
        let whose = match purpose {
            Purpose::Metrics(_) => "metrics",
            _ => "admin API",
        };
        let listener = listener.map_err(|error| bind_error::explained(whose, address, &error));
        Ok(Self { purpose, listener: listener? })
    }
}

/// Admin sockets that are served until this value is dropped, which also removes the file of the unix
/// socket.
#[derive(Debug)]
pub struct ServedAdminSockets {
    /// With what the next process knows them by; empty once they are left to it.
    sockets: Mutex<Vec<(Purpose, AdminListener)>>,
    file: Option<SocketFile>,
    leave: shutdown::Trigger,
    _tasks: JoinSet<()>,
}

impl ServedAdminSockets {
    /// Descriptors of the sockets, for another process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn copies(&self) -> io::Result<Vec<(Purpose, OwnedFd)>> {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let copies = sockets.iter().map(|(purpose, socket)| {
            let copy = match socket {
                AdminListener::Tcp(socket) => inherited::copy(&**socket),
                AdminListener::Unix(socket) => inherited::copy(&**socket),
            };
            Ok((purpose.clone(), copy?))
        });
        copies.collect()
    }

    /// Leaves the sockets to a process that has them now: accepts nothing any more, answers what is
    /// being asked, and keeps the unix socket's file.
    pub fn hand_over(&self) {
        if let Some(file) = &self.file {
            file.leave();
        }
        self.leave.graceful();
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Resolves when no connection is left, after [`hand_over`](Self::hand_over).
    pub async fn idle(&self) {
        self.leave.idle().await;
    }
}

/// The socket of the process before; none where its file is gone, so that nobody finds it any more.
fn taken_over(path: &Path, given: &mut InheritedSockets) -> io::Result<Option<UnixSocket>> {
    let take = |given: inherited::InheritedUnixSocket| match given.passed {
        true => UnixSocket::passed(given.listener, path),
        false => UnixSocket::over(given.listener, path),
    };
    let socket = given.unix(path).and_then(|given| given.map(take).transpose());
    match socket {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), "the file of the admin socket was removed; making a new socket");
            Ok(None)
        }
        Err(error) => {
            let text = format!("cannot use the admin socket {}: {error}", path.display());
            Err(io::Error::new(error.kind(), text))
        }
        taken => taken,
    }
}

fn bind_unix(place: &AdminSocket, given: &mut InheritedSockets) -> io::Result<Option<UnixSocket>> {
    let known = match place {
        AdminSocket::Off => return Ok(None),
        AdminSocket::At(path) => Some(path.clone()),
        AdminSocket::Usual => given.admin_path().map(Path::to_owned),
    };
    if let Some(path) = &known
        && let Some(socket) = taken_over(path, given)?
    {
        return Ok(Some(socket));
    }
    match place {
        AdminSocket::At(path) => UnixSocket::bind(path).map(Some),
        _ => Ok(UnixSocket::bind_usual()
            .inspect_err(|why| {
                tracing::warn!(
                    "there is no admin socket, so commands cannot reach this process: {why}; set `socket` in \
                     `[admin]` or --admin-socket"
                );
            })
            .ok()),
    }
}
