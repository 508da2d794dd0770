//! A running `moorline run FILE`, its file, its logs and its metrics.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Raw, Settings, eventually, message, process, tls::Certificate, wait_for};

/// A proxy that serves; dropping it kills the process.
pub(crate) struct Proxy {
    /// The configuration as last written by [`Proxy::rewrite`].
    pub(crate) settings: Settings,
    child: Child,
    /// Those that have taken over, in order. They are not our children until those before have ended.
    successors: Vec<u32>,
    directory: TempDir,
    stderr: Arc<Mutex<Vec<String>>>,
    /// Reads standard error until the process closes it; taken once it has.
    reader: Option<JoinHandle<()>>,
    baseline: usize,
}

/// A proxy that is to be started.
pub(crate) struct Setup {
    /// What the file will say.
    pub(crate) settings: Settings,
    /// Written in place of the settings.
    text: Option<String>,
    directory: TempDir,
    wrapper: Vec<OsString>,
    program: PathBuf,
    arguments: Option<Vec<OsString>>,
    env: Vec<(&'static str, String)>,
}

/// A process that ended by itself.
pub(crate) struct Ended {
    /// How.
    pub(crate) status: ExitStatus,
    /// All it printed to standard error.
    pub(crate) stderr: String,
}

impl Setup {
    /// The default settings in a directory of its own.
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

    /// Runs the proxy by another command, which gets the proxy's command line as its arguments
    /// and must `exec` it.
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

    /// Starts the proxy by these words in place of `run FILE`.
    pub(crate) fn arguments(mut self, words: &[&str]) -> Self {
        self.arguments = Some(words.iter().map(OsString::from).collect());
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Where the file is, and files beside it belong.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the proxy and waits until it serves.
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

    /// Starts a process without a file of ours and waits until it serves.
    pub(crate) async fn run(self) -> Proxy {
        let proxy = self.spawn();
        proxy.wait_for_stderr("the process's `ready`", is_ready).await;
        proxy
    }

    /// Starts a proxy that is to give up, and waits for its end.
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
            // An admin socket of its own.
            .env("XDG_RUNTIME_DIR", self.directory.path())
            .env_remove("RUNTIME_DIRECTORY")
            .envs(self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let reader = Some(collect(child.stderr.take().unwrap(), Arc::clone(&stderr)));
        let (settings, directory) = (self.settings, self.directory);
        let successors = Vec::new();
        Proxy { settings, child, successors, directory, stderr, reader, baseline: 0 }
    }
}

impl Proxy {
    /// Starts one in front of these backends, with the default settings otherwise.
    pub(crate) async fn for_backends(addresses: &[SocketAddr]) -> Self {
        Self::with(|settings| {
            settings.backends(addresses);
        })
        .await
    }

    /// A proxy in front of this backend with a plain listener, and `secure` with a certificate of its own.
    pub(crate) async fn plain_and_secure(backend: SocketAddr) -> (Self, Certificate) {
        let setup = Setup::new();
        let certificate = Certificate::make(setup.directory(), "app.test");
        let setting = certificate.setting();
        let proxy = setup
            .with(|settings| {
                settings.backends(&[backend]);
                settings.table(&format!(
                    "[listeners.secure]\nbind = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
                     certificates = {setting}\n"
                ));
            })
            .start()
            .await;
        (proxy, certificate)
    }

    /// Starts one with the default settings changed.
    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Setup::new().with(change).start().await
    }

    /// The address of listener `web`.
    pub(crate) fn web(&self) -> SocketAddr {
        self.listener("web")
    }

    /// The address of a listener: the last one printed for it.
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        let tail = format!(" ({name})");
        let lines = self.stderr();
        let mut addresses = lines.iter().rev().filter_map(|line| {
            let url = said(line, "listening on ")?.strip_suffix(&tail)?;
            url.split_once("://")?.1.parse().ok()
        });
        addresses.next().unwrap_or_else(|| panic!("no listener {name} in {lines:?}"))
    }

    /// The id of the process that serves.
    pub(crate) fn pid(&self) -> u32 {
        self.successors.last().copied().unwrap_or(self.child.id())
    }

