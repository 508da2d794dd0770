//! A proxy that changes while it serves: its configuration, its processes, and the operator's commands.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use crate::{
    local::{CERTS, free_address},
    peer::{Family, Peer},
    process,
};

/// Longest time from a command to its visible effect.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two checks.
const LOOK: Duration = Duration::from_millis(20);

/// A running proxy with all its processes, killed on drop.
pub(super) struct Stand<'a> {
    peer: &'a Peer,
    child: Child,
    /// The process that gets signals.
    main: u32,
    directory: TempDir,
    pub(super) tls: SocketAddr,
    /// Caddy's administration address, or the address of HAProxy's peers section.
    side: SocketAddr,
    /// All processes that were seen so far.
    seen: BTreeSet<u32>,
}

/// The remains of an older generation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left {
    pub(super) processes: usize,
    /// Proportional set size.
    pub(super) bytes: u64,
}

impl<'a> Stand<'a> {
    /// Starts a proxy in front of these nodes and waits until it listens.
    pub(super) fn start(peer: &'a Peer, nodes: &[String]) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let (tls, side) = (free_address()?, free_address()?);
        certify(directory.path(), "site")?;
        let file = directory.path().join("configuration");
        fs::write(&file, fill(peer.family, directory.path(), tls, side, nodes))?;
        let log = File::create(directory.path().join("log"))?;
        let mut command = command(peer, directory.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| peer.title.clone())?;
        let main = child.id();
        let mut stand = Self { peer, child, main, directory, tls, side, seen: BTreeSet::new() };
        if peer.family == Family::Nginx {
            stand.main = stand.daemon()?;
        }
        stand.until("it listens", |stand| {
            let ended = stand.child.try_wait()?.is_some();
            ensure!(!ended || stand.peer.family == Family::Nginx, "it ended");
            Ok(TcpStream::connect(tls).is_ok() && !stand.carriers()?.is_empty())
        })?;
        Ok(stand)
    }

    /// Writes the configuration for these nodes.
    pub(super) fn list(&self, nodes: &[String]) -> anyhow::Result<()> {
        let directory = self.directory.path();
        let text = fill(self.peer.family, directory, self.tls, self.side, nodes);
        Ok(fs::write(directory.join("configuration"), text)?)
    }

    /// Replaces the proxy's certificate.
    pub(super) fn renew(&self) -> anyhow::Result<()> {
        certify(self.directory.path(), "other")
    }

    /// Makes the proxy read its configuration again, as its documentation says; `forced` if it would not
    /// notice that a file named there has changed.
    pub(super) fn reload(&mut self, forced: bool) -> anyhow::Result<()> {
        let (main, before) = (self.main, self.carriers()?);
        match self.peer.family {
            Family::Moorline => {
                let before = self.log()?.matches("reloaded").count();
                signal(main, "HUP")?;
                self.until("it has reloaded", |stand| {
                    Ok(stand.log()?.matches("reloaded").count() > before)
                })
            }
            Family::Nginx | Family::Haproxy => {
                let name = if self.peer.family == Family::Nginx { "HUP" } else { "USR2" };
                signal(main, name)?;
                self.until("a new worker is there", |stand| {
                    Ok(stand.carriers()?.iter().any(|worker| !before.contains(worker)))
                })
            }
            Family::Caddy => {
                let mut command = Command::new(&self.peer.program);
                homeless(&mut command, self.directory.path());
                command.args(["reload", "--adapter", "caddyfile", "--config"]);
                command.arg(self.directory.path().join("configuration"));
                command.args(["--address", &self.side.to_string()]);
                command.args(forced.then_some("--force"));
                let done = command.output()?;
                let errors = String::from_utf8_lossy(&done.stderr).into_owned();
                ensure!(done.status.success(), "the reload failed: {}", errors.trim());
                Ok(())
            }
            Family::Envoy => bail!("only the gateway is compared with Envoy"),
        }
    }

    /// Upgrades to the same binary; `false` if the proxy cannot.
    pub(super) fn upgrade(&mut self) -> anyhow::Result<bool> {
        let (main, before) = (self.main, self.carriers()?);
        match self.peer.family {
            Family::Caddy | Family::Envoy => return Ok(false),
            Family::Haproxy => self.reload(true)?,
            Family::Moorline => {
                signal(main, "USR2")?;
                self.until("a new process is ready", |stand| {
                    Ok(stand.log()?.lines().filter(|line| line.ends_with(" INFO ready")).count()
                        > 1)
                })?;
            }
            Family::Nginx => {
                signal(main, "USR2")?;
                // For a moment there are two masters; the old one then ends after its clients.
                self.until("a new master has workers", |stand| {
                    let masters = process::children(main)?;
                    let new = masters.iter().filter(|child| !before.contains(child));
                    let workers = new.map(|master| process::children(*master).unwrap_or_default());
                    Ok(workers.flatten().next().is_some() && !stand.carriers()?.is_empty())
                })?;
                signal(main, "QUIT")?;
            }
        }
        Ok(true)
    }

