//! This proxy and its peers: how each is found, configured, started and ended.

use std::{
    fs::{self, File},
    io,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use crate::{
    local::{CERTS, free_address},
    origin::Origin,
    process::{self, Cores},
};

/// Longest time from the start of a proxy to its first accepted connection.
const STARTING: Duration = Duration::from_secs(10);

/// A program to measure.
pub(crate) struct Peer {
    /// Name and version, as shown.
    pub(crate) title: String,
    pub(crate) family: Family,
    pub(crate) program: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Moorline,
    Nginx,
    Haproxy,
    Caddy,
    /// Compared by filters of the gateway only.
    Envoy,
}

/// Which of a proxy's listeners a load goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerKind {
    Plain,
    /// TLS with the ECDSA certificate.
    Tls,
    /// TLS with the RSA certificate.
    Rsa,
    /// TLS that the origin terminates.
    Passed,
}

/// The kind of proxying that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    /// HTTP.
    Http,
    /// HTTP by two workers.
    TwoWorkers,
    /// Byte streams, with or without `splice(2)`.
    Layer4 { splice: bool },
    /// A filter of the gateway.
    Gateway(Work),
}

/// What a filter of the gateway does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Answers with a stored response.
    Cache,
    /// Sends a file.
    Files,
    /// Compresses a file for each request.
    Compress,
    /// Asks another server about each request.
    Authentication,
}

/// A running proxy; killed when dropped.
pub(crate) struct Proxy {
    child: Child,
    /// The processes that carry connections.
    pub(crate) workers: Vec<u32>,
    addresses: ListenerAddresses,
    directory: TempDir,
}

/// Addresses of a proxy's listeners.
struct ListenerAddresses {
    plain: SocketAddr,
    tls: SocketAddr,
    rsa: SocketAddr,
    passed: SocketAddr,
}

impl Family {
    const PEERS: [Self; 4] = [Self::Nginx, Self::Haproxy, Self::Caddy, Self::Envoy];

    fn name(self) -> &'static str {
        match self {
            Self::Moorline => "Moorline",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Caddy => "Caddy",
            Self::Envoy => "Envoy",
        }
    }

    /// Servers of Debian are not on a user's `PATH`.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Moorline => &[env!("CARGO_BIN_EXE_moorline")],
            Self::Nginx => &["/usr/sbin/nginx", "nginx"],
            Self::Haproxy => &["/usr/sbin/haproxy", "haproxy"],
            Self::Caddy => &["/usr/bin/caddy", "caddy"],
            // The script installs it there.
            Self::Envoy => &[
                concat!(env!("CARGO_MANIFEST_DIR"), "/target/compare/envoy/envoy/_bin/envoy"),
                "envoy",
            ],
        }
    }

    fn version(self, program: &Path) -> io::Result<String> {
        let argument = match self {
            Self::Moorline | Self::Envoy => "--version",
            Self::Nginx | Self::Haproxy => "-v",
            Self::Caddy => "version",
        };
        let output = Command::new(program).arg(argument).output()?;
        let output = [output.stdout, output.stderr].concat();
        Ok(version(&String::from_utf8_lossy(&output)).to_owned())
    }

    /// `None` if the proxy does not support the scene.
    pub(crate) fn template(self, scene: Scene) -> Option<&'static str> {
        let http = matches!(scene, Scene::Http | Scene::TwoWorkers);
        if let Scene::Gateway(work) = scene {
            return self.gateway_template(work);
        }
        Some(match self {
            Self::Moorline if http => include_str!("peers/moorline.toml"),
            Self::Nginx if http => include_str!("peers/nginx.conf"),
            Self::Haproxy if http => include_str!("peers/haproxy.cfg"),
            Self::Caddy if http => include_str!("peers/Caddyfile"),
            Self::Moorline => include_str!("peers/layer4/moorline.toml"),
            Self::Nginx => include_str!("peers/layer4/nginx.conf"),
            Self::Haproxy => include_str!("peers/layer4/haproxy.cfg"),
            Self::Caddy | Self::Envoy => return None,
        })
    }

    fn gateway_template(self, work: Work) -> Option<&'static str> {
        Some(match (self, work) {
            (Self::Moorline, _) => include_str!("peers/gateway/moorline.toml"),
            (Self::Nginx, _) => include_str!("peers/gateway/nginx.conf"),
            (Self::Envoy, _) => include_str!("peers/gateway/envoy.yaml"),
            (Self::Haproxy, Work::Cache | Work::Files) => {
                include_str!("peers/gateway/haproxy.cfg")
            }
            (Self::Caddy, Work::Files | Work::Compress | Work::Authentication) => {
                include_str!("peers/gateway/Caddyfile")
            }
            // HAProxy compresses only what servers send, and asks no other server. Debian's Caddy stores no responses.
            (Self::Haproxy | Self::Caddy, _) => return None,
        })
    }
}

