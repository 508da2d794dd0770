//! A real name server: Knot DNS, with one zone that a test writes as it goes.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use super::{eventually, wait_for};

/// The zone that every server here has.
pub(crate) const ZONE: &str = "fleet.test";

/// A server's place and zone; it may be down. Dropping it kills the process.
pub(crate) struct NameServer {
    /// Where it answers over UDP and TCP.
    pub(crate) address: SocketAddr,
    directory: TempDir,
    serial: u32,
    process: Option<Child>,
}

impl NameServer {
    /// Starts one whose zone has these records, each a line.
    pub(crate) async fn start(records: &str) -> Self {
        let mut server = Self::down(free_port());
        server.up(records).await;
        server
    }

    /// One that is still to come up, at this address.
    pub(crate) fn down(address: SocketAddr) -> Self {
        Self { address, directory: tempfile::tempdir().unwrap(), serial: 1, process: None }
    }

    /// Starts the process with these records.
    pub(crate) async fn up(&mut self, records: &str) {
        self.write(&self.zone(records));
        self.run().await;
        wait_for("an answer of the name server", || self.asks(&format!("ns.{ZONE}"))).await;
    }

    /// Starts it with a zone that cannot be read: every question about it gets SERVFAIL.
    pub(crate) async fn up_broken(&mut self) {
        self.write("this is no zone\n");
        self.run().await;
        eventually("SERVFAIL of the name server", || {
            let output = self.kdig(&format!("ns.{ZONE}"), &[]);
            output.contains("SERVFAIL")
        })
        .await;
    }

    /// Puts other records in place of all there were.
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
        wait_for("the new zone at the name server", || self.asks(&name)).await;
    }

    /// Kills the process.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        // What it kept of its zone would outlive a broken file.
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

    /// Whether the server has an address of this name.
    fn asks(&self, name: &str) -> Option<()> {
        (!self.kdig(name, &["+short"]).trim().is_empty()).then_some(())
    }

    fn kdig(&self, name: &str, how: &[&str]) -> String {
        let server = format!("@{}", self.address.ip());
        let port = self.address.port().to_string();
        let output = Command::new("kdig")
            .args([&server, "-p", &port, name, "A", "+timeout=1", "+retry=0"])
            .args(how)
            .output()
            .expect("kdig, which tests/setup installs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if said.contains("WARNING") || said.contains("ERROR") { String::new() } else { said }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// First port that is handed out, and how many there are: all below those that the kernel gives out for
/// port 0 and for outgoing connections, so that nobody else comes by one by chance.
const FIRST: u32 = 11_000;
const PORTS: u32 = 21_000;

/// How many a process begins with of its own: tests run at once in processes of near numbers.
const OWN: u32 = 16;

/// A port of the loopback that is free over UDP and TCP; no process gets one twice.
pub(crate) fn free_port() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(OWN);
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

/// A name server that lies: each question is answered by `answer`, a function of the question's bytes;
/// an empty answer is not sent.
pub(crate) fn liar(
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

/// An answer to a question: its own header and question, then A records by owner and address. Where
/// the question is for another type, there are none.
pub(crate) fn answer_to(question: &[u8], records: &[(&[u8], [u8; 4])]) -> Vec<u8> {
    let (_, asked) = asked(question);
    let records = if asked == A { records } else { &[] };
    let records: Vec<_> =
        records.iter().map(|(owner, address)| (*owner, A, 0, address.to_vec())).collect();
    answer(question, 0, &records)
}

/// The types of an address's record in both families, and of a service's.
pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;
pub(crate) const SRV: u16 = 33;

/// The code of a server that has failed, of a name that does not exist, and of a refusal.
pub(crate) const SERVFAIL: u8 = 2;
pub(crate) const NXDOMAIN: u8 = 3;
pub(crate) const REFUSED: u8 = 5;

/// The name and the type that a question is for.
pub(crate) fn asked(question: &[u8]) -> (&[u8], u16) {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    (&question[12..end], u16::from_be_bytes([question[end], question[end + 1]]))
}

/// An answer to a question with a code and records: owner, type, time to live, data.
pub(crate) fn answer(question: &[u8], code: u8, records: &[(&[u8], u16, u32, Vec<u8>)]) -> Vec<u8> {
    let (name, _) = asked(question);
    let mut answer = question[..2].to_vec();
    // A response, recursion desired and available; one question, so many answers.
    answer.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    answer.extend(&question[12..12 + name.len() + 4]);
    for (owner, kind, ttl, data) in records {
        answer.extend(*owner);
        answer.extend(kind.to_be_bytes());
        // IN.
        answer.extend([0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
    }
    answer
}

/// The name that was asked for, as an owner.
pub(crate) const SAME: &[u8] = &[0xc0, 12];
