//! A real ACME server: Pebble, which knows every name as 127.0.0.1.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{dns::free_port, eventually, relay::Relay, tls::Certificate, wait_for, within};

/// A server with its own certificate; it forgets everything when it is stopped. Dropping it kills the
/// processes.
pub(crate) struct Pebble {
    directory: TempDir,
    certificate: Certificate,
    address: SocketAddr,
    management: SocketAddr,
    names: SocketAddr,
    resolver: Child,
    process: Option<Child>,
}

impl Pebble {
    /// Starts one that looks for proofs at these ports and issues for so many seconds.
    pub(crate) async fn start(tls: SocketAddr, http: SocketAddr, valid: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let certificate = Certificate::make(directory.path(), "localhost");
        let (names, chores) = (free_port(), free_port());
        let resolver = Command::new("pebble-challtestsrv")
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""])
            .args(["-dns01", &names.to_string(), "-management", &chores.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pebble-challtestsrv, which tests/setup installs");
        let (address, management) = (free_port(), free_port());
        let settings = serde_json::json!({ "pebble": {
            "listenAddress": address.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": certificate.cert,
            "privateKey": certificate.key,
            "httpPort": http.port(),
            "tlsPort": tls.port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": valid,
        }});
        fs::write(directory.path().join("pebble.json"), settings.to_string()).unwrap();
        let process = None;
        let mut pebble =
            Self { directory, certificate, address, management, names, resolver, process };
        pebble.up().await;
        pebble
    }

    /// Starts the process, which knows nothing of before.
    pub(crate) async fn up(&mut self) {
        let log = File::create(self.log()).unwrap();
        let process = Command::new("pebble")
            .arg("-config")
            .arg(self.directory.path().join("pebble.json"))
            .args(["-dnsserver", &self.names.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            // Whether a name has to be proved again is not to be left to chance.
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("pebble, which tests/setup installs");
        self.process = Some(process);
        eventually("Pebble listens", || {
            [self.address, self.management]
                .iter()
                .all(|address| std::net::TcpStream::connect(address).is_ok())
        })
        .await;
    }

    /// Kills the process.
    pub(crate) fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// A relay before the server, on a port of its own, whose downloads can be made to fail.
    pub(crate) async fn relay(&self) -> Relay {
        Relay::start(self.address, &self.certificate).await
    }

    /// The table for a listener's `certificates`, through a relay.
    pub(crate) fn setting_through(&self, relay: &Relay, domains: &[&str]) -> String {
        let (own, relayed) = (self.address.port(), relay.address.port());
        self.setting(domains)
            .replace(&format!("localhost:{own}/"), &format!("localhost:{relayed}/"))
    }

    /// The table for a listener's `certificates`, for these names.
    pub(crate) fn setting(&self, domains: &[&str]) -> String {
        self.setting_by(domains, &self.certificate.cert)
    }

    /// The same with another file for who vouches for the server.
    pub(crate) fn setting_by(&self, domains: &[&str], ca: &PathBuf) -> String {
        let port = self.address.port();
        format!(
            "{{ acme = {{ directory = \"https://localhost:{port}/dir\", email = \"ops@example.com\", \
             domains = {domains:?}, ca = {ca:?} }} }}"
        )
    }

    /// Orders that it has taken so far, those for a stale nonce not counted.
    pub(crate) fn orders(&self) -> usize {
        self.said("Added order")
    }

    /// Accounts that it has made so far.
    pub(crate) fn accounts(&self) -> usize {
        self.said("accounts in memory")
    }

    /// How many lines of its log hold these words.
    pub(crate) fn said(&self, words: &str) -> usize {
        let log = fs::read_to_string(self.log()).unwrap();
        log.lines().filter(|line| line.contains(words)).count()
    }

    /// Who vouches for what it issues.
    pub(crate) async fn root(&self) -> CertificateDer<'static> {
        let tcp = TcpStream::connect(self.management).await.unwrap();
        let mut tls = within("Pebble's handshake", self.certificate.client(tcp)).await.unwrap();
        let ask = "GET /roots/0 HTTP/1.0\r\nHost: localhost\r\n\r\n";
        tls.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = within("Pebble's root", tls.read_to_end(&mut answer)).await;
        CertificateDer::from_pem_slice(&answer).unwrap()
    }

    /// Waits until it has looked at a proof in vain.
    pub(crate) async fn refuses(&self) {
        wait_for("a proof that failed", || (self.said("set INVALID") > 0).then_some(())).await;
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.down();
        let _ = self.resolver.kill();
        let _ = self.resolver.wait();
    }
}
