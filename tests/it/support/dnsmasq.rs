//! A real dnsmasq with local records. It forwards other questions to an upstream server, if one is set.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use super::{dns::free_port, wait_for};

/// A running dnsmasq; dropping it kills the process.
pub(crate) struct Dnsmasq {
    /// Address for UDP and TCP.
    pub(crate) address: SocketAddr,
    process: Child,
}

impl Dnsmasq {
    /// Starts dnsmasq with these options and without the system's files.
    pub(crate) async fn start(options: &[String]) -> Self {
        let address = free_port();
        let process = Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv"])
            .args(["--bind-interfaces", "--listen-address=127.0.0.1", "--pid-file="])
            .args(["--user=root", "--cache-size=0", "--host-record=ready.test,127.0.0.1"])
            .arg(format!("--port={}", address.port()))
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq, which tests/setup installs");
        let server = Self { address, process };
        wait_for("an answer of dnsmasq", || {
            let port = address.port().to_string();
            let output = Command::new("dig")
                .args([
                    "@127.0.0.1",
                    "-p",
                    &port,
                    "ready.test",
                    "A",
                    "+short",
                    "+time=1",
                    "+tries=1",
                ])
                .output()
                .expect("dig, which tests/setup installs");
            String::from_utf8_lossy(&output.stdout).contains("127.0.0.1").then_some(())
        })
        .await;
        server
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
