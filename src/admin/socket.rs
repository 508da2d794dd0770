//! The unix socket of the API: where it is, who may open it, and whose it is.
//!
//! Only its owner can connect, from the first moment on. A socket file that a dead process has left
//! is replaced, one that somebody listens on never is; at the end the file goes, unless it is
//! another's by then, was left to a successor, or is the service manager's.

use std::{
    env, fs, io,
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

/// The socket's name in its folder.
const NAME: &str = "moorline.sock";
/// Where a system keeps such files.
const RUN: &str = "/run";
/// The unit's folder there.
const UNIT: &str = "moorline";

/// How often a folder's lock is tried for, and the pause between two tries.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What to do about a socket that cannot be made.
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

/// The file of a bound socket; dropping it removes the file, where that is this process's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode of what was bound: another file by this name is not ours.
    identity: (u64, u64),
    /// Whether it is this process's to remove.
    own: AtomicBool,
    /// The service manager has made it and keeps it.
    passed: bool,
}

impl UnixSocket {
    /// Binds here. Must be called within a tokio runtime, before anything else makes files: the
    /// process's file mask is narrowed for a moment.
    ///
    /// # Errors
    /// Somebody listens here, or the file cannot be made; the text says which and names it.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let _locked = path.parent().and_then(lock);
        Self::bind_locked(path)
    }

    /// The same under the folder's [`lock`].
    fn bind_locked(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "cannot listen on the admin socket {}: {error}{}",
                    path.display(),
                    advice(error.kind())
                ),
            )
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

    /// Binds in the folder that the service manager has made for it, else in the user's runtime
    /// folder.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), and where the folder is not the user's own.
    pub fn bind_usual() -> io::Result<Self> {
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

    /// Binds in a folder: by the usual name, or by one with the process's id where another process has
    /// the usual name.
    fn bind_in(folder: &Path) -> io::Result<Self> {
        let _locked = lock(folder);
        clear_further(folder);
        match Self::bind_locked(&folder.join(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Self::bind_locked(&folder.join(format!("moorline-{}.sock", std::process::id())))
            }
            bound => bound,
        }
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
        let file = SocketFile { path, identity, own: AtomicBool::new(false), passed: false };
        Ok(Self { listener, file })
    }

    /// Takes a socket over that the service manager has bound here. The file stays that one's. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// Others than the file's owner can connect, the file is not there any more, or the operating
    /// system's; the text names the file.
    pub fn passed(listener: Listener, path: &Path) -> io::Result<Self> {
        let mode = fs::symlink_metadata(path)?.mode();
        if mode & 0o077 != 0 {
            let text = "other users can connect to it; set SocketMode=0600 in its socket unit";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let mut socket = Self::over(listener, path)?;
        socket.file.passed = true;
        Ok(socket)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The listening socket.
    pub(super) fn listener(&self) -> Arc<UnixListener> {
        Arc::clone(&self.listener)
    }

    /// What the next process knows it by.
    pub(super) fn purpose(&self) -> Purpose {
        let path = self.path().to_owned();
        match self.file.passed {
            true => Purpose::PassedAdminSocket(path),
            false => Purpose::AdminSocket(path),
        }
    }

    /// From now on the file is this process's, unless the service manager keeps it: it goes with it.
    pub(super) fn own(&self) {
        self.file.own.store(!self.file.passed, Ordering::Release);
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

/// Where a client looks for a process's socket.
#[derive(Clone, Debug)]
pub struct SocketPlaces {
    /// Folders of this user's processes, in order.
    pub folders: Vec<PathBuf>,
    /// Folders of others, to be named but not used.
    pub elsewhere: Vec<PathBuf>,
    /// The environment variable that chose the folders.
    pub set_by: Option<&'static str>,
}

/// Where a client looks. A runtime folder that the environment names is the only place: elsewhere there
/// are other users' processes.
pub fn places() -> SocketPlaces {
    let own = Some(own_folder()).filter(|folder| is_private(folder));
    let system = PathBuf::from(RUN);
    let (unit, user) = (unit_folder(), runtime_folder());
    let user_unit = user.as_ref().map(|user| user.join(UNIT));
    let all = [user.clone(), user_unit.clone(), Some(system.clone()), Some(system.join(UNIT)), own];
    let all: Vec<PathBuf> = all.into_iter().flatten().collect();
    let (folders, set_by) = match (unit, user.filter(|folder| folder.is_dir())) {
        (Some(unit), _) if unit.is_dir() => (vec![unit], Some("RUNTIME_DIRECTORY")),
        (_, Some(user)) => {
            (std::iter::once(user).chain(user_unit).collect(), Some("XDG_RUNTIME_DIR"))
        }
        _ => (all.clone(), None),
    };
    let elsewhere = all.into_iter().filter(|folder| !folders.contains(folder)).collect();
    SocketPlaces { folders, elsewhere, set_by }
}

impl SocketPlaces {
    /// The usual socket of a folder.
    pub fn usual(folder: &Path) -> PathBuf {
        folder.join(NAME)
    }

    /// Whether a file by this name can be a process's socket: the usual one, or that of a further process
    /// in the same folder.
    pub fn is_name(name: &str) -> bool {
        name == NAME || further(name)
    }
}

/// Whether this is the name of a further process's socket, `moorline-PID.sock`.
fn further(name: &str) -> bool {
    let pid = name.strip_prefix("moorline-").and_then(|rest| rest.strip_suffix(".sock"));
    pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Removes sockets that further processes have left in a folder when they died.
fn clear_further(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let own = entry.metadata().is_ok_and(|meta| meta.uid() == geteuid().as_raw());
        if own && entry.file_name().to_str().is_some_and(further) {
            // An error means that a process listens there, or that it is not a socket.
            let _ = clear(&entry.path());
        }
    }
}

/// `RuntimeDirectory=` of a unit, the first one (systemd.exec(5)).
fn unit_folder() -> Option<PathBuf> {
    let folders = env::var_os("RUNTIME_DIRECTORY")?;
    env::split_paths(&folders).next().filter(|folder| folder.is_absolute())
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

/// Keeps other processes from binding in a folder until it is dropped: a socket that is bound and not
/// listened on yet looks like one that a dead process has left. `None`: it cannot be had; binding goes
/// on without.
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

/// Removes what a dead process has left here.
fn clear(path: &Path) -> io::Result<()> {
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
    // A full queue is somebody's, too, and must not be waited for.
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
        assert!(
            error
                .to_string()
                .ends_with("the file exists and is not a socket; remove it or choose another path"),
            "{error}"
        );
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