impl Scene {
    fn workers(self) -> usize {
        match self {
            Self::TwoWorkers => 2,
            Self::Http | Self::Layer4 { .. } | Self::Gateway(_) => 1,
        }
    }
}

impl Peer {
    /// This build, the build of `--against`, and the installed peers.
    pub(crate) fn installed(against: Option<&Path>) -> anyhow::Result<Vec<Self>> {
        let mut peers = Vec::new();
        let ours = PathBuf::from(env!("CARGO_BIN_EXE_moorline"));
        let title = format!("Moorline {}", Family::Moorline.version(&ours)?);
        peers.push(Self { title, family: Family::Moorline, program: ours });
        if let Some(other) = against {
            let other = other.canonicalize().with_context(|| format!("{}", other.display()))?;
            let title = "Moorline (--against)".to_owned();
            peers.push(Self { title, family: Family::Moorline, program: other });
        }
        for family in Family::PEERS {
            let found = family.programs().iter().map(PathBuf::from).find_map(|program| {
                family.version(&program).ok().map(|version| (program, version))
            });
            match found {
                Some((program, version)) => {
                    let title = format!("{} {version}", family.name());
                    peers.push(Self { title, family, program });
                }
                None => println!("{} is not installed: left out", family.name()),
            }
        }
        Ok(peers)
    }

    /// Starts it in front of `origin` and waits until it accepts connections.
    pub(crate) fn start(
        &self,
        cores: &Cores,
        origin: &Origin,
        scene: Scene,
    ) -> anyhow::Result<Proxy> {
        let template =
            self.family.template(scene).context("the proxy does not support this scene")?;
        let command = |directory: &Path, file: &Path| {
            let mut command = self.command(cores, scene.workers(), directory, file)?;
            if scene == (Scene::Layer4 { splice: false }) {
                match self.family {
                    Family::Moorline => _ = command.env("MOORLINE_SPLICE", "off"),
                    Family::Haproxy => _ = command.arg("-dS"),
                    // The free nginx and Caddy cannot splice.
                    Family::Nginx | Family::Caddy | Family::Envoy => {}
                }
            }
            Ok(command)
        };
        self.launch(origin, scene.workers(), template, command)
    }

    /// Starts a proxy with the configuration `template`.
    pub(crate) fn start_with(
        &self,
        cores: &Cores,
        origin: &Origin,
        template: &str,
    ) -> anyhow::Result<Proxy> {
        self.launch(origin, 1, template, |directory, file| self.command(cores, 1, directory, file))
    }

    fn launch(
        &self,
        origin: &Origin,
        workers: usize,
        template: &str,
        command: impl FnOnce(&Path, &Path) -> anyhow::Result<Command>,
    ) -> anyhow::Result<Proxy> {
        let directory = tempfile::tempdir()?;
        write_files(directory.path())?;
        let addresses = ListenerAddresses {
            plain: free_address()?,
            tls: free_address()?,
            rsa: free_address()?,
            passed: free_address()?,
        };
        let file = directory.path().join(match self.family {
            Family::Caddy => "Caddyfile",
            Family::Moorline => "moorline.toml",
            Family::Nginx | Family::Haproxy => "configuration",
            Family::Envoy => "envoy.yaml",
        });
        fs::write(&file, addresses.fill(template, origin, workers, directory.path()))?;
        let log_file = directory.path().join("log");
        let log = File::create(&log_file)?;
        let child = command(directory.path(), &file)?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut proxy = Proxy { child, workers: Vec::new(), addresses, directory };
        if let Err(error) = proxy.started(self.family, workers) {
            let log = fs::read_to_string(log_file)?;
            bail!("{}: {error:#}; its log: {}", self.title, log.trim());
        }
        Ok(proxy)
    }

