//! Reads the drain of the pool in front, if the proxy is a Moorline on this machine.
//!
//! Uses the admin API like any other program; shares no code with the proxy.

use std::{
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::process::geteuid;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

/// Timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum bytes of a reply.
const MAX_REPLY: usize = 64 << 20;

/// The pool whose backends are the nodes of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProxyPool {
    /// Admin socket of the proxy.
    socket: PathBuf,
    /// Name of the pool.
    pool: String,
    /// How long a backend that is removed from the list keeps its sessions.
    drain: Duration,
}

impl ProxyPool {
    /// Finds the pool that contains one of these nodes: in the proxy behind `socket`, or in one behind a
    /// default socket. `None`: no such pool; the proxy in front may be another program.
    ///
    /// # Errors
    ///
    /// `socket` was given, but no admin API answers there.
    pub(super) async fn find(
        socket: Option<&Path>,
        nodes: &[SocketAddr],
    ) -> anyhow::Result<Option<Self>> {
        if let Some(socket) = socket {
            let shown = socket.display();
            let found = Self::in_proxy(socket, nodes).await;
            return found.with_context(|| format!("--socket {shown}: no admin API answers"));
        }
        for socket in default_sockets() {
            if let Ok(Some(found)) = Self::in_proxy(&socket, nodes).await {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn in_proxy(socket: &Path, nodes: &[SocketAddr]) -> io::Result<Option<Self>> {
        let Pools { pools } = get(socket, "/v1/pools").await?;
        let nodes: Vec<_> = nodes.iter().map(SocketAddr::to_string).collect();
        let contains_node =
            |pool: &Pool| pool.backends.iter().any(|known| nodes.contains(&known.address));
        let Some(Pool { name, .. }) = pools.into_iter().find(contains_node) else {
            return Ok(None);
        };
        let Config { pools } = get(socket, "/v1/config").await?;
        let within = pools.into_iter().find(|pool| pool.name == name).map(|pool| pool.drain.within);
        let drain = within.and_then(|within| Duration::try_from_secs_f64(within).ok());
        Ok(drain.map(|drain| Self { socket: socket.to_owned(), pool: name, drain }))
    }

    /// Returns a warning if the pool drains for longer than `drain`.
    pub(super) fn warning(&self, drain: Duration) -> Option<String> {
        let (given, needed) =
            (humantime::format_duration(drain), humantime::format_duration(self.drain));
        (self.drain > drain).then(|| {
            format!(
                "warning: --drain is {given}, but pool {} of the Moorline on {} drains for {needed}: clients \
                 that are still connected to a node after {given} are lost with it; use --drain {needed}, or set a \
                 shorter `drain` in the pool",
                self.pool,
                self.socket.display(),
            )
        })
    }
}

/// Reply of `GET /v1/pools`, as far as it is used.
#[derive(Deserialize)]
struct Pools {
    pools: Vec<Pool>,
}

#[derive(Deserialize)]
struct Pool {
    name: String,
    backends: Vec<Backend>,
}

#[derive(Deserialize)]
struct Backend {
    address: String,
}

/// Reply of `GET /v1/config`, as far as it is used.
#[derive(Deserialize)]
struct Config {
    pools: Vec<PoolConfig>,
}

#[derive(Deserialize)]
struct PoolConfig {
    name: String,
    drain: Drain,
}

#[derive(Deserialize)]
struct Drain {
    /// Seconds.
    within: f64,
}

/// Returns the paths where a Moorline may have its admin socket by default: see `admin.socket` in its
/// documentation.
fn default_sockets() -> Vec<PathBuf> {
    let named = env::var_os("MOORLINE_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from);
    let user = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = env::temp_dir().join(format!("moorline-{}", geteuid().as_raw()));
    let unit = |folder: &PathBuf| folder.join("moorline");
    let system = PathBuf::from("/run");
    let units = [user.as_ref().map(unit), Some(unit(&system))];
    let folders = [user, Some(system), Some(own)].into_iter().chain(units).flatten();
    named.into_iter().chain(folders.flat_map(|folder| sockets_in(&folder))).collect()
}

/// Returns the admin sockets in a folder. Each Moorline process has its own.
fn sockets_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("moorline"))
        })
        .collect()
}

async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> io::Result<T> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let request = Request::get(path)
            .header(header::HOST, "localhost")
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let reply = async {
            let reply = sender.send_request(request).await.map_err(io::Error::other)?;
            if !reply.status().is_success() {
                return Err(io::Error::other(format!("the reply is {}", reply.status())));
            }
            let body = Limited::new(reply.into_body(), MAX_REPLY).collect().await;
            Ok(body.map_err(io::Error::other)?.to_bytes())
        };
        let body = tokio::select! {
            body = reply => body?,
            // The connection fails before the reader of the reply sees the error.
            Err(error) = connection => return Err(io::Error::other(error)),
        };
        serde_json::from_slice(&body).map_err(io::Error::other)
    };
    timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
