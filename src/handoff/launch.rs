//! How this process was started, so that another one can be started the same way.

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use super::HANDED;

/// Variables that a service manager has set for this process alone: its sockets, and whose sign of
/// life it waits for. After the upgrade that is the new process's.
const OURS_ALONE: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// A command line, the program it names, and the folder it was given in.
#[derive(Clone, Debug)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    folder: PathBuf,
}

impl Launch {
    /// This process's own. To be called at the start: what the names mean may change later.
    ///
    /// The program is the path it was started by, and not the file that path led to: an installation
    /// puts a new file, or a new link, in its place.
    ///
    /// # Errors
    /// The working folder or the program cannot be told.
    pub fn own() -> io::Result<Self> {
        let folder = env::current_dir()?;
        let mut words = env::args_os();
        let typed = words.next().map(PathBuf::from);
        let found =
            typed.and_then(|typed| resolve(&typed, &folder, env::var_os("PATH").as_deref()));
        let program = found.map_or_else(env::current_exe, Ok)?;
        Ok(Self { program, arguments: words.collect(), folder })
    }

    /// The program, where no other one is named.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Starts this program by the same command line, with one end of the channel as its standard
    /// input.
    pub(super) fn start(&self, program: &Path, channel: UnixStream) -> io::Result<Child> {
        let mut command = Command::new(program);
        command.args(&self.arguments).current_dir(&self.folder).env(HANDED, "1");
        for name in OURS_ALONE {
            command.env_remove(name);
        }
        command.stdin(Stdio::from(std::os::fd::OwnedFd::from(channel))).spawn()
    }
}

/// What the shell, or execvp(3), has found under this name.
fn resolve(typed: &Path, folder: &Path, path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    if typed.components().count() > 1 || typed.has_root() || typed.starts_with(".") {
        return Some(folder.join(typed));
    }
    let mut places = env::split_paths(path?).map(|place| folder.join(place).join(typed));
    places.find(|place| {
        rustix::fs::access(place, rustix::fs::Access::EXEC_OK).is_ok() && place.is_file()
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_program_is_found_as_the_shell_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for place in ["one", "two"] {
            fs::create_dir(at(place)).unwrap();
            fs::write(at(place).join("moorline"), "").unwrap();
        }
        fs::set_permissions(at("two/moorline"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = env::join_paths([at("none"), at("one"), PathBuf::from("two")]).unwrap();
        let resolve = |typed: &str| resolve(Path::new(typed), folder.path(), Some(&path));
        assert_eq!(resolve("moorline"), Some(at("two/moorline")));
        assert_eq!(resolve("bin/moorline"), Some(at("bin/moorline")));
        assert_eq!(resolve("./moorline"), Some(at("moorline")));
        assert_eq!(resolve("/opt/moorline"), Some(PathBuf::from("/opt/moorline")));
        assert_eq!(resolve("other"), None);
    }
}
