//! A running `moorline run FILE`, its configuration file, logs and metrics.

mod setup;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) use self::setup::Setup;
use super::{Raw, Settings, eventually, message, process, tls::Certificate, wait_for};

/// A running proxy; dropping it kills the process.
pub(crate) struct Proxy {
    /// The configuration as last written by [`Proxy::rewrite`].
    pub(crate) settings: Settings,
    child: Child,
    /// Process ids after binary upgrades, in order. Each becomes a child of the test when its predecessor ends.
    successors: Vec<u32>,
    directory: TempDir,
    stderr: Arc<Mutex<Vec<String>>>,
    /// Reads standard error until the process closes it.
    reader: Option<JoinHandle<()>>,
    baseline: usize,
}

impl Proxy {
    /// Starts a proxy with these backends and the default settings otherwise.
    pub(crate) async fn for_backends(addresses: &[SocketAddr]) -> Self {
        Self::with(|settings| {
            settings.backends(addresses);
        })
        .await
    }

    /// Starts a proxy with one backend, the plain listener `web`, and the https listener `secure` with a new
    /// certificate.
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

    /// Starts a proxy with changed default settings.
    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Setup::new().with(change).start().await
    }

    /// The address of listener `web`.
    pub(crate) fn web(&self) -> SocketAddr {
        self.listener("web")
    }

    /// The address of a listener, from the last `listening on` line for it.
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        let tail = format!(" ({name})");
        let lines = self.stderr();
        let mut addresses = lines.iter().rev().filter_map(|line| {
            let url = message_after(line, "listening on ")?.strip_suffix(&tail)?;
            url.split_once("://")?.1.parse().ok()
        });
        addresses.next().unwrap_or_else(|| panic!("no listener {name} in {lines:?}"))
    }

    /// Id of the serving process.
    pub(crate) fn pid(&self) -> u32 {
        self.successors.last().copied().unwrap_or(self.child.id())
    }

    /// Replaces the binary of an [installed](Setup::installed) proxy atomically by this shell script, or by the real
    /// binary if `None`.
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

    /// Upgrades to the current binary, and waits until the new process serves. Returns the id of the old process.
    pub(crate) async fn upgrade(&mut self) -> u32 {
        let before = self.pid();
        let from = self.stderr().len();
        process::signal(before, "USR2");
        self.wait_for_successor(from).await;
        before
    }

    /// Waits until a new process serves; reads standard error from line `from` on.
    pub(crate) async fn wait_for_successor(&mut self, from: usize) {
        process::adopt_orphans();
        let mut pid: Option<u32> = None;
        eventually("a new process serves", || {
            let lines = &self.stderr()[from..];
            pid = lines.iter().find_map(|line| {
                line.split_once("the new process serves")?.1.rsplit_once("pid=")?.1.parse().ok()
            });
            pid.is_some() && lines.iter().any(|line| is_ready(line))
        })
        .await;
        self.successors.extend(pid);
    }

    /// Registers this process as the successor of the serving process.
    pub(crate) fn with_successor(mut self, pid: u32) -> Self {
        self.successors.push(pid);
        self
    }

    /// Kills the process, and returns the setup to start it again.
    pub(crate) fn crash(mut self) -> Setup {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        let settings = self.settings.clone();
        Setup { settings, directory, ..Setup::new() }
    }

    /// Sends SIGUSR2 and waits for the log line of the failed upgrade, which is returned.
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

    /// Waits until all processes before the serving one have ended with exit code 0.
    pub(crate) async fn wait_for_predecessors(&mut self) {
        let Some(serving) = self.successors.pop() else { return };
        let before = std::mem::replace(&mut self.successors, vec![serving]);
        let status =
            wait_for("the end of the first process", || self.child.try_wait().unwrap()).await;
        assert_eq!(status.code(), Some(0), "{}", self.stderr_text());
        for pid in before {
            // A process that ended before its predecessor was reaped by the predecessor.
            let reaped = || process::state(pid).is_none().then_some(Some(0));
            let ended = || process::orphan_status(pid).map(|status| status.code());
            let code = wait_for("the end of an old process", || ended().or_else(reaped)).await;
            assert_eq!(code, Some(0), "{}", self.stderr_text());
        }
    }

    /// The configuration file.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("moorline.toml")
    }

    /// The directory of the configuration file.
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

    /// Waits for a line on standard error that matches `is`.
    pub(crate) async fn wait_for_stderr(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        wait_for(what, || self.stderr().into_iter().find(|line| is(line))).await
    }

    /// The access log so far, byte for byte.
    pub(crate) fn access_log(&self) -> Vec<u8> {
        fs::read(self.directory.path().join("access.log")).unwrap_or_default()
    }

    /// Complete lines of the access log so far; panics if a line is not a JSON object.
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

    /// Writes new settings to the file atomically.
    pub(crate) fn rewrite(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.write(&self.settings.text());
    }

    /// Writes this text to the file atomically.
    pub(crate) fn write(&self, text: &str) {
        let fresh = self.directory.path().join("moorline.toml.new");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, self.file()).unwrap();
    }

    /// Writes new settings and waits until they are applied.
    pub(crate) async fn reload(&mut self, change: impl FnOnce(&mut Settings)) {
        let before = self.metric(RELOADS_OK).await;
        self.rewrite(change);
        self.hangup();
        self.wait_for_metric("a reload", RELOADS_OK, |count| count > before).await;
    }

    /// Writes this text and waits until the reload is refused with messages that contain all `needles`. Returns
    /// the text on standard error since then. The file watch and the signal may both cause a reload.
    pub(crate) async fn refuses(&self, text: &str, needles: &[&str]) -> String {
        let from = self.stderr().len();
        self.write(text);
        self.hangup();
        let deadline = tokio::time::Instant::now() + super::TIMEOUT;
        loop {
            let stderr = self.stderr()[from..].join("\n");
            let missing = needles.iter().find(|needle| !stderr.contains(**needle));
            match missing {
                None if stderr.contains("reload rejected") => return stderr,
                _ if tokio::time::Instant::now() < deadline => {}
                _ => panic!("never refused with {missing:?}: {stderr}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Sends SIGHUP, which starts a reload.
    pub(crate) fn hangup(&self) {
        process::signal(self.pid(), "HUP");
    }

    /// Sends SIGTERM, which starts the shutdown.
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

    /// Waits until the process ends by itself and its standard error is read completely.
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
        let mut urls = lines.iter().filter_map(|line| message_after(line, "metrics on http://"));
        let address = urls.next().and_then(|url| url.strip_suffix("/metrics"));
        address.unwrap_or_else(|| panic!("no admin endpoint in {lines:?}")).parse().unwrap()
    }

    /// Sum of all series whose name and labels start with `prefix`; 0 without any.
    pub(crate) async fn metric(&self, prefix: &str) -> f64 {
        let text = self.metrics().await;
        let series = text.lines().filter(|line| line.starts_with(prefix));
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Waits until the sum of the series with this prefix matches `is`.
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

    /// Number of open descriptors after everything that starts after `ready` has started; the file watch starts
    /// last.
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

    /// Number of open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        process::descriptors(self.pid())
    }

    /// Ends a scenario. Asserts that the proxy still runs, that descriptors and tunnels are back at their baseline,
    /// that nothing panicked, and that SIGTERM ends the process with 0. Clients must be closed before.
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
        // All descendants, including those that a failed test does not know.
        let mut all = process::process_tree(self.child.id());
        all.extend(self.successors.iter().flat_map(|&pid| process::process_tree(pid)));
        all.into_iter().for_each(process::kill);
        let _ = self.child.wait();
    }
}

/// Whether this log line reports that a process is ready.
pub(crate) fn is_ready(line: &str) -> bool {
    message_after(line, "ready") == Some("")
}

/// Returns the rest of a log line after time, level INFO, and this beginning of the message.
pub(crate) fn message_after<'l>(line: &'l str, words: &str) -> Option<&'l str> {
    line.split_once(" INFO ")?.1.strip_prefix(words)
}
