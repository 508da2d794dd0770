//! Settings and start of a proxy.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{ChildStderr, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use tempfile::TempDir;

use super::{Proxy, is_ready};
use crate::support::{Settings, wait_for};

/// Settings and command line of a proxy to start.
pub(crate) struct Setup {
    /// The configuration to write to the file.
    pub(crate) settings: Settings,
    /// Text to write in place of the settings.
    pub(super) text: Option<String>,
    pub(super) directory: TempDir,
    pub(super) wrapper: Vec<OsString>,
    pub(super) program: PathBuf,
    pub(super) arguments: Option<Vec<OsString>>,
    pub(super) env: Vec<(&'static str, String)>,
    pub(super) stuck_stderr: bool,
}

/// Result of a process that ended by itself.
pub(crate) struct Ended {
    /// Exit status.
    pub(crate) status: ExitStatus,
    /// Text on standard error.
    pub(crate) stderr: String,
}

impl Setup {
    /// The default settings in a new directory.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings::new(directory.path());
        Self {
            settings,
            text: None,
            directory,
            wrapper: Vec::new(),
            program: env!("CARGO_BIN_EXE_moorline").into(),
            arguments: None,
            env: Vec::new(),
            stuck_stderr: false,
        }
    }

    /// Changes the settings.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Uses this text for the file.
    pub(crate) fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Starts the proxy by a wrapper command, which gets the command line of the proxy as arguments and must
    /// `exec` it.
    pub(crate) fn wrapped_in(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(OsString::from).collect();
        self
    }

    /// Starts the proxy by a link `moorline` in its directory, for [`Proxy::install`] to replace.
    pub(crate) fn installed(mut self) -> Self {
        self.program = self.directory.path().join("moorline");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_moorline"), &self.program).unwrap();
        self
    }

    /// Uses these arguments in place of `run FILE`.
    pub(crate) fn arguments(mut self, words: &[&str]) -> Self {
        self.arguments = Some(words.iter().map(OsString::from).collect());
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Reads nothing from standard error after the line `ready`. The pipe is small, and stays open.
    pub(crate) fn with_stuck_stderr(mut self) -> Self {
        self.stuck_stderr = true;
        self
    }

    /// The directory of the configuration file.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the proxy and waits until it is ready.
    pub(crate) async fn start(self) -> Proxy {
        let mut proxy = self.spawn();
        wait_for("the proxy's `ready`", || {
            if let Some(status) = proxy.child.try_wait().unwrap() {
                panic!("the proxy ended with {status}: {}", proxy.stderr_text());
            }
            proxy.stderr().iter().any(|line| is_ready(line)).then_some(())
        })
        .await;
        proxy.baseline = proxy.steady_descriptors().await;
        proxy
    }

    /// Starts a process that does not use the file of the setup, and waits until it is ready.
    pub(crate) async fn run(self) -> Proxy {
        let proxy = self.spawn();
        proxy.wait_for_stderr("the process's `ready`", is_ready).await;
        proxy
    }

    /// Starts a proxy that must fail at start-up, and waits for its end.
    pub(crate) async fn fails_to_start(self) -> Ended {
        let mut proxy = self.spawn();
        let status = proxy.exited().await;
        Ended { status, stderr: proxy.stderr_text() }
    }

    fn spawn(self) -> Proxy {
        let file = self.directory.path().join("moorline.toml");
        fs::write(&file, self.text.unwrap_or_else(|| self.settings.text())).unwrap();
        let mut words = self.wrapper;
        words.push(self.program.into());
        words.extend(self.arguments.unwrap_or_else(|| vec!["run".into(), file.into()]));
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .env("RUST_LOG", "info")
            .env_remove("MOORLINE_COOKIE_KEY")
            // A separate admin socket.
            .env("XDG_RUNTIME_DIR", self.directory.path())
            .env_remove("RUNTIME_DIRECTORY")
            .envs(self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let pipe = child.stderr.take().unwrap();
        let reader = Some(collect(pipe, Arc::clone(&stderr), self.stuck_stderr));
        let (settings, directory) = (self.settings, self.directory);
        let successors = Vec::new();
        Proxy { settings, child, successors, directory, stderr, reader, baseline: 0 }
    }
}

/// Reads lines in a new thread until the pipe closes; if `stuck`, until the process is ready.
fn collect(pipe: ChildStderr, lines: Arc<Mutex<Vec<String>>>, stuck: bool) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            let ready = is_ready(&text);
            lines.lock().unwrap().push(text);
            line.clear();
            if ready && stuck {
                rustix::pipe::fcntl_setpipe_size(reader.get_ref(), 4096).unwrap();
                // The pipe stays open until the end of the test.
                std::mem::forget(reader);
                return;
            }
        }
    })
}
