//! Pools whose backends come from a Consul agent. A small HTTP server sends complete answers of
//! `/v1/health/service/NAME` in the format of Consul's documentation.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::{
    discovery::{SOURCE_FAILS, assert_answered_by, count_lines, node},
    support::{Backend, Proxy, eventually, message, wait_for},
};

/// An agent whose answer a test can change.
struct Agent {
    backend: Backend,
    instances: Arc<Mutex<Vec<Value>>>,
}

/// An instance of the service.
struct Instance {
    id: &'static str,
    node: &'static str,
    address: SocketAddr,
    /// Status of the node's check and of the service's check.
    checks: [&'static str; 2],
    weights: (i64, i64),
}

impl Instance {
    fn passing(id: &'static str, node: &'static str, address: SocketAddr) -> Self {
        Self { id, node, address, checks: ["passing", "passing"], weights: (1, 1) }
    }

    fn json(&self) -> Value {
        let Self { id, node, address, checks: [of_node, of_service], weights: (passing, warning) } =
            self;
        let check = |name: &str, status: &str, service: &str| {
            json!({
                "Node": node, "CheckID": name, "Name": name, "Status": status, "Notes": "",
                "Output": "", "ServiceID": service, "ServiceName": "", "ServiceTags": [],
                "Type": "", "Interval": "", "Timeout": "", "ExposedPort": 0,
                "Definition": {}, "CreateIndex": 13, "ModifyIndex": 13
            })
        };
        json!({
            "Node": {
                "ID": "40e4a748-2192-161a-0510-9bf59fe950b5", "Node": node,
                "Address": "127.0.0.1", "Datacenter": "dc1",
                "TaggedAddresses": { "lan": "127.0.0.1", "wan": "127.0.0.1" },
                "Meta": { "consul-network-segment": "" }, "CreateIndex": 12, "ModifyIndex": 13
            },
            "Service": {
                "ID": id, "Service": "chat", "Tags": ["primary"],
                "Address": address.ip().to_string(),
                "TaggedAddresses": {
                    "lan": { "address": "127.0.0.1", "port": address.port() },
                    "wan": { "address": "198.18.0.1", "port": 80 }
                },
                "Meta": { "socketio_version": "4.8" }, "Port": address.port(),
                "Weights": { "Passing": passing, "Warning": warning },
                "EnableTagOverride": false,
                "Proxy": { "Mode": "", "MeshGateway": {}, "Expose": {} },
                "Connect": {}, "PeerName": "", "CreateIndex": 14, "ModifyIndex": 14
            },
            "Checks": [check("serfHealth", of_node, ""), check("service:chat", of_service, id)]
        })
    }
}

impl Agent {
    async fn start(instances: &[Instance]) -> Self {
        let list = instances.iter().map(Instance::json).collect();
        let instances: Arc<Mutex<Vec<Value>>> = Arc::new(Mutex::new(list));
        let now = Arc::clone(&instances);
        let answer = move |_: &message::Message| {
            message::reply(
                "200 OK",
                "Content-Type: application/json\r\nX-Consul-Index: 14\r\n",
                &Value::from(now.lock().unwrap().clone()).to_string(),
            )
        };
        Self { backend: Backend::answering(move |request| answer(request)).await, instances }
    }

    fn set_instances(&self, instances: &[Instance]) {
        *self.instances.lock().unwrap() = instances.iter().map(Instance::json).collect();
    }

    async fn proxy(&self) -> Proxy {
        let source = format!(
            "{{ http = \"http://{}/v1/health/service/chat\", interval = \"200ms\" }}",
            self.backend.address
        );
        Proxy::with(|settings| {
            settings.pool("backends", &source).pool("balance", "\"round-robin\"");
            settings.pool("health", "{ probe = \"off\" }").top("drain", "\"1s\"");
        })
        .await
    }