    /// Puts something else in the place of the binary that an [installed](Setup::installed) proxy was
    /// started by, all at once; `None`: the right one again.
    pub(crate) fn install(&self, script: Option<&str>) {
        let fresh = self.directory.path().join("moorline.new");
        let _ = fs::remove_file(&fresh);
        match script {
            Some(script) => {
                fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).unwrap();
                fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
            }
            None => std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_moorline"), &fresh).unwrap(),
        }
        fs::rename(fresh, self.directory.path().join("moorline")).unwrap();
    }

    /// Hands over to the binary that is there now, and waits until that serves; gives the id of the
    /// process before.
    pub(crate) async fn upgrade(&mut self) -> u32 {
        let before = self.pid();
        let from = self.stderr().len();
        process::signal(before, "USR2");
        self.wait_for_successor(from).await;
        before
    }

    /// Waits until a new process serves, by what was said after so many lines.
    pub(crate) async fn wait_for_successor(&mut self, from: usize) {
        process::adopt_orphans();
        let mut pid: Option<u32> = None;
        eventually("a new process serves", || {
            let said = &self.stderr()[from..];
            pid = said.iter().find_map(|line| {
                line.split_once("the new process serves")?.1.rsplit_once("pid=")?.1.parse().ok()
            });
            pid.is_some() && said.iter().any(|line| is_ready(line))
        })
        .await;
        self.successors.extend(pid);
    }

    /// Takes this process, which the one that serves has started, for its successor.
    pub(crate) fn with_successor(mut self, pid: u32) -> Self {
        self.successors.push(pid);
        self
    }

    /// Kills the process, and gives what is needed to start it again.
    pub(crate) fn crash(mut self) -> Setup {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        let settings = self.settings.clone();
        Setup { settings, directory, ..Setup::new() }
    }

    /// Sends SIGUSR2 and waits until the upgrade is told to have failed; gives the words.
    pub(crate) async fn fails_to_upgrade(&self) -> String {
        let from = self.stderr().len();
        process::signal(self.pid(), "USR2");
        let why =
            |line: &String| line.contains("upgrade failed") || line.contains("upgrade rejected");
        wait_for("a failed upgrade", || {
            self.stderr()[from..].iter().find(|line| why(line)).cloned()
        })
        .await
    }

    /// Waits until everyone but the one that serves has ended by itself, each with 0.
    pub(crate) async fn wait_for_predecessors(&mut self) {
        let Some(serving) = self.successors.pop() else { return };
        let before = std::mem::replace(&mut self.successors, vec![serving]);
        let status = wait_for("the first one's end", || self.child.try_wait().unwrap()).await;
        assert_eq!(status.code(), Some(0), "{}", self.stderr_text());
        for pid in before {
            // One that ended before its own predecessor left its exit code to that.
            let reaped = || process::state(pid).is_none().then_some(Some(0));
            let ended = || process::orphan_status(pid).map(|status| status.code());
            let code = wait_for("an old one's end", || ended().or_else(reaped)).await;
            assert_eq!(code, Some(0), "{}", self.stderr_text());
        }
    }

    /// The configuration file.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("moorline.toml")
    }

    /// Where the file is, and files beside it belong.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Lines on standard error so far.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.stderr.lock().unwrap().clone()
    }

    /// Standard error so far, as one text.
    pub(crate) fn stderr_text(&self) -> String {
        self.stderr().join("\n")
    }

    /// Waits until standard error holds a line for which `is` holds.
    pub(crate) async fn wait_for_stderr(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        wait_for(what, || self.stderr().into_iter().find(|line| is(line))).await
    }

    /// The access log so far, byte for byte.
    pub(crate) fn access_log(&self) -> Vec<u8> {
        fs::read(self.directory.path().join("access.log")).unwrap_or_default()
    }

    /// The access log's complete lines so far; panics where one is no JSON object.
    pub(crate) fn log_lines(&self) -> Vec<Value> {
        let bytes = self.access_log();
        let complete = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = bytes[..complete].split(|byte| *byte == b'\n').filter(|l| !l.is_empty());
        let parse = |line: &[u8]| {
            let value: Value = serde_json::from_slice(line)
                .unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(line)));
            assert!(value.is_object(), "{value}");
            value
        };
        lines.map(parse).collect()
    }

    /// Waits for an access-log line.
    pub(crate) async fn wait_for_log(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || self.log_lines().into_iter().find(|line| is(line))).await
    }

    /// Writes new settings to the file, as one rename would do it: never half of it.
    pub(crate) fn rewrite(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.write(&self.settings.text());
    }

    /// Writes this text to the file, all at once.
    pub(crate) fn write(&self, text: &str) {
        let fresh = self.directory.path().join("moorline.toml.new");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, self.file()).unwrap();
    }

    /// Writes new settings and waits until they are in force.
    pub(crate) async fn reload(&mut self, change: impl FnOnce(&mut Settings)) {
        let before = self.metric(RELOADS_OK).await;
        self.rewrite(change);
        self.hangup();
        self.wait_for_metric("a reload", RELOADS_OK, |count| count > before).await;
    }

    /// Writes this text and waits until it is refused with words that contain each of `needles`;
    /// gives all that was said meanwhile. The watch over the file and the signal may each bring a
    /// refusal.
    pub(crate) async fn refuses(&self, text: &str, needles: &[&str]) -> String {
        let from = self.stderr().len();
        self.write(text);
        self.hangup();
        let deadline = tokio::time::Instant::now() + super::TIMEOUT;
        loop {
            let said = self.stderr()[from..].join("\n");
            let missing = needles.iter().find(|needle| !said.contains(**needle));
            match missing {
                None if said.contains("reload refused") => return said,
                _ if tokio::time::Instant::now() < deadline => {}
                _ => panic!("never refused with {missing:?}: {said}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Asks for a reload.
    pub(crate) fn hangup(&self) {
        process::signal(self.pid(), "HUP");
    }

    /// Asks it to drain and stop.
    pub(crate) fn terminate(&self) {
        process::signal(self.pid(), "TERM");
    }

    /// Whether the process runs.
    pub(crate) fn is_running(&mut self) -> bool {
        match self.successors.last() {
            Some(&pid) => process::is_running(pid),
            None => self.child.try_wait().unwrap().is_none(),
        }
    }

    /// Waits until the process ends by itself, and all that it said is there.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        self.wait_for_predecessors().await;
        let serving = self.successors.last().copied();
        let status = wait_for("the proxy's end", || match serving {
            Some(pid) => process::orphan_status(pid),
            None => self.child.try_wait().unwrap(),
        })
        .await;
        if let Some(reader) = self.reader.take() {
            eventually("the end of standard error", || reader.is_finished()).await;
        }
        status
    }

    /// The metrics as text.
    pub(crate) async fn metrics(&self) -> String {
        let request = message::get("/metrics", "Connection: close\r\n");
        Raw::ask(self.admin(), request).await.text()
    }

    /// The admin endpoint's address.
    pub(crate) fn admin(&self) -> SocketAddr {
        let lines = self.stderr();
        let mut urls = lines.iter().filter_map(|line| said(line, "metrics on http://"));
        let address = urls.next().and_then(|url| url.strip_suffix("/metrics"));
        address.unwrap_or_else(|| panic!("no admin endpoint in {lines:?}")).parse().unwrap()
    }

    /// Sum of all series whose name and labels start with `prefix`; 0 where there is none.
    pub(crate) async fn metric(&self, prefix: &str) -> f64 {
        let text = self.metrics().await;
        let series = text.lines().filter(|line| line.starts_with(prefix));
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Waits until a metric is as wanted.
    pub(crate) async fn wait_for_metric(&self, what: &str, prefix: &str, is: impl Fn(f64) -> bool) {
        let deadline = tokio::time::Instant::now() + super::TIMEOUT;
        while !is(self.metric(prefix).await) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "never happened: {what}\n{}\n{}",
                self.stderr_text(),
                self.metrics().await
            );
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Descriptors open once everything that starts after `ready` has started: the watch over the
    /// file is the last of it.
    async fn steady_descriptors(&self) -> usize {
        let pid = self.pid();
        eventually("the file is watched", || {
            process::open_files(pid).iter().any(|file| file.contains("inotify"))
        })
        .await;
        let (mut count, mut rounds) = (self.descriptors(), 0);
        eventually("steady descriptors", || {
            let now = process::descriptors(pid);
            rounds = if now == count { rounds + 1 } else { 0 };
            count = now;
            rounds > 10
        })
        .await;
        count
    }

    /// Descriptors open now.
    pub(crate) fn descriptors(&self) -> usize {
        process::descriptors(self.pid())
    }

    /// Asserts what every scenario ends with: the proxy still serves, descriptors and tunnels are
    /// back at their baseline, nothing panicked, and SIGTERM ends the process with 0.
    /// Clients must be closed by then.
    pub(crate) async fn finish(mut self) {
        self.wait_for_baseline().await;
        self.terminate();
        let status = self.exited().await;
        assert_eq!(status.code(), Some(0), "{}", self.stderr_text());
        assert!(!self.stderr_text().contains("panicked at"), "{}", self.stderr_text());
    }

    /// Waits until descriptors and tunnels are back at their baseline.
    pub(crate) async fn wait_for_baseline(&mut self) {
        assert!(self.is_running(), "{}", self.stderr_text());
        let (pid, baseline) = (self.pid(), self.baseline);
        let what = format!("{baseline} descriptors or fewer");
        let settled = tokio::time::timeout(
            super::TIMEOUT / 2,
            eventually(&what, || process::descriptors(pid) <= baseline),
        );
        if settled.await.is_err() {
            panic!("not {what}: {:#?}\n{}", process::open_files(pid), self.stderr_text());
        }
        self.wait_for_metric("no tunnel", TUNNELS, |count| count == 0.0).await;
    }
}

/// Reloads that took effect.
pub(crate) const RELOADS_OK: &str = "moorline_reloads_total{result=\"ok\"";
/// Reloads that were refused.
pub(crate) const RELOADS_REFUSED: &str = "moorline_reloads_total{result=\"refused\"";
/// Open tunnels.
pub(crate) const TUNNELS: &str = "moorline_tunnels";

impl Drop for Proxy {
    fn drop(&mut self) {
        // All that came of it, also what a failed test has not heard of.
        let mut all = process::process_tree(self.child.id());
        all.extend(self.successors.iter().flat_map(|&pid| process::process_tree(pid)));
        all.into_iter().for_each(process::kill);
        let _ = self.child.wait();
    }
}

/// Whether this is the line of the log by which a process says that it serves.
pub(crate) fn is_ready(line: &str) -> bool {
    said(line, "ready") == Some("")
}

/// What follows these first words of a log line's message, after its time and level.
pub(crate) fn said<'l>(line: &'l str, words: &str) -> Option<&'l str> {
    line.split_once(" INFO ")?.1.strip_prefix(words)
}

/// Reads lines in a thread of its own until the pipe closes.
fn collect(pipe: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            lines.lock().unwrap().push(text);
            line.clear();
        }
    })
}
