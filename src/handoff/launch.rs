//! The command line of this process, to start its successor in the same way.

use std::{
    env,
    ffi::OsString,
    fmt, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use super::HANDOFF_VARIABLE;

/// Variables that a service manager sets for one process: its sockets, and the process that must send the
/// watchdog messages. They do not apply to the new process.
const OWN_VARIABLES: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// Why this process cannot start a successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// This kind of process does not support upgrades; says why.
    NotSupported(&'static str),
    /// The command line or the working directory of this process cannot be read.
    Unknown(String),
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSupported(reason) => f.write_str(reason),
            Self::Unknown(reason) => {
                write!(f, "cannot read the command line of this process: {reason}; restart instead")
            }
        }
    }
}

impl std::error::Error for LaunchError {}

/// A command line with its program and working directory.
#[derive(Clone, Debug)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    folder: PathBuf,
}

impl Launch {
    /// Returns the command line of this process. Call it at the start, because relative paths may later mean
    /// other files.
    ///
    /// The program is the path that this process was started with, not the file that a link led to: an
    /// installation replaces the file or the link.
    ///
    /// # Errors
    /// The working directory or the program cannot be read.
    pub fn own() -> Result<Self, LaunchError> {
        let unknown = |error: io::Error| LaunchError::Unknown(error.to_string());
        let folder = env::current_dir().map_err(unknown)?;
        let mut arguments = env::args_os();
        let name = arguments.next().map(PathBuf::from);
        let found = name.and_then(|name| resolve(&name, &folder, env::var_os("PATH").as_deref()));
        let program = found.map_or_else(env::current_exe, Ok).map_err(unknown)?;
        Ok(Self { program, arguments: arguments.collect(), folder })
    }

    /// The program to start, unless the upgrade command names another one.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Starts `program` with the same arguments. Its standard input is one end of the channel.
    pub(super) fn start(&self, program: &Path, channel: UnixStream) -> io::Result<Child> {
        let mut command = Command::new(program);
        command.args(&self.arguments).current_dir(&self.folder).env(HANDOFF_VARIABLE, "1");
        for name in OWN_VARIABLES {
            command.env_remove(name);
        }
        command.stdin(Stdio::from(std::os::fd::OwnedFd::from(channel))).spawn()
    }
}

/// Finds the file of a program name, as execvp(3) does.
fn resolve(name: &Path, folder: &Path, path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    if name.components().count() > 1 || name.has_root() || name.starts_with(".") {
        return Some(folder.join(name));
    }
    let mut files = env::split_paths(path?).map(|directory| folder.join(directory).join(name));
    files.find(|file| {
        rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file()
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn program_is_found_in_the_search_path() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for place in ["one", "two"] {
            fs::create_dir(at(place)).unwrap();
            fs::write(at(place).join("moorline"), "").unwrap();
        }
        fs::set_permissions(at("two/moorline"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = env::join_paths([at("none"), at("one"), PathBuf::from("two")]).unwrap();
        let resolve = |name: &str| resolve(Path::new(name), folder.path(), Some(&path));
        assert_eq!(resolve("moorline"), Some(at("two/moorline")));
        assert_eq!(resolve("bin/moorline"), Some(at("bin/moorline")));
        assert_eq!(resolve("./moorline"), Some(at("moorline")));
        assert_eq!(resolve("/opt/moorline"), Some(PathBuf::from("/opt/moorline")));
        assert_eq!(resolve("other"), None);
    }
}