    /// Processes of `before` that still run, except the one that stays.
    pub(super) fn left(&mut self, before: &[u32], upgraded: bool) -> anyhow::Result<Left> {
        let now = self.processes()?;
        if now.iter().all(|pid| before.contains(pid)) {
            return Ok(Left::default());
        }
        // The process that starts the others holds no connection; it counts only if it has a successor.
        let stays = self.peer.family == Family::Haproxy || !upgraded;
        let main = self.main;
        let old = now.iter().filter(|pid| before.contains(pid) && !(stays && **pid == main));
        let mut left = Left::default();
        for pid in old {
            left.processes += 1;
            // A process that has just ended has no memory.
            left.bytes += process::memory(*pid).unwrap_or(0);
        }
        Ok(left)
    }

    /// All processes of the proxy.
    pub(super) fn processes(&mut self) -> anyhow::Result<Vec<u32>> {
        let mut all = vec![self.main];
        let mut next = 0;
        while let Some(&pid) = all.get(next) {
            all.extend(process::children(pid).unwrap_or_default());
            next += 1;
        }
        self.seen.extend(&all);
        Ok(all)
    }

    /// Processes that carry connections.
    fn carriers(&mut self) -> anyhow::Result<Vec<u32>> {
        let all = self.processes()?;
        Ok(match self.peer.family {
            Family::Nginx | Family::Haproxy => all[1..].to_vec(),
            Family::Moorline | Family::Caddy | Family::Envoy => all,
        })
    }

    /// The daemon that nginx forks at its start.
    fn daemon(&mut self) -> anyhow::Result<u32> {
        let file = self.directory.path().join("nginx.pid");
        let read = || fs::read_to_string(&file).ok()?.trim().parse().ok();
        self.until("nginx has written its process id", |_| Ok(read().is_some()))?;
        read().context("nginx.pid")
    }

    fn log(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.directory.path().join("log"))?)
    }

    fn until(
        &mut self,
        what: &str,
        is: impl Fn(&mut Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is(self).with_context(|| self.log().unwrap_or_default())? {
            if Instant::now() > deadline {
                bail!("{}: not after {PATIENCE:?}: {what}: {}", self.peer.title, self.log()?);
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Stand<'_> {
    fn drop(&mut self) {
        let _ = self.processes();
        let mut command = Command::new("kill");
        command.arg("-KILL").args(self.seen.iter().map(u32::to_string));
        let _ = command.stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

fn command(peer: &Peer, directory: &Path) -> Command {
    let file = directory.join("configuration");
    let mut command = Command::new(&peer.program);
    match peer.family {
        Family::Moorline => {
            // Logs reloads that change nothing; the admin socket is in this folder.
            command.arg("run").arg(file).env("RUST_LOG", "info,moorline::control=debug");
            command.env("XDG_RUNTIME_DIR", directory);
        }
        Family::Nginx => {
            command.arg("-p").arg(directory).arg("-c").arg(file);
        }
        Family::Haproxy => {
            command.args(["-W", "-L", "local", "-f"]).arg(file);
        }
        Family::Caddy => {
            homeless(&mut command, directory);
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
        }
        Family::Envoy => {}
    }
    command
}

/// Keeps Caddy's files out of the user's home.
fn homeless(command: &mut Command, directory: &Path) {
    for name in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
        command.env(name, directory);
    }
}

/// Copies a test certificate to the path that the configurations name.
fn certify(directory: &Path, name: &str) -> anyhow::Result<()> {
    let part = |end| fs::read(Path::new(CERTS).join(format!("{name}.{end}")));
    let (cert, key) = (part("pem")?, part("key")?);
    // HAProxy needs chain and key in one file.
    fs::write(directory.join("both.pem"), [&cert[..], &key].concat())?;
    fs::write(directory.join("site.pem"), cert)?;
    Ok(fs::write(directory.join("site.key"), key)?)
}

fn fill(
    family: Family,
    directory: &Path,
    tls: SocketAddr,
    side: SocketAddr,
    nodes: &[String],
) -> String {
    let (template, servers) = match family {
        Family::Moorline => {
            let quoted: Vec<_> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
            (include_str!("../peers/continuity/moorline.toml"), quoted.join(", "))
        }
        Family::Nginx => {
            let line = |node| format!("        server {node};\n");
            (include_str!("../peers/continuity/nginx.conf"), nodes.iter().map(line).collect())
        }
        Family::Haproxy => {
            // Named by port, so that each node keeps its name.
            let line = |node: &String| {
                let name = node.replace(':', "-");
                format!("    server {name} {node} check\n")
            };
            (include_str!("../peers/continuity/haproxy.cfg"), nodes.iter().map(line).collect())
        }
        Family::Caddy => (include_str!("../peers/continuity/Caddyfile"), nodes.join(" ")),
        Family::Envoy => unreachable!("only the gateway is compared with Envoy"),
    };
    let words = [
        ("{servers}", servers),
        ("{directory}", directory.display().to_string()),
        ("{tls}", tls.to_string()),
        ("{tls.port}", tls.port().to_string()),
        ("{admin}", side.to_string()),
        ("{peers}", side.to_string()),
    ];
    words.iter().fold(template.to_owned(), |text, (word, value)| text.replace(word, value))
}

fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status()?;
    ensure!(status.success(), "kill -{name} {pid}");
    Ok(())
}
