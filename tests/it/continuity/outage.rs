//! A node whose network loses every packet for a while.

use std::{net::SocketAddr, process::Command, time::Duration};

use super::node::{Implementation, Node};
use crate::support::{
    Proxy, TIMEOUT,
    controlled::{ClientStatus, ControlledClients},
    harness::harness,
    process::Namespace,
};

/// Clients of each kind: polling only, and WebSocket only.
const CLIENTS: u64 = 90;

/// Durations of an outage. The sessions time out after 25 s.
const SHORT: Duration = Duration::from_millis(1_500);
const LONG: Duration = Duration::from_secs(10);

/// A proxy in front of two real Socket.IO nodes and their clients. The network of the first node can be cut.
struct Scene {
    proxy: Proxy,
    namespace: Namespace,
    nodes: [Node; 2],
    crowds: Vec<ControlledClients>,
}

#[tokio::test]
async fn an_unreachable_node_keeps_its_sessions() {
    let mut scene = Scene::start().await;
    // Too short for the probes, but connects of requests fail.
    scene.outage(SHORT, false).await;
    // Long enough for the probes to mark the node down.
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
        let nodes = [
            Node::inside(Implementation::Npm, "inside", &namespace),
            Node::start(Implementation::Npm, "outside"),
        ];
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
        scene
            .wait_until("all clients are connected", |status| status.connected == 2 * CLIENTS)
            .await;
        scene
    }

    /// Drops all packets of the first node for this time. No session may be lost.
    async fn outage(&mut self, duration: Duration, is_detected: bool) {
        let before = self.wait_until_settled().await;
        assert!(before.on("inside") >= CLIENTS / 2, "{before:?}");
        self.namespace.cut();
        let away = tokio::time::sleep(duration);
        if is_detected {
            let up = format!(
                "moorline_backend_up{{pool=\"app\",backend=\"{}\"}}",
                self.nodes[0].address
            );
            self.proxy.wait_for_metric("the node is down", &up, |up| up == 0.0).await;
        }
        away.await;
        self.namespace.restore();
        let now = self.wait_until_settled().await - &before;
        let totals = now.totals;
        let lost = (totals.disconnects, totals.errors, totals.connects, totals.misrouted);
        let lines = self.proxy.log_lines();
        let failed = lines.iter().filter(|line| line["status"].as_u64() >= Some(400));
        let failed: Vec<String> = failed.map(ToString::to_string).collect();
        assert_eq!(lost, (0, 0, 0, 0), "{duration:?}: {now:?}\n{}", failed.join("\n"));
    }

    /// Waits until every client is connected and has got about three more answers.
    async fn wait_until_settled(&mut self) -> ClientStatus {
        let goal = self.status().await.totals.answered + 3 * 2 * CLIENTS;
        let settled = |status: &ClientStatus| {
            status.connected == 2 * CLIENTS && status.totals.answered >= goal
        };
        self.wait_until("every client is connected and gets answers", settled).await
    }

    async fn status(&mut self) -> ClientStatus {
        let mut sum = ClientStatus::default();
        for crowd in &mut self.crowds {
            sum = sum + crowd.status().await;
        }
        sum
    }

    async fn wait_until(&mut self, what: &str, is: impl Fn(&ClientStatus) -> bool) -> ClientStatus {
        let deadline = tokio::time::Instant::now() + 3 * TIMEOUT;
        loop {
            let status = self.status().await;
            if is(&status) {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "never happened: {what}: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Clients that send a message every second and wait for the answer until their session times out.
fn crowd(kind: &str, web: SocketAddr) -> ControlledClients {
    let mut command = Command::new(harness());
    command.args(["controlled", &format!("http://{web}"), "--client", kind]);
    command.args(["--clients", &CLIENTS.to_string(), "--ramp", "2s"]);
    command.args(["--every", "1s", "--timeout", "25s", "--quiet"]);
    ControlledClients::start(&mut command.into())
}