    /// Waits for two more requests to the agent.
    async fn wait_for_requests(&self) {
        let before = self.backend.requests().len();
        eventually("two requests", || self.backend.requests().len() > before + 1).await;
    }
}

/// Names and states of the pool's backends.
async fn states(proxy: &Proxy) -> Vec<(String, String)> {
    let pool = proxy.api().get("/v1/pools/app").await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let backends = pool["backends"].as_array().unwrap().iter();
    backends.map(|backend| (text(&backend["name"]), text(&backend["state"]))).collect()
}

#[tokio::test]
async fn a_drained_instance_stays_drained_if_another_node_has_the_same_service_id() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let c = Backend::start(node("c")).await;
    let first = || Instance::passing("chat", "node-1", a.address);
    let other = || Instance::passing("other", "node-1", c.address);
    let agent = Agent::start(&[first(), other()]).await;
    let proxy = agent.proxy().await;
    assert_answered_by(&proxy, &["a", "c"]).await;
    let names = states(&proxy).await;
    let drained = names.iter().map(|(name, _)| name).find(|name| name.starts_with("chat"));
    let drained = drained.expect("a name with the service id").clone();
    proxy.command(&["drain", &format!("app/{drained}")]).await.done();
    assert_answered_by(&proxy, &["c"]).await;
    agent.set_instances(&[first(), other(), Instance::passing("chat", "node-2", b.address)]);
    assert_answered_by(&proxy, &["b", "c"]).await;
    // The second instance is removed again.
    agent.set_instances(&[first(), other()]);
    assert_answered_by(&proxy, &["c"]).await;
    let after = states(&proxy).await;
    assert!(after.contains(&(drained, "drained".to_owned())), "{after:?}");
    proxy.finish_after((a, b, c, agent)).await;
}

#[tokio::test]
async fn instances_with_a_critical_check_are_removed() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let one = || Instance::passing("chat-1", "node-1", a.address);
    let two = |checks| Instance { checks, ..Instance::passing("chat-2", "node-2", b.address) };
    let agent = Agent::start(&[one(), two(["passing", "critical"])]).await;
    let proxy = agent.proxy().await;
    assert_answered_by(&proxy, &["a"]).await;
    agent.set_instances(&[one(), two(["passing", "passing"])]);
    assert_answered_by(&proxy, &["a", "b"]).await;
    // The node's check counts as well as the service's check.
    agent.set_instances(&[one(), two(["critical", "passing"])]);
    assert_answered_by(&proxy, &["a"]).await;
    assert_eq!(count_lines(&proxy, SOURCE_FAILS), 0, "{}", proxy.stderr_text());
    // A source never removes the last backends of a pool.
    let down = Instance { checks: ["critical", "critical"], ..one() };
    agent.set_instances(&[down, two(["critical", "passing"])]);
    let line = proxy.wait_for_stderr("the failure", |line| line.contains(SOURCE_FAILS)).await;
    assert!(line.contains("2 of 2 instances are critical"), "{line}");
    agent.wait_for_requests().await;
    assert_answered_by(&proxy, &["a"]).await;
    proxy.finish_after((a, b, agent)).await;
}

#[tokio::test]
async fn an_instance_with_a_warning_has_its_warning_weight() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let one = || Instance { weights: (4, 2), ..Instance::passing("chat-1", "n1", a.address) };
    let two = |checks| Instance {
        weights: (5, 3),
        checks,
        ..Instance::passing("chat-2", "n2", b.address)
    };
    let agent = Agent::start(&[one(), two(["passing", "warning"])]).await;
    let proxy = agent.proxy().await;
    assert_answered_by(&proxy, &["a", "b"]).await;
    let weights = || async {
        let pool = proxy.api().get("/v1/pools/app").await;
        let backends = pool["backends"].as_array().unwrap().iter();
        let mut weights: Vec<_> = backends.map(|b| b["weight"].as_u64().unwrap()).collect();
        weights.sort_unstable();
        weights
    };
    assert_eq!(weights().await, [3, 4]);
    agent.set_instances(&[one(), two(["passing", "passing"])]);
    agent.wait_for_requests().await;
    proxy.wait_for_stderr("the change", |line| line.contains("source have changed")).await;
    assert_eq!(weights().await, [4, 5]);
    proxy.finish_after((a, b, agent)).await;
}

