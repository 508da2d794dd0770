//! Pebble, a real ACME server, with a DNS server that resolves every name to 127.0.0.1.

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

/// An ACME server with its own certificate. It loses its state when it is stopped. Dropping it kills its
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
    /// Starts a server that checks challenges at these ports. `valid`: lifetime of certificates in seconds.
    pub(crate) async fn start(tls: SocketAddr, http: SocketAddr, valid: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let certificate = Certificate::make(directory.path(), "localhost");
        let (names, resolver_management) = (free_port(), free_port());
        let resolver = Command::new("pebble-challtestsrv")
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""])
            .args(["-dns01", &names.to_string(), "-management", &resolver_management.to_string()])
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

    /// Starts the process, without accounts and orders.
    pub(crate) async fn up(&mut self) {
        let log = File::create(self.log()).unwrap();
        let process = Command::new("pebble")
            .arg("-config")
            .arg(self.directory.path().join("pebble.json"))
            .args(["-dnsserver", &self.names.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            // Never reuse an authorization: Pebble decides that at random.
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

    /// Starts a relay in front of the server that can make downloads fail.
    pub(crate) async fn relay(&self) -> Relay {
        Relay::start(self.address, &self.certificate).await
    }

    /// The value of `certificates` for these names, through a relay.
    pub(crate) fn setting_through(&self, relay: &Relay, domains: &[&str]) -> String {
        let (own, relayed) = (self.address.port(), relay.address.port());
        self.setting(domains)
            .replace(&format!("localhost:{own}/"), &format!("localhost:{relayed}/"))
    }

    /// The value of `certificates` for these names.
    pub(crate) fn setting(&self, domains: &[&str]) -> String {
        self.setting_by(domains, &self.certificate.cert)
    }

    /// The value of `certificates` for these names, with another `ca`.
    pub(crate) fn setting_by(&self, domains: &[&str], ca: &PathBuf) -> String {
        let port = self.address.port();
        format!(
            "{{ acme = {{ directory = \"https://localhost:{port}/dir\", email = \"ops@example.com\", \
             domains = {domains:?}, ca = {ca:?} }} }}"
        )
    }

    /// Number of orders so far, without requests that were rejected for their nonce.
    pub(crate) fn orders(&self) -> usize {
        self.log_lines("Added order")
    }

    /// Number of accounts created so far.
    pub(crate) fn accounts(&self) -> usize {
        self.log_lines("accounts in memory")
    }

    /// Number of log lines with these words.
    pub(crate) fn log_lines(&self, words: &str) -> usize {
        let log = fs::read_to_string(self.log()).unwrap();
        log.lines().filter(|line| line.contains(words)).count()
    }

    /// The root certificate of the issued certificates.
    pub(crate) async fn root(&self) -> CertificateDer<'static> {
        let tcp = TcpStream::connect(self.management).await.unwrap();
        let mut tls = within("Pebble's handshake", self.certificate.client(tcp)).await.unwrap();
        let ask = "GET /roots/0 HTTP/1.0\r\nHost: localhost\r\n\r\n";
        tls.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = within("Pebble's root", tls.read_to_end(&mut answer)).await;
        CertificateDer::from_pem_slice(&answer).unwrap()
    }

    /// Waits until a challenge has failed.
    pub(crate) async fn challenge_failed(&self) {
        wait_for("a failed challenge", || (self.log_lines("set INVALID") > 0).then_some(())).await;
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
