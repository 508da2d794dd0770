//! Which process a command is for: the one whose socket is named, else the only one of this user.
//!
//! Nothing is guessed. A command that would reach another user's process, or one of several, is
//! refused with the sockets that there are; `--socket` names the one that is meant.

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

/// Deadline of a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A socket that answers.
pub(super) struct FoundSocket {
    pub(super) stream: UnixStream,
    /// The user whose process this is, where that is not the one who asks.
    pub(super) user: Option<String>,
}

/// Connects to a socket that was named.
///
/// # Errors
/// Why it cannot be reached, and what to do.
pub(super) async fn named(path: &Path) -> anyhow::Result<FoundSocket> {
    let stream = connect(path).await.map_err(|error| anyhow!(unreachable(path, &error)))?;
    let user = owner(path).filter(|uid| *uid != geteuid().as_raw()).map(name_of);
    Ok(FoundSocket { stream, user })
}

/// The path of the only process of this user that answers.
///
/// # Errors
/// There is none, or several; the text names them.
pub(super) async fn only() -> anyhow::Result<PathBuf> {
    let places = places();
    let mut answering = Vec::new();
    for path in sockets(&places.folders) {
        match connect(&path).await {
            Ok(stream) if is_own(&stream, &path) => answering.push(path),
            Err(error) if is_slow(error.kind()) => answering.push(path),
            _ => {}
        }
    }
    match &answering[..] {
        [only] => Ok(only.clone()),
        [] => bail!(none(&places)),
        several => bail!(ambiguous(several).await),
    }
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    let connected = timeout(CONNECT_WITHIN, UnixStream::connect(path)).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Whether a process listens that does not accept: `WouldBlock` says that its queue is full.
fn is_slow(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// Whether a process of this user listens; root may speak to everybody's.
fn is_own(stream: &UnixStream, path: &Path) -> bool {
    let own = geteuid().as_raw();
    // A socket that the service manager passes was made by root; then the file says whose it is.
    let listener = stream.peer_cred().ok().map(|peer| peer.uid());
    own == 0 || listener == Some(own) || (listener == Some(0) && owner(path) == Some(own))
}

/// Admin sockets in these folders, in their order: the usual one, then those of further processes.
fn sockets(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut here: Vec<PathBuf> = entries
            .filter(|entry| entry.file_name().to_str().is_some_and(SocketPlaces::is_name))
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
            .map(|entry| entry.path())
            .collect();
        here.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
        found.extend(here);
    }
    found
}

/// The sentence for no process at all.
fn none(places: &SocketPlaces) -> String {
    let folders: Vec<String> = places.folders.iter().map(|f| f.display().to_string()).collect();
    let first =
        places.folders.first().map(|folder| SocketPlaces::usual(folder)).unwrap_or_default();
    let by = places.set_by.map(|name| format!(" (${name} is set)")).unwrap_or_default();
    let mut text = format!(
        "no running Moorline of user {} was found: no process listens on {}, or on another socket in {}{by}",
        name_of(geteuid().as_raw()),
        first.display(),
        folders.join(", "),
    );
    let others: Vec<String> = sockets(&places.elsewhere)
        .iter()
        .map(|path| {
            format!("{} (user {})", path.display(), owner(path).map_or("?".into(), name_of))
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

/// The lines for several processes.
async fn ambiguous(several: &[PathBuf]) -> String {
    let mut text = "several Moorline processes are running; name one with --socket:".to_owned();
    for path in several {
        let process = identify(path).await.unwrap_or_else(|_| Process::silent(path));
        text.push_str(&format!("\n  --socket {}   {}", path.display(), process.short()));
    }
    text
}

fn owner(path: &Path) -> Option<u32> {
    fs::symlink_metadata(path).ok().map(|meta| meta.uid())
}

/// A user's name, else the number.
pub(super) fn name_of(uid: u32) -> String {
    crate::config::user_name(uid)
}

/// Why a socket cannot be used, and what to do.
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
            let whose = owner(path).map_or("another user".to_owned(), name_of);
            format!("{shown} belongs to {whose}: run this command as that user, or with sudo")
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
    fn each_way_of_not_reaching_a_process_says_what_to_do() {
        let said = |kind: io::ErrorKind| unreachable(Path::new("/run/m.sock"), &kind.into());
        assert!(said(io::ErrorKind::PermissionDenied).contains("sudo"));
        assert!(said(io::ErrorKind::NotFound).contains("is not running"));
        assert!(said(io::ErrorKind::ConnectionRefused).contains("has ended"));
        assert!(said(io::ErrorKind::WouldBlock).contains("does not accept connections"));
    }
}
