//! A proxy with two parties behind it: what all stages change.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{
    authority::Authority,
    node::Make,
    party::{CHANGE, LOOK, Party},
};
use crate::support::{Proxy, eventually, proxy::Setup};

/// Nodes of each party at the beginning.
const NODES: usize = 3;

/// What the log says of a reload, be it that nothing has changed.
const RELOADED: &str = "reloaded";

/// What stages vary in the configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Text {
    /// Lines before the first table.
    pub(super) top: String,
    /// Lines of both pools.
    pub(super) pools: String,
    /// What probes both pools, where that is not `tcp`.
    pub(super) probe: Option<&'static str>,
    /// Further tables.
    pub(super) tables: String,
}

/// The whole of it.
pub(super) struct Site {
    /// The process that serves.
    pub(super) proxy: Proxy,
    /// The harness's clients and nodes, then those of npm.
    pub(super) parties: [Party; 2],
    authority: Authority,
}

impl Site {
    /// Starts everything, and waits until all clients are settled.
    pub(super) async fn start() -> Self {
        let setup = Setup::new();
        let directory = setup.directory().to_owned();
        let authority = Authority::make(&directory);
        authority.issue(&directory.join("site.pem"), &directory.join("site.key"));
        let mut parties =
            [Make::Harness, Make::Npm].map(|make| Party::new(make, NODES, &directory));
        let setup =
            setup.text(Text::default().whole()).env("RUST_LOG", "info,moorline::control=debug");
        let proxy = setup.start().await;
        let port = proxy.listener("secure").port();
        for party in &mut parties {
            party.arrive(port, &authority.file).await;
        }
        let mut site = Self { proxy, parties, authority };
        site.settled().await;
        site
    }

    /// Waits until everybody is settled.
    pub(super) async fn settled(&mut self) {
        for party in &mut self.parties {
            party.settled().await;
        }
    }

    /// Writes the configuration, asks for a reload by signal, and waits until it is in force.
    pub(super) async fn reload(&self, text: &Text) -> Duration {
        let count = || self.proxy.stderr().iter().filter(|line| line.contains(RELOADED)).count();
        let before = count();
        let start = Instant::now();
        self.proxy.write(&text.whole());
        self.proxy.hangup();
        eventually("a reload", || count() > before).await;
        start.elapsed()
    }

    /// Orders a reload of the file as it is.
    pub(super) async fn reload_by_command(&self) -> Duration {
        let start = Instant::now();
        self.proxy.command(&["reload"]).await.done();
        start.elapsed()
    }

    /// Waits until the proxy knows a node, and knows it to be up.
    pub(super) async fn wait_until_up(&self, pool: &str, address: &str) {
        let up = format!("moorline_backend_up{{pool=\"{pool}\",backend=\"{address}\"}}");
        self.proxy.wait_for_metric("a node is up", &up, |up| up == 1.0).await;
    }

    /// Waits until the proxy knows a node to be down.
    pub(super) async fn wait_until_down(&self, pool: &str, address: &str) {
        let up = format!("moorline_backend_up{{pool=\"{pool}\",backend=\"{address}\"}}");
        self.proxy.wait_for_metric("a node is down", &up, |up| up == 0.0).await;
    }

    /// Waits until the tunnels of a pool's backends are spread like that.
    pub(super) async fn until_tunnels(&self, pool: &str, is: impl Fn(&[u64]) -> bool) {
        let deadline = Instant::now() + CHANGE;
        loop {
            let told = self.proxy.command(&["backends", "--json"]).await.json();
            let pools = told["pools"].as_array().unwrap();
            let ours = pools.iter().find(|entry| entry["name"] == pool).unwrap();
            let backends = ours["backends"].as_array().unwrap().iter();
            let staying = backends.filter(|backend| backend["state"] != "leaving");
            let tunnels: Vec<_> = staying.map(|it| it["tunnels"].as_u64().unwrap()).collect();
            if is(&tunnels) {
                return;
            }
            assert!(Instant::now() < deadline, "{pool} is never level: {tunnels:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Hands over to a new process, and waits until that serves.
    pub(super) async fn upgrade(&mut self) -> Duration {
        let start = Instant::now();
        self.proxy.upgrade().await;
        start.elapsed()
    }

    /// Replaces the certificate's files in place, and waits until new handshakes meet it.
    pub(super) async fn renew(&self) -> Duration {
        let fresh = self.authority.issue(&self.file("site.pem"), &self.file("site.key"));
        let start = Instant::now();
        let address = self.proxy.listener("secure");
        loop {
            let tcp = TcpStream::connect(address).await.unwrap();
            // Every handshake meets one that clients trust, be it the old or the new one.
            if self.authority.met(tcp).await.unwrap() == fresh {
                return start.elapsed();
            }
            assert!(start.elapsed() < crate::support::TIMEOUT, "the old certificate stays");
        }
    }

    /// Lets everybody leave, and every process end by itself.
    pub(super) async fn finish(mut self) {
        for party in &mut self.parties {
            party.leave().await;
        }
        // Those before it first: a process that ends before its predecessor leaves its exit code to that.
        self.proxy.wait_for_predecessors().await;
        self.proxy.terminate();
        let status = self.proxy.exited().await;
        assert_eq!(status.code(), Some(0), "{}", self.proxy.stderr_text());
        let said = self.proxy.stderr_text();
        assert!(!said.contains("panicked at"), "{said}");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.proxy.directory().join(name)
    }
}

impl Text {
    /// The file's text.
    pub(super) fn whole(&self) -> String {
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