#[tokio::test]
async fn an_instance_without_a_port_is_ignored() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let one = || Instance::passing("chat-1", "n1", a.address);
    let portless = || Instance::passing("chat-2", "n2", ([127, 0, 0, 1], 0).into());
    let agent = Agent::start(&[one(), portless()]).await;
    let proxy = agent.proxy().await;
    assert_answered_by(&proxy, &["a"]).await;
    let line = wait_for("the entry is named", || {
        proxy.stderr().into_iter().find(|line| line.contains("entry 2 is not used"))
    })
    .await;
    assert!(line.contains("chat-2@n2"), "{line}");
    agent.set_instances(&[portless(), one(), Instance::passing("chat-3", "n3", b.address)]);
    assert_answered_by(&proxy, &["a", "b"]).await;
    assert_eq!(count_lines(&proxy, SOURCE_FAILS), 0, "{}", proxy.stderr_text());
    proxy.finish_after((a, b, agent)).await;
}

#[tokio::test]
async fn a_backend_keeps_its_origin_while_it_is_removed() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let one = || Instance::passing("chat-1", "n1", a.address);
    let two = || Instance::passing("chat-2", "n2", b.address);
    let agent = Agent::start(&[one()]).await;
    let proxy = agent.proxy().await;
    let origin = || async {
        let pool = proxy.api().get("/v1/pools/app").await;
        let added = |b: &&Value| b["name"] == "chat-2@n2";
        pool["backends"].as_array().unwrap().iter().find(added).map(|b| b["origin"].clone())
    };
    let wait_until_origin = async |expected: Option<&str>| {
        let deadline = tokio::time::Instant::now() + crate::support::TIMEOUT;
        while origin().await != expected.map(Value::from) {
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "{expected:?}, not {:?}", origin().await);
        }
    };
    let address = b.address.to_string();
    let add = ["backends", "add", "app", &address, "--name", "chat-2@n2"];
    proxy.command(&add).await.done();
    wait_until_origin(Some("added")).await;
    // The source lists the backend too. After `backends remove`, it stays because of the source.
    agent.set_instances(&[one(), two()]);
    wait_until_origin(Some("discovered")).await;
    proxy.command(&["backends", "remove", "app", "chat-2@n2"]).await.done();
    assert_eq!(origin().await, Some("discovered".into()));
    assert_answered_by(&proxy, &["a", "b"]).await;
    let again = proxy.command(&["backends", "remove", "app", "chat-2@n2"]).await;
    assert!(again.err.contains("comes from the pool's source"), "{}", again.err);
    // The backend has a tunnel, so it is in the state `leaving` after the source has removed it.
    let mut client = crate::support::Raw::connect(proxy.web()).await;
    let on_b = || b.requests().iter().any(|request| request.target() == "/held");
    while !on_b() {
        client = crate::support::Raw::connect(proxy.web()).await;
        client.send(crate::support::websocket::request("/held", "")).await;
        assert_eq!(client.response().await.status(), 101);
    }
    agent.set_instances(&[one()]);
    let leaving = || async {
        let states = states(&proxy).await;
        states.contains(&("chat-2@n2".to_owned(), "leaving".to_owned()))
    };
    let deadline = tokio::time::Instant::now() + crate::support::TIMEOUT;
    while !leaving().await {
        assert!(tokio::time::Instant::now() < deadline);
    }
    assert_eq!(origin().await, Some("discovered".into()));
    drop(client);
    proxy.finish_after((a, b, agent)).await;
}

impl Proxy {
    /// Drops the backends, then shuts down the proxy.
    async fn finish_after(self, backends: impl Sized) {
        drop(backends);
        self.finish().await;
    }
}
