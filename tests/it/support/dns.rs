//! A real name server (Knot DNS) with one zone that a test can change, and a fake one.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use super::{eventually, wait_for};

/// The zone of every server here.
pub(crate) const ZONE: &str = "fleet.test";

/// A server with its address and zone. It may be down. Dropping it kills the process.
pub(crate) struct NameServer {
    /// Address for UDP and TCP.
    pub(crate) address: SocketAddr,
    directory: TempDir,
    serial: u32,
    process: Option<Child>,
}

impl NameServer {
    /// Starts a server whose zone has these records, one per line.
    pub(crate) async fn start(records: &str) -> Self {
        let mut server = Self::down(free_port());
        server.up(records).await;
        server
    }

    /// A server at this address that is not started yet.
    pub(crate) fn down(address: SocketAddr) -> Self {
        Self { address, directory: tempfile::tempdir().unwrap(), serial: 1, process: None }
    }

    /// Starts the process with these records.
    pub(crate) async fn up(&mut self, records: &str) {
        self.write(&self.zone(records));
        self.run().await;
        wait_for("an answer of the name server", || self.resolves(&format!("ns.{ZONE}"))).await;
    }

    /// Starts the process with an invalid zone file: every question about the zone gets SERVFAIL.
    pub(crate) async fn up_broken(&mut self) {
        self.write("not a zone file\n");
        self.run().await;
        eventually("SERVFAIL of the name server", || {
            let output = self.kdig(&format!("ns.{ZONE}"), &[]);
            output.contains("SERVFAIL")
        })
        .await;
    }

    /// Replaces all records.
    pub(crate) async fn set(&mut self, records: &str) {
        self.serial += 1;
        let marker = format!("marker-{} 0 A 127.0.0.1\n", self.serial);
        self.write(&self.zone(&format!("{records}\n{marker}")));
        let control = self.directory.path().join("knot.sock");
        let output = Command::new("knotc")
            .arg("-s")
            .arg(control)
            .args(["-b", "zone-reload", ZONE])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let name = format!("marker-{}.{ZONE}", self.serial);
        wait_for("the new zone at the name server", || self.resolves(&name)).await;
    }

    /// Kills the process.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        // Without this, the server would answer from its stored zone if the file is broken.
        let _ = fs::remove_dir_all(self.directory.path().join("db"));
    }

    fn write(&self, zone: &str) {
        fs::write(self.directory.path().join("zone"), zone).unwrap();
    }

    fn zone(&self, records: &str) -> String {
        let serial = self.serial;
        format!(
            "$ORIGIN {ZONE}.\n@ 0 SOA ns hostmaster {serial} 3600 600 86400 0\n@ 0 NS ns\n\
             ns 0 A 127.0.0.1\n{records}\n"
        )
    }

    async fn run(&mut self) {
        let directory = self.directory.path();
        let (shown, address) = (directory.display(), self.address);
        let configuration = format!(
            "server:\n    rundir: \"{shown}\"\n    listen: {}@{}\n\
             database:\n    storage: \"{shown}/db\"\n\
             log:\n  - target: stderr\n    any: warning\n\
             zone:\n  - domain: {ZONE}\n    file: \"{shown}/zone\"\n",
            address.ip(),
            address.port(),
        );
        let file = directory.join("knot.conf");
        fs::write(&file, configuration).unwrap();
        let process = Command::new("knotd")
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("knotd, which tests/setup installs");
        self.process = Some(process);
    }

    /// `Some` if the server has an address for this name.
    fn resolves(&self, name: &str) -> Option<()> {
        (!self.kdig(name, &["+short"]).trim().is_empty()).then_some(())
    }

    fn kdig(&self, name: &str, options: &[&str]) -> String {
        let server = format!("@{}", self.address.ip());
        let port = self.address.port().to_string();
        let output = Command::new("kdig")
            .args([&server, "-p", &port, name, "A", "+timeout=1", "+retry=0"])
            .args(options)
            .output()
            .expect("kdig, which tests/setup installs");
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        if answer.contains("WARNING") || answer.contains("ERROR") { String::new() } else { answer }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// First port, and number of ports, of [`free_port`]. All are below the range that the kernel uses for port 0
/// and for outgoing connections, so no other process gets one by chance.
const FIRST: u32 = 11_000;
const PORTS: u32 = 21_000;

/// Ports that each process starts with. Parallel test processes have neighboring ids.
const PORTS_PER_PROCESS: u32 = 16;

/// Returns a loopback address whose port is free for UDP and TCP. A process gets each port once.
pub(crate) fn free_port() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(PORTS_PER_PROCESS);
    for _ in 0..PORTS {
        let place = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let port = u16::try_from(FIRST + place).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port is free");
}

/// Starts a name server that sends `answer(question)` for each question. An empty answer is not sent.
pub(crate) fn fake_server(
    answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
) -> (SocketAddr, tokio::task::AbortHandle) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((count, peer)) = socket.recv_from(&mut buffer).await {
            let answer = answer(&buffer[..count]);
            if !answer.is_empty() {
                let _ = socket.send_to(&answer, peer).await;
            }
        }
    });
    (address, task.abort_handle())
}

/// Makes an answer with A records, given by owner and address. The answer to a question for another type
/// has no records.
pub(crate) fn answer_with_addresses(question: &[u8], records: &[(&[u8], [u8; 4])]) -> Vec<u8> {
    let (_, asked) = asked(question);
    let records = if asked == A { records } else { &[] };
    let records: Vec<_> =
        records.iter().map(|(owner, address)| (*owner, A, 0, address.to_vec())).collect();
    answer(question, 0, &records)
}

/// Record types: IPv4 address, IPv6 address, service.
pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;
pub(crate) const SRV: u16 = 33;

/// Response codes: server failure, nonexistent name, refused.
pub(crate) const SERVFAIL: u8 = 2;
pub(crate) const NXDOMAIN: u8 = 3;
pub(crate) const REFUSED: u8 = 5;

/// Returns the name and the type of a question.
pub(crate) fn asked(question: &[u8]) -> (&[u8], u16) {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    (&question[12..end], u16::from_be_bytes([question[end], question[end + 1]]))
}

/// Makes an answer with a response code and records: owner, type, time to live, data.
pub(crate) fn answer(question: &[u8], code: u8, records: &[(&[u8], u16, u32, Vec<u8>)]) -> Vec<u8> {
    let (name, _) = asked(question);
    let mut answer = question[..2].to_vec();
    // Flags: response, recursion desired and available. Counts: one question, the answers.
    answer.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    answer.extend(&question[12..12 + name.len() + 4]);
    for (owner, kind, ttl, data) in records {
        answer.extend(*owner);
        answer.extend(kind.to_be_bytes());
        // Class IN.
        answer.extend([0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
    }
    answer
}

/// Owner of a record: a compression pointer to the name in the question (RFC 1035 §4.1.4).
pub(crate) const QUESTION_NAME: &[u8] = &[0xc0, 12];
