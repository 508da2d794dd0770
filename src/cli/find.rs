//! Finds the admin socket of a command: the socket of `--socket`, else the only one of this user.
//!
//! A command never guesses. If the only process belongs to another user, or there are several, the
//! error lists their sockets, and `--socket` selects one.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{anyhow, bail};
use rustix::process::geteuid;
use tokio::{net::UnixStream, time::timeout};

use super::client::{Process, identify};
use crate::admin::{SocketPlaces, places};

/// Deadline of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected socket.
pub(super) struct FoundSocket {
    pub(super) stream: UnixStream,
    /// The user of the process, if it is not the current user.
    pub(super) user: Option<String>,
}

/// Connects to a socket.
///
/// # Errors
/// The socket cannot be reached; the text says what to do.
pub(super) async fn connect(path: &Path) -> anyhow::Result<FoundSocket> {
    let stream = open(path).await.map_err(|error| anyhow!(unreachable(path, &error)))?;
    let user = owner(path).filter(|uid| *uid != geteuid().as_raw()).map(user_name);
    Ok(FoundSocket { stream, user })
}

/// Returns the socket of the only running process of this user.
///
/// # Errors
/// There is no process, or there are several; the text names them.
pub(super) async fn only_socket() -> anyhow::Result<PathBuf> {
    let places = places();
    let mut running = Vec::new();
    for path in sockets(&places.folders) {
        match open(&path).await {
            Ok(stream) if is_own(&stream, &path) => running.push(path),
            Err(error) if is_slow(error.kind()) => running.push(path),
            _ => {}
        }
    }
    match &running[..] {
        [only] => Ok(only.clone()),
        [] => bail!(none_found(&places)),
        several => bail!(ambiguous(several).await),
    }
}

async fn open(path: &Path) -> io::Result<UnixStream> {
    let connected = timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Whether a process listens but does not accept; `WouldBlock` means that its queue is full.
fn is_slow(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// Whether a process of this user listens. Root may use the processes of all users.
fn is_own(stream: &UnixStream, path: &Path) -> bool {
    let own = geteuid().as_raw();
    // The service manager creates a passed socket as root; the owner of the file is the user.
    let listener = stream.peer_cred().ok().map(|peer| peer.uid());
    own == 0 || listener == Some(own) || (listener == Some(0) && owner(path) == Some(own))
}

/// Admin sockets in these directories, in order: the default name first, then the numbered ones.
fn sockets(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut here: Vec<PathBuf> = entries
            .filter(|entry| entry.file_name().to_str().is_some_and(SocketPlaces::is_socket_name))
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
            .map(|entry| entry.path())
            .collect();
        here.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
        found.extend(here);
    }
    found
}

/// Returns the message if no process was found.
fn none_found(places: &SocketPlaces) -> String {
    let folders: Vec<String> = places.folders.iter().map(|f| f.display().to_string()).collect();
    let first =
        places.folders.first().map(|folder| SocketPlaces::default_path(folder)).unwrap_or_default();
    let by = places.set_by.map(|name| format!(" (${name} is set)")).unwrap_or_default();
    let mut text = format!(
        "no running Moorline of user {} was found: no process listens on {}, or on another socket in {}{by}",
        user_name(geteuid().as_raw()),
        first.display(),
        folders.join(", "),
    );
    let others: Vec<String> = sockets(&places.unsearched)
        .iter()
        .map(|path| {
            format!("{} (user {})", path.display(), owner(path).map_or("?".into(), user_name))
        })
        .collect();
    if others.is_empty() {
        text.push_str("; start it, or name its socket with --socket");
    } else {
        text.push_str(&format!(
            "; other processes on this host have {}: name the one you mean with --socket, as its user or with sudo",
            others.join(", ")
        ));
    }
    text
}

/// Returns the message if several processes were found.
async fn ambiguous(several: &[PathBuf]) -> String {
    let mut text = "several Moorline processes are running; name one with --socket:".to_owned();
    for path in several {
        let process = identify(path).await.unwrap_or_else(|_| Process::unresponsive(path));
        text.push_str(&format!("\n  --socket {}   {}", path.display(), process.short()));
    }
    text
}

fn owner(path: &Path) -> Option<u32> {
    fs::symlink_metadata(path).ok().map(|meta| meta.uid())
}

/// Returns the name of a user, or the number if the user has no name.
pub(super) fn user_name(uid: u32) -> String {
    crate::config::user_name(uid)
}

/// Returns the message if a socket cannot be used, with advice.
pub(super) fn unreachable(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => format!(
            "there is no socket {shown}: Moorline is not running, or `admin.socket` of its configuration \
             names another path"
        ),
        io::ErrorKind::ConnectionRefused => format!(
            "no process listens on {shown}: the process that made it has ended, or it is not a socket; \
             start Moorline again"
        ),
        io::ErrorKind::PermissionDenied => {
            let user = owner(path).map_or("another user".to_owned(), user_name);
            format!("{shown} belongs to {user}: run this command as that user, or with sudo")
        }
        kind if is_slow(kind) => {
            format!("{shown} does not accept connections: the process may hang; see its log")
        }
        _ => format!("cannot connect to {shown}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_errors_have_advice() {
        let message = |kind: io::ErrorKind| unreachable(Path::new("/run/m.sock"), &kind.into());
        assert!(message(io::ErrorKind::PermissionDenied).contains("sudo"));
        assert!(message(io::ErrorKind::NotFound).contains("is not running"));
        assert!(message(io::ErrorKind::ConnectionRefused).contains("has ended"));
        assert!(message(io::ErrorKind::WouldBlock).contains("does not accept connections"));
    }
}