    fn command(
        &self,
        cores: &Cores,
        workers: usize,
        directory: &Path,
        file: &Path,
    ) -> anyhow::Result<Command> {
        let mut command = cores.command(&self.program.to_string_lossy(), workers);
        match self.family {
            Family::Moorline => {
                command.arg("run").arg(file);
            }
            Family::Nginx => {
                command.arg("-p").arg(directory).arg("-c").arg(file);
            }
            Family::Haproxy => {
                // HAProxy needs chain and key in one file.
                for name in ["site", "other"] {
                    let part = |end| fs::read(Path::new(CERTS).join(format!("{name}.{end}")));
                    let both = [part("pem")?, part("key")?].concat();
                    fs::write(directory.join(format!("{name}.both.pem")), both)?;
                }
                command.arg("-db").arg("-f").arg(file);
            }
            Family::Caddy => {
                // Files that Caddy would otherwise write to the user's home.
                for name in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
                    command.env(name, directory);
                }
                command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
            }
            Family::Envoy => {
                command.arg("--concurrency").arg(workers.to_string());
                command.args(["--disable-hot-restart", "--log-level", "error", "-c"]).arg(file);
            }
        }
        Ok(command)
    }
}

/// Writes the page that proxies serve, 16 KiB of text.
fn write_files(directory: &Path) -> io::Result<()> {
    let text = include_str!("reading.md");
    let page: String = text.chars().filter(char::is_ascii).cycle().take(16 << 10).collect();
    for name in ["files", "gzip"] {
        let folder = directory.join("www").join(name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("page.html"), &page)?;
    }
    Ok(())
}

impl ListenerAddresses {
    /// The template with the words in braces replaced.
    fn fill(&self, template: &str, origin: &Origin, workers: usize, directory: &Path) -> String {
        let mut words = vec![
            ("{plain}".to_owned(), self.plain.to_string()),
            ("{plain.port}".to_owned(), self.plain.port().to_string()),
            ("{tls}".to_owned(), self.tls.to_string()),
            ("{tls.port}".to_owned(), self.tls.port().to_string()),
            ("{rsa}".to_owned(), self.rsa.to_string()),
            ("{rsa.port}".to_owned(), self.rsa.port().to_string()),
            ("{passed}".to_owned(), self.passed.to_string()),
            ("{origin}".to_owned(), origin.echo.to_string()),
            ("{origin.host}".to_owned(), origin.echo.ip().to_string()),
            ("{origin.port}".to_owned(), origin.echo.port().to_string()),
            ("{secure}".to_owned(), origin.secure.to_string()),
            ("{certs}".to_owned(), CERTS.to_owned()),
            ("{workers}".to_owned(), workers.to_string()),
            ("{directory}".to_owned(), directory.display().to_string()),
        ];
        let nodes = origin.nodes.iter().enumerate();
        words.extend(nodes.map(|(n, node)| (format!("{{node{n}}}"), node.clone())));
        words.iter().fold(template.to_owned(), |text, (word, value)| text.replace(word, value))
    }
}

impl Proxy {
    /// The URL for clients, for example `https://localhost:1234`.
    pub(crate) fn url(&self, listener: ListenerKind) -> String {
        let (scheme, address) = match listener {
            ListenerKind::Plain => ("http", self.addresses.plain),
            ListenerKind::Tls => ("https", self.addresses.tls),
            ListenerKind::Rsa => ("https", self.addresses.rsa),
            ListenerKind::Passed => ("https", self.addresses.passed),
        };
        format!("{scheme}://localhost:{}", address.port())
    }

    /// Folder of the proxy's files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn started(&mut self, family: Family, workers: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + STARTING;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}");
            }
            let pid = self.child.id();
            // nginx accepts in its children; the others have none.
            self.workers = match family {
                // Beside its workers, it has processes for stored responses.
                Family::Nginx => process::children_titled(pid, "worker process")?,
                Family::Moorline | Family::Haproxy | Family::Caddy | Family::Envoy => vec![pid],
            };
            let complete = match family {
                Family::Nginx => self.workers.len() == workers,
                Family::Moorline | Family::Haproxy | Family::Caddy | Family::Envoy => true,
            };
            if complete && TcpStream::connect(self.addresses.plain).is_ok() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not started after {STARTING:?}");
            thread::sleep(Duration::from_millis(20));
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

/// The first word that starts with a digit and has a dot, after a slash or on its own.
fn version(output: &str) -> &str {
    output
        .split([' ', '/', '\n'])
        .map(|word| word.strip_prefix('v').unwrap_or(word))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .map_or("", |word| word.split('-').next().unwrap_or(word))
}
