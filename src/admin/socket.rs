//! The unix socket of the API: where it is, who may open it, and whose it is.
//!
//! Only its owner can connect, from the first moment on. A socket file that a dead process has left
//! is replaced, one that somebody listens on never is; at the end the file goes, unless it is
//! another's by then or was left to a successor.

use std::{
    env, fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt},
        net::UnixListener as Listener,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{Access, Mode, access},
    process::{geteuid, umask},
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// The socket's name in its folder.
const NAME: &str = "moorline.sock";
/// Where a system keeps such files.
const RUN: &str = "/run";

/// A bound socket with its file.
#[derive(Debug)]
pub struct UnixSocket {
    listener: Arc<UnixListener>,
    file: SocketFile,
}

/// The file of a bound socket; dropping it removes the file, where that is this process's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode of what was bound: another file by this name is not ours.
    identity: (u64, u64),
    /// Whether it is this process's to remove.
    own: AtomicBool,
}

impl UnixSocket {
    /// Binds here. Must be called within a tokio runtime, before anything else makes files: the
    /// process's file mask is narrowed for a moment.
    ///
    /// # Errors
    /// Somebody listens here, or the file cannot be made; the text says which and names it.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("admin: socket {}: {error}", path.display()))
        };
        clear(path).map_err(named)?;
        // The mode is in force before the file can be seen, so that nobody can connect meanwhile.
        let mask = umask(Mode::from_raw_mode(0o177));
        let bound = Listener::bind(path);
        umask(mask);
        let socket = Self::over(bound.map_err(named)?, path).map_err(named)?;
        socket.own();
        Ok(socket)
    }

    /// Binds in the user's runtime folder.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), and where the folder is not the user's own.
    pub fn bind_usual() -> io::Result<Self> {
        let runtime = runtime_folder().filter(|folder| folder.is_dir());
        if let Some(folder) = runtime {
            return Self::bind(&folder.join(NAME));
        }
        if access(RUN, Access::WRITE_OK).is_ok() {
            return Self::bind(&Path::new(RUN).join(NAME));
        }
        let folder = own_folder();
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let text = format!("admin: folder {}: {error}", folder.display());
                return Err(io::Error::new(error.kind(), text));
            }
            _ => {}
        }
        if !is_private(&folder) {
            let text = format!("admin: {} is not this user's alone", folder.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Self::bind(&folder.join(NAME))
    }

    /// Takes a socket over that another process has bound here. The file stays that process's until
    /// [`own`](Self::own). Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The file is not there any more, or the operating system's.
    pub fn over(listener: Listener, path: &Path) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = Arc::new(UnixListener::from_std(listener)?);
        let (path, identity) = (path.to_owned(), identity(path)?);
        Ok(Self { listener, file: SocketFile { path, identity, own: AtomicBool::new(false) } })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The listening socket.
    pub(super) fn listener(&self) -> Arc<UnixListener> {
        Arc::clone(&self.listener)
    }

    /// From now on the file is this process's: it goes with it.
    pub(super) fn own(&self) {
        self.file.own.store(true, Ordering::Release);
    }

    /// The file alone; whoever listens has the socket.
    pub(super) fn into_file(self) -> SocketFile {
        self.file
    }
}

impl SocketFile {
    /// From now on the file is another process's.
    pub(super) fn leave(&self) {
        self.own.store(false, Ordering::Release);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = identity(&self.path).is_ok_and(|identity| identity == self.identity);
        if ours && self.own.load(Ordering::Acquire) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where a process of this user, or of root, may have its socket: in the order in which a client
/// looks.
pub fn usual_places() -> Vec<PathBuf> {
    let own = Some(own_folder()).filter(|folder| is_private(folder));
    let folders = [runtime_folder(), Some(PathBuf::from(RUN)), own];
    folders.into_iter().flatten().map(|folder| folder.join(NAME)).collect()
}

/// The XDG base directory specification has only absolute paths count.
fn runtime_folder() -> Option<PathBuf> {
    env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute())
}

fn own_folder() -> PathBuf {
    env::temp_dir().join(format!("moorline-{}", geteuid().as_raw()))
}

/// Whether nobody else can put anything into a folder: anybody may have made one by that name.
fn is_private(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|meta| {
        meta.is_dir() && meta.uid() == geteuid().as_raw() && meta.mode() & 0o077 == 0
    })
}

/// Removes what a dead process has left here.
fn clear(path: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there and no socket"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full queue is somebody's, too, and must not be waited for.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"))
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_its_owner_can_open_it_and_it_goes_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let socket = UnixSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn who_listens_is_left_alone_and_who_died_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let first = UnixSocket::bind(&path).unwrap();
        let error = UnixSocket::bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        // As a killed process leaves it.
        first.file.leave();
        drop(first);
        assert!(path.exists());
        let second = UnixSocket::bind(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "text").unwrap();
        let error = UnixSocket::bind(&path).unwrap_err();
        assert!(error.to_string().ends_with("it is there and no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        let error = UnixSocket::bind(&folder.path().join("no/such")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(UnixSocket::bind(&folder.path().join("x".repeat(200))).is_err());
    }

    #[tokio::test]
    async fn a_successors_file_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let old = UnixSocket::bind(&path).unwrap();
        fs::rename(&path, folder.path().join("aside")).unwrap();
        let new = UnixSocket::bind(&path).unwrap();
        drop(old);
        assert!(path.exists());
        drop(new);
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let set = |mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(folder.path(), mode).unwrap();
        };
        set(0o700);
        assert!(is_private(folder.path()));
        set(0o770);
        assert!(!is_private(folder.path()));
        set(0o701);
        assert!(!is_private(folder.path()));
        assert!(!is_private(&folder.path().join("none")));
    }
}
