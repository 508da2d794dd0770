//! This proxy and its peers: how each is found, configured, started and ended.

use std::{
    fs::{self, File},
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::process::{self, Cores};

/// Where the package's test certificates are.
pub(crate) const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/certs");

const HAPROXY: &str = include_str!("../peers/haproxy.cfg");
const NGINX: &str = include_str!("../peers/nginx.conf");

/// Longest time from the start of a proxy to its first accepted connection.
const STARTING: Duration = Duration::from_secs(10);

/// A program to measure.
pub(crate) struct Kind {
    /// Name and version, for people.
    pub(crate) title: String,
    program: PathBuf,
    family: Family,
}

#[derive(Clone, Copy)]
enum Family {
    Moorline,
    Haproxy,
    Nginx,
}

/// A running proxy; killed when dropped.
pub(crate) struct Proxy {
    child: Child,
    /// The processes that carry connections.
    workers: Vec<u32>,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    _directory: TempDir,
}

impl Kind {
    /// This build, the one to compare it with, and the peers that are installed.
    pub(crate) fn installed(against: Option<&Path>) -> anyhow::Result<Vec<Self>> {
        let moorline = |program: PathBuf, title: &str| Self {
            title: title.to_owned(),
            program,
            family: Family::Moorline,
        };
        let mut kinds = vec![moorline(env!("CARGO_BIN_EXE_moorline").into(), "moorline")];
        kinds.extend(against.map(|other| moorline(other.into(), "the other")));
        for (name, family) in [("haproxy", Family::Haproxy), ("nginx", Family::Nginx)] {
            // Debian keeps servers out of a user's PATH.
            let program = PathBuf::from("/usr/sbin").join(name);
            let program = if program.exists() { program } else { name.into() };
            match Command::new(&program).arg("-v").output() {
                Ok(told) => {
                    let told = [told.stdout, told.stderr].concat();
                    let title = format!("{name} {}", version(&String::from_utf8_lossy(&told)));
                    kinds.push(Self { title, program, family });
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    println!("{name} is not installed: left out");
                }
                Err(e) => return Err(e).with_context(|| name.to_owned()),
            }
        }
        Ok(kinds)
    }

    /// Starts one in front of `origin` and waits until it accepts connections.
    pub(crate) async fn start(&self, cores: &Cores, origin: SocketAddr) -> anyhow::Result<Proxy> {
        let directory = tempfile::tempdir()?;
        let (plain, tls) = (free()?, free()?);
        let said = directory.path().join("said");
        let log = File::create(&said)?;
        let child = self
            .command(cores, directory.path(), origin, plain, tls)?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut proxy = Proxy { child, workers: Vec::new(), plain, tls, _directory: directory };
        if let Err(error) = proxy.started(self.family).await {
            bail!("{error:#}; it said: {}", fs::read_to_string(said)?.trim());
        }
        Ok(proxy)
    }

    fn command(
        &self,
        cores: &Cores,
        directory: &Path,
        origin: SocketAddr,
        plain: SocketAddr,
        tls: SocketAddr,
    ) -> anyhow::Result<Command> {
        let mut command = cores.command(&self.program.to_string_lossy());
        let filled = |template: &str| {
            let file = directory.join("configuration");
            let words = [
                ("{plain}", plain.to_string()),
                ("{tls}", tls.to_string()),
                ("{origin}", origin.to_string()),
                ("{certs}", CERTS.to_owned()),
                ("{directory}", directory.display().to_string()),
            ];
            let text = words
                .iter()
                .fold(template.to_owned(), |text, (word, value)| text.replace(word, value));
            fs::write(&file, text).map(|()| file)
        };
        match self.family {
            Family::Moorline => {
                let certs = Path::new(CERTS);
                command.args(["proxy", "--backend", &origin.to_string()]);
                command.args(["--listen", &plain.to_string(), "--listen-tls", &tls.to_string()]);
                command.arg("--cert").arg(certs.join("site.pem"));
                command.arg("--key").arg(certs.join("site.key"));
            }
            Family::Haproxy => {
                let certs = Path::new(CERTS);
                let both = [certs.join("site.pem"), certs.join("site.key")].map(fs::read);
                let [certificate, key] = both;
                fs::write(directory.join("site.both.pem"), [certificate?, key?].concat())?;
                command.arg("-db").arg("-f").arg(filled(HAPROXY)?);
            }
            Family::Nginx => {
                command.arg("-p").arg(directory).arg("-c").arg(filled(NGINX)?);
            }
        }
        Ok(command)
    }
}

impl Proxy {
    /// Memory of its workers in KiB.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        self.workers.iter().map(|&pid| process::memory(pid)).sum()
    }

    /// CPU time of its workers.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.workers.iter().map(|&pid| process::cpu(pid)).sum()
    }

    async fn started(&mut self, family: Family) -> anyhow::Result<()> {
        let deadline = Instant::now() + STARTING;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}");
            }
            let pid = self.child.id();
            // nginx accepts in its only child; the others have none.
            self.workers = match family {
                Family::Nginx => process::children(pid)?,
                Family::Moorline | Family::Haproxy => vec![pid],
            };
            let open = TcpStream::connect(self.plain).await.is_ok()
                && TcpStream::connect(self.tls).await.is_ok();
            if open && !self.workers.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not started after {STARTING:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx's worker would outlive its master.
        let mut command = Command::new("kill");
        command.arg("-KILL").args(self.workers.iter().map(u32::to_string));
        let _ = command.stderr(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first word that starts with a digit, after a slash or on its own.
fn version(told: &str) -> &str {
    told.split([' ', '/', '\n'])
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map_or("", |word| word.split('-').next().unwrap_or(word))
}

/// An address that was free a moment ago.
fn free() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
