//! Directories of admin sockets, for the process that binds one and for the client that looks for it.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

/// Default name of the socket.
pub(super) const DEFAULT_NAME: &str = "moorline.sock";
/// Runtime directory of the system.
pub(super) const RUN: &str = "/run";
/// Name of the unit's runtime directory.
const UNIT: &str = "moorline";

/// Directories in which a client looks for the socket of a process.
#[derive(Clone, Debug)]
pub struct SocketPlaces {
    /// Directories with sockets of this user, in order.
    pub folders: Vec<PathBuf>,
    /// Directories that are not searched, but may be named in a message.
    pub unsearched: Vec<PathBuf>,
    /// The environment variable that sets the directories.
    pub set_by: Option<&'static str>,
}

/// Returns the directories in which a client looks. If the environment sets a runtime directory, it is
/// the only one, because the others may have processes of other users.
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
    let unsearched = all.into_iter().filter(|folder| !folders.contains(folder)).collect();
    SocketPlaces { folders, unsearched, set_by }
}

impl SocketPlaces {
    /// Returns the default path of the socket in a directory.
    pub fn default_path(folder: &Path) -> PathBuf {
        folder.join(DEFAULT_NAME)
    }

    /// Whether a file with this name can be the socket of a process: the default name, or the numbered
    /// name of another process in the same directory.
    pub fn is_socket_name(name: &str) -> bool {
        name == DEFAULT_NAME || is_numbered(name)
    }
}

/// Whether a name has the form `moorline-PID.sock`, which a second process in a directory uses.
pub(super) fn is_numbered(name: &str) -> bool {
    let pid = name.strip_prefix("moorline-").and_then(|rest| rest.strip_suffix(".sock"));
    pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
}

/// First `RuntimeDirectory=` of the systemd unit (systemd.exec(5)).
pub(super) fn unit_folder() -> Option<PathBuf> {
    let folders = env::var_os("RUNTIME_DIRECTORY")?;
    env::split_paths(&folders).next().filter(|folder| folder.is_absolute())
}

/// Runtime directory of the user. The XDG base directory specification ignores relative paths.
pub(super) fn runtime_folder() -> Option<PathBuf> {
    env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute())
}

/// Private directory of the user in the temporary directory.
pub(super) fn own_folder() -> PathBuf {
    env::temp_dir().join(format!("moorline-{}", geteuid().as_raw()))
}

/// Whether only this user can write to a directory; another user may have created it.
pub(super) fn is_private(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|meta| {
        meta.is_dir() && meta.uid() == geteuid().as_raw() && meta.mode() & 0o077 == 0
    })
}
