//! The unix socket of the API: its path, its permissions, and the ownership of its file.
//!
//! Only its owner can connect, from the moment the file exists. The socket file of a dead process is
//! replaced, the socket of a running process never is. The file is removed at the end, unless another
//! process has replaced it or taken it over, or the service manager made it.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt},
        net::UnixListener as Listener,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    fs::{Access, FlockOperation, Mode, OFlags, access, flock},
    io::Errno,
    process::{geteuid, umask},
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::net::inherited::Purpose;

use places::{DEFAULT_NAME, RUN, is_numbered, is_private, own_folder, runtime_folder, unit_folder};
pub use places::{SocketPlaces, places};

mod places;
#[cfg(test)]
mod tests;

/// Number of attempts to lock a directory, and the pause between two attempts.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Returns advice for a socket that cannot be bound.
fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder that this user can write to, with `socket` in `[admin]` or --admin-socket"
        }
        io::ErrorKind::NotFound => {
            "; create the folder, or choose another one with `socket` in `[admin]` or --admin-socket"
        }
        _ => "",
    }
}

/// A bound socket with its file.
#[derive(Debug)]
pub struct UnixSocket {
    listener: Arc<UnixListener>,
    file: SocketFile,
}

/// The file of a bound socket. Dropping the value removes the file if this process owns it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode of the bound file; a file with another identity belongs to another process.
    identity: (u64, u64),
    /// Whether this process removes the file.
    owned: AtomicBool,
    /// Whether the service manager made the file and keeps it.
    from_service_manager: bool,
}

impl UnixSocket {
    /// Binds the socket at a path. Must be called within a tokio runtime, before other code creates
    /// files, because it narrows the umask of the process for a moment.
    ///
    /// # Errors
    /// Another process listens at the path, or the file cannot be created; the text names the path.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let _locked = path.parent().and_then(lock);
        Self::bind_locked(path)
    }

    /// Binds the socket; the caller holds the [`lock`] of the directory.
    fn bind_locked(path: &Path) -> io::Result<Self> {
        let with_path = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "cannot listen on the admin socket {}: {error}{}",
                    path.display(),
                    advice(error.kind())
                ),
            )
        };
        remove_dead(path).map_err(with_path)?;
        // The umask sets the mode when the file is created, so that no other user can ever connect.
        let mask = umask(Mode::from_raw_mode(0o177));
        let bound = Listener::bind(path);
        umask(mask);
        let socket = Self::from_process(bound.map_err(with_path)?, path).map_err(with_path)?;
        socket.own_file();
        Ok(socket)
    }

    /// Binds the socket in the default directory: the runtime directory of the unit, else that of the
    /// user, else `/run`, else a private directory in the temporary directory.
    ///
    /// # Errors
    /// As [`bind`](Self::bind); also if other users can write to the directory.
    pub fn bind_default() -> io::Result<Self> {
        let folders = [unit_folder(), runtime_folder()];
        if let Some(folder) = folders.into_iter().flatten().find(|folder| folder.is_dir()) {
            return Self::bind_in(&folder);
        }
        if access(RUN, Access::WRITE_OK).is_ok() {
            return Self::bind_in(Path::new(RUN));
        }
        let folder = own_folder();
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let text = format!(
                    "cannot create the folder {} of the admin socket: {error}",
                    folder.display()
                );
                return Err(io::Error::new(error.kind(), text));
            }
            _ => {}
        }
        if !is_private(&folder) {
            let text = format!(
                "the folder {} of the admin socket is open to other users; run `chmod 700` on it",
                folder.display()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Self::bind_in(&folder)
    }

    /// Binds the socket in a directory, with the default name, or with a name that has the process id
    /// if another process uses the default name.
    fn bind_in(folder: &Path) -> io::Result<Self> {
        let _locked = lock(folder);
        remove_dead_numbered(folder);
        match Self::bind_locked(&folder.join(DEFAULT_NAME)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Self::bind_locked(&folder.join(format!("moorline-{}.sock", std::process::id())))
            }
            bound => bound,
        }
    }

    /// Takes over a socket that another process has bound at `path`. The other process owns the file
    /// until [`own_file`](Self::own_file) is called. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The file no longer exists, or an error of the operating system.
    pub fn from_process(listener: Listener, path: &Path) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = Arc::new(UnixListener::from_std(listener)?);
        let (path, identity) = (path.to_owned(), identity(path)?);
        let file = SocketFile {
            path,
            identity,
            owned: AtomicBool::new(false),
            from_service_manager: false,
        };
        Ok(Self { listener, file })
    }

    /// Takes over a socket that the service manager has bound at `path` and whose file it keeps. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// Other users can connect, the file no longer exists, or an error of the operating system; the
    /// text says what to do.
    pub fn from_service_manager(listener: Listener, path: &Path) -> io::Result<Self> {
        let mode = fs::symlink_metadata(path)?.mode();
        if mode & 0o077 != 0 {
            let text = "other users can connect to it; set SocketMode=0600 in its socket unit";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let mut socket = Self::from_process(listener, path)?;
        socket.file.from_service_manager = true;
        Ok(socket)
    }

    /// Path of the socket.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The listening socket.
    pub(super) fn listener(&self) -> Arc<UnixListener> {
        Arc::clone(&self.listener)
    }

    /// Purpose by which the next process identifies the socket.
    pub(super) fn purpose(&self) -> Purpose {
        let path = self.path().to_owned();
        match self.file.from_service_manager {
            true => Purpose::PassedAdminSocket(path),
            false => Purpose::AdminSocket(path),
        }
    }

    /// Makes this process the owner of the file, which it then removes at its end, unless the service
    /// manager keeps the file.
    pub(super) fn own_file(&self) {
        self.file.owned.store(!self.file.from_service_manager, Ordering::Release);
    }

    /// Returns the file without the listener.
    pub(super) fn into_file(self) -> SocketFile {
        self.file
    }
}

impl SocketFile {
    /// Leaves the file to another process, which then owns it.
    pub(super) fn disown(&self) {
        self.owned.store(false, Ordering::Release);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let unchanged = identity(&self.path).is_ok_and(|identity| identity == self.identity);
        if unchanged && self.owned.load(Ordering::Acquire) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the numbered sockets of dead processes from a directory.
fn remove_dead_numbered(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let own = entry.metadata().is_ok_and(|meta| meta.uid() == geteuid().as_raw());
        if own && entry.file_name().to_str().is_some_and(is_numbered) {
            // An error means that a process listens there, or that it is not a socket.
            let _ = remove_dead(&entry.path());
        }
    }
}

/// Locks a directory until the file is dropped, so that no other process binds in it: a socket that is
/// bound but does not listen yet looks like the socket of a dead process. `None`: the lock is not
/// available; the caller binds without it.
fn lock(folder: &Path) -> Option<fs::File> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let flags = OFlags::DIRECTORY.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(folder).ok()?;
    for _ in 0..LOCK_TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(file),
            Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            Err(_) => return None,
        }
    }
    None
}

/// Removes the socket of a dead process.
fn remove_dead(path: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the file exists and is not a socket; remove it or choose another path",
        ));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full queue also means that a process listens; connecting must not block on it.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process listens there; choose another path",
        )),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}
