//! A node whose network loses every packet for a while.

use std::{net::SocketAddr, process::Command, time::Duration};

use super::node::{Make, Node};
use crate::support::{
    Proxy, TIMEOUT,
    controlled::{ClientStatus, ControlledClients},
    harness::harness,
    process::Namespace,
};

/// Clients of each kind: those that poll, and those that use WebSocket only.
const CLIENTS: u64 = 90;

/// How long the network is away. The sessions live for 25 s without being heard.
const SHORT: Duration = Duration::from_millis(1_500);
const LONG: Duration = Duration::from_secs(10);

/// Two real Socket.IO nodes, one of them behind a cable that can be cut, and their clients.
struct Scene {
    proxy: Proxy,
    namespace: Namespace,
    nodes: [Node; 2],
    crowds: Vec<ControlledClients>,
}

#[tokio::test]
async fn a_node_out_of_reach_keeps_its_sessions() {
    let mut scene = Scene::start().await;
    // Too short to be found out by the probes, but not by the connects that fall into it.
    scene.outage(SHORT, false).await;
    // Longer than the probes need to find the node down.
    scene.outage(LONG, true).await;
    let Scene { proxy, nodes, crowds, .. } = scene;
    for crowd in crowds {
        crowd.stop().await;
    }
    drop(nodes);
    proxy.finish().await;
}

impl Scene {
    async fn start() -> Self {
        let namespace = Namespace::new();
        let nodes =
            [Node::inside(Make::Npm, "inside", &namespace), Node::start(Make::Npm, "outside")];
        let addresses: Vec<SocketAddr> =
            nodes.iter().map(|node| node.address.parse().unwrap()).collect();
        let proxy = Proxy::with(|settings| {
            settings.backends(&addresses);
            settings
                .pool("health", "{ probe = \"http\", path = \"/healthz\", interval = \"500ms\" }");
        })
        .await;
        let crowds = ["polling", "websocket"].map(|kind| crowd(kind, proxy.web()));
        let mut scene = Self { proxy, namespace, nodes, crowds: crowds.into() };
        scene.until("all have come", |look| look.connected == 2 * CLIENTS).await;
        scene
    }

    /// Loses all packets of the first node for this long; no session may be lost with them.
    async fn outage(&mut self, duration: Duration, is_seen: bool) {
        let before = self.settled().await;
        assert!(before.on("inside") >= CLIENTS / 2, "{before:?}");
        self.namespace.cut();
        let away = tokio::time::sleep(duration);
        if is_seen {
            let up = format!(
                "moorline_backend_up{{pool=\"app\",backend=\"{}\"}}",
                self.nodes[0].address
            );
            self.proxy.wait_for_metric("the node is down", &up, |up| up == 0.0).await;
        }
        away.await;
        self.namespace.restore();
        let now = self.settled().await - &before;
        let totals = now.totals;
        let lost = (totals.disconnects, totals.errors, totals.connects, totals.misrouted);
        let lines = self.proxy.log_lines();
        let failed = lines.iter().filter(|line| line["status"].as_u64() >= Some(400));
        let failed: Vec<String> = failed.map(ToString::to_string).collect();
        assert_eq!(lost, (0, 0, 0, 0), "{duration:?}: {now:?}\n{}", failed.join("\n"));
    }

    /// Waits until everybody is there, and has been answered three times more.
    async fn settled(&mut self) -> ClientStatus {
        let goal = self.look().await.totals.answered + 3 * 2 * CLIENTS;
        let there =
            |look: &ClientStatus| look.connected == 2 * CLIENTS && look.totals.answered >= goal;
        self.until("everybody is there and answered", there).await
    }

    async fn look(&mut self) -> ClientStatus {
        let mut sum = ClientStatus::default();
        for crowd in &mut self.crowds {
            sum = sum + crowd.status().await;
        }
        sum
    }

    async fn until(&mut self, what: &str, is: impl Fn(&ClientStatus) -> bool) -> ClientStatus {
        let deadline = tokio::time::Instant::now() + 3 * TIMEOUT;
        loop {
            let look = self.look().await;
            if is(&look) {
                return look;
            }
            assert!(tokio::time::Instant::now() < deadline, "never happened: {what}: {look:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Clients that send something every second, and wait for answers for as long as a session lives.
fn crowd(kind: &str, web: SocketAddr) -> ControlledClients {
    let mut command = Command::new(harness());
    command.args(["controlled", &format!("http://{web}"), "--client", kind]);
    command.args(["--clients", &CLIENTS.to_string(), "--ramp", "2s"]);
    command.args(["--every", "1s", "--timeout", "25s", "--quiet"]);
    ControlledClients::start(&mut command.into())
}
