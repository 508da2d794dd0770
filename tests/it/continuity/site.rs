//! A proxy in front of two groups of nodes, with their clients.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{
    authority::Authority,
    group::{Group, MAX_CHANGE, POLL_INTERVAL},
    node::Implementation,
};
use crate::support::{Proxy, eventually, proxy::Setup};

/// Nodes of each group at the start.
const NODES: usize = 3;

/// Part of the log line of a reload, with or without changes.
const RELOADED: &str = "reloaded";

/// Parts of the configuration that stages change.
#[derive(Clone, Debug, Default)]
pub(super) struct Variation {
    /// Lines before the first table.
    pub(super) top: String,
    /// Lines of both pools.
    pub(super) pools: String,
    /// Probe of both pools. `None`: `tcp`.
    pub(super) probe: Option<&'static str>,
    /// Further tables.
    pub(super) tables: String,
}

/// The proxy and both groups.
pub(super) struct Site {
    /// The proxy.
    pub(super) proxy: Proxy,
    /// The group of `moorline-load`, then the group of npm.
    pub(super) groups: [Group; 2],
    authority: Authority,
}

impl Site {
    /// Starts everything and waits until all clients are settled.
    pub(super) async fn start() -> Self {
        let setup = Setup::new();
        let directory = setup.directory().to_owned();
        let authority = Authority::make(&directory);
        authority.issue(&directory.join("site.pem"), &directory.join("site.key"));
        let mut groups = [Implementation::Harness, Implementation::Npm]
            .map(|implementation| Group::new(implementation, NODES, &directory));
        let setup = setup
            .text(Variation::default().to_toml())
            .env("RUST_LOG", "info,moorline::control=debug");
        let proxy = setup.start().await;
        let port = proxy.listener("secure").port();
        for group in &mut groups {
            group.connect_clients(port, &authority.file).await;
        }
        let mut site = Self { proxy, groups, authority };
        site.wait_until_settled().await;
        site
    }

    /// Waits until all clients are settled.
    pub(super) async fn wait_until_settled(&mut self) {
        for group in &mut self.groups {
            group.wait_until_settled().await;
        }
    }

    /// Writes the configuration, sends a reload signal, and waits until the configuration is applied.
    pub(super) async fn reload(&self, text: &Variation) -> Duration {
        let count = || self.proxy.stderr().iter().filter(|line| line.contains(RELOADED)).count();
        let before = count();
        let start = Instant::now();
        self.proxy.write(&text.to_toml());
        self.proxy.hangup();
        eventually("a reload", || count() > before).await;
        start.elapsed()
    }

    /// Reloads the unchanged file by a command.
    pub(super) async fn reload_by_command(&self) -> Duration {
        let start = Instant::now();
        self.proxy.command(&["reload"]).await.done();
        start.elapsed()
    }

    /// Waits until the proxy reports a node as up.
    pub(super) async fn wait_until_up(&self, pool: &str, address: &str) {
        let up = format!("moorline_backend_up{{pool=\"{pool}\",backend=\"{address}\"}}");
        self.proxy.wait_for_metric("a node is up", &up, |up| up == 1.0).await;
    }

    /// Waits until the proxy reports a node as down.
    pub(super) async fn wait_until_down(&self, pool: &str, address: &str) {
        let up = format!("moorline_backend_up{{pool=\"{pool}\",backend=\"{address}\"}}");
        self.proxy.wait_for_metric("a node is down", &up, |up| up == 0.0).await;
    }

    /// Waits until `is` holds for the numbers of tunnels of the pool's backends.
    pub(super) async fn wait_until_tunnels(&self, pool: &str, is: impl Fn(&[u64]) -> bool) {
        let deadline = Instant::now() + MAX_CHANGE;
        loop {
            let listed = self.proxy.command(&["backends", "--json"]).await.json();
            let pools = listed["pools"].as_array().unwrap();
            let ours = pools.iter().find(|entry| entry["name"] == pool).unwrap();
            let backends = ours["backends"].as_array().unwrap().iter();
            let staying = backends.filter(|backend| backend["state"] != "leaving");
            let tunnels: Vec<_> = staying.map(|it| it["tunnels"].as_u64().unwrap()).collect();
            if is(&tunnels) {
                return;
            }
            assert!(Instant::now() < deadline, "{pool} is not balanced: {tunnels:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Upgrades to a new process and waits until it serves.
    pub(super) async fn upgrade(&mut self) -> Duration {
        let start = Instant::now();
        self.proxy.upgrade().await;
        start.elapsed()
    }

    /// Replaces the certificate files and waits until new handshakes use the new certificate.
    pub(super) async fn renew_certificate(&self) -> Duration {
        let fresh = self.authority.issue(&self.file("site.pem"), &self.file("site.key"));
        let start = Instant::now();
        let address = self.proxy.listener("secure");
        loop {
            let tcp = TcpStream::connect(address).await.unwrap();
            // Clients trust the old and the new certificate, so every handshake must succeed.
            if self.authority.served_certificate(tcp).await.unwrap() == fresh {
                return start.elapsed();
            }
            assert!(start.elapsed() < crate::support::TIMEOUT, "the old certificate is still used");
        }
    }

    /// Disconnects all clients and stops the processes.
    pub(super) async fn finish(mut self) {
        for group in &mut self.groups {
            group.disconnect_clients().await;
        }
        // Wait for the predecessors: if a process ends before its predecessor, the predecessor sets the exit code.
        self.proxy.wait_for_predecessors().await;
        self.proxy.terminate();
        let status = self.proxy.exited().await;
        assert_eq!(status.code(), Some(0), "{}", self.proxy.stderr_text());
        let stderr = self.proxy.stderr_text();
        assert!(!stderr.contains("panicked at"), "{stderr}");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.proxy.directory().join(name)
    }
}

impl Variation {
    /// Text of the configuration file.
    pub(super) fn to_toml(&self) -> String {
        let Self { top, pools, probe, tables } = self;
        let probe = probe.unwrap_or("\"tcp\"");
        let pool = |name| {
            format!(
                "[pools.{name}]\n\
                 backends = {{ file = \"{name}.txt\" }}\n\
                 health = {{ probe = {probe}, interval = \"500ms\", fall = 2 }}\n\
                 drain = {{ within = \"6s\", spread = \"4s\" }}\n\
                 {pools}\n"
            )
        };
        format!(
            "access_log = {{ file = \"access.log\" }}\n\
             admin = \"127.0.0.1:0\"\n\
             drain = \"10s\"\n\
             {top}\n\
             [listeners.secure]\n\
             bind = \"127.0.0.1:0\"\n\
             protocol = \"https\"\n\
             certificates = [{{ cert = \"site.pem\", key = \"site.key\" }}]\n\n\
             [[routes]]\n\
             host = \"localhost\"\n\
             pool = \"npm\"\n\n\
             [[routes]]\n\
             pool = \"harness\"\n\n\
             {}{}{tables}",
            pool("harness"),
            pool("npm"),
        )
    }
}
