//! Pools whose backends a Consul agent names: answers of `/v1/health/service/NAME` in the schema of its
//! documentation, whole, served by a small HTTP server.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::{
    discovery::{FAILS, assert_answerers, node, told},
    support::{Backend, Proxy, eventually, message, wait_for},
};

/// An agent whose answer a test changes.
struct Agent {
    backend: Backend,
    instances: Arc<Mutex<Vec<Value>>>,
}

/// One instance as the agent lists it.
struct Instance {
    id: &'static str,
    node: &'static str,
    address: SocketAddr,
    /// Of the node's check and of the service's own.
    checks: [&'static str; 2],
    weights: (i64, i64),
}

impl Instance {
    fn passing(id: &'static str, node: &'static str, address: SocketAddr) -> Self {
        Self { id, node, address, checks: ["passing", "passing"], weights: (1, 1) }
    }

    fn json(&self) -> Value {
        let Self { id, node, address, checks: [of_node, own], weights: (passing, warning) } = self;
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
            "Checks": [check("serfHealth", of_node, ""), check("service:chat", own, id)]
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

    fn say(&self, instances: &[Instance]) {
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

    /// Waits until the agent has been asked twice more.
    async fn asked_again(&self) {
        let before = self.backend.requests().len();
        eventually("the agent is asked", || self.backend.requests().len() > before + 1).await;
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
async fn a_drained_consul_instance_stays_drained_when_another_node_has_its_id() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let c = Backend::start(node("c")).await;
    let first = || Instance::passing("chat", "node-1", a.address);
    let other = || Instance::passing("other", "node-1", c.address);
    let agent = Agent::start(&[first(), other()]).await;
    let proxy = agent.proxy().await;
    assert_answerers(&proxy, &["a", "c"]).await;
    let names = states(&proxy).await;
    let drained = names.iter().map(|(name, _)| name).find(|name| name.starts_with("chat"));
    let drained = drained.expect("its id is in its name").clone();
    proxy.command(&["drain", &format!("app/{drained}")]).await.done();
    assert_answerers(&proxy, &["c"]).await;
    agent.say(&[first(), other(), Instance::passing("chat", "node-2", b.address)]);
    assert_answerers(&proxy, &["b", "c"]).await;
    // The second instance goes again.
    agent.say(&[first(), other()]);
    assert_answerers(&proxy, &["c"]).await;
    let after = states(&proxy).await;
    assert!(after.contains(&(drained, "drained".to_owned())), "{after:?}");
    proxy.settle_and_finish((a, b, c, agent)).await;
}

#[tokio::test]
async fn instances_of_consul_with_a_critical_check_leave_without_passing() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let one = || Instance::passing("chat-1", "node-1", a.address);
    let two = |checks| Instance { checks, ..Instance::passing("chat-2", "node-2", b.address) };
    let agent = Agent::start(&[one(), two(["passing", "critical"])]).await;
    let proxy = agent.proxy().await;
    assert_answerers(&proxy, &["a"]).await;
    agent.say(&[one(), two(["passing", "passing"])]);
    assert_answerers(&proxy, &["a", "b"]).await;
    // The node's check counts as well as the service's own.
    agent.say(&[one(), two(["critical", "passing"])]);
    assert_answerers(&proxy, &["a"]).await;
    assert_eq!(told(&proxy, FAILS), 0, "{}", proxy.stderr_text());
    // A pool is never emptied.
    let down = Instance { checks: ["critical", "critical"], ..one() };
    agent.say(&[down, two(["critical", "passing"])]);
    let line = proxy.wait_for_stderr("the failure", |line| line.contains(FAILS)).await;
    assert!(line.contains("2 of 2 instances are critical"), "{line}");
    agent.asked_again().await;
    assert_answerers(&proxy, &["a"]).await;
    proxy.settle_and_finish((a, b, agent)).await;
}

#[tokio::test]
async fn an_instance_of_consul_with_a_warning_has_its_weight_for_that() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let one = || Instance { weights: (4, 2), ..Instance::passing("chat-1", "n1", a.address) };
    let two = |checks| Instance {
        weights: (5, 3),
        checks,
        ..Instance::passing("chat-2", "n2", b.address)
    };
    let agent = Agent::start(&[one(), two(["passing", "warning"])]).await;
    let proxy = agent.proxy().await;
    assert_answerers(&proxy, &["a", "b"]).await;
    let weights = || async {
        let pool = proxy.api().get("/v1/pools/app").await;
        let backends = pool["backends"].as_array().unwrap().iter();
        let mut weights: Vec<_> = backends.map(|b| b["weight"].as_u64().unwrap()).collect();
        weights.sort_unstable();
        weights
    };
    assert_eq!(weights().await, [3, 4]);
    agent.say(&[one(), two(["passing", "passing"])]);
    agent.asked_again().await;
    proxy.wait_for_stderr("the change", |line| line.contains("source has changed")).await;
    assert_eq!(weights().await, [4, 5]);
    proxy.settle_and_finish((a, b, agent)).await;
}

#[tokio::test]
async fn an_instance_of_consul_without_a_port_is_left_out_alone() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let one = || Instance::passing("chat-1", "n1", a.address);
    let portless = || Instance::passing("chat-2", "n2", ([127, 0, 0, 1], 0).into());
    let agent = Agent::start(&[one(), portless()]).await;
    let proxy = agent.proxy().await;
    assert_answerers(&proxy, &["a"]).await;
    let line = wait_for("the entry is named", || {
        proxy.stderr().into_iter().find(|line| line.contains("entry 2 is not used"))
    })
    .await;
    assert!(line.contains("chat-2@n2"), "{line}");
    agent.say(&[portless(), one(), Instance::passing("chat-3", "n3", b.address)]);
    assert_answerers(&proxy, &["a", "b"]).await;
    assert_eq!(told(&proxy, FAILS), 0, "{}", proxy.stderr_text());
    proxy.settle_and_finish((a, b, agent)).await;
}

#[tokio::test]
async fn a_backend_of_a_source_and_of_an_order_has_its_origin_also_while_it_leaves() {
    let (a, b) = (Backend::start(node("a")).await, Backend::start(node("b")).await);
    let one = || Instance::passing("chat-1", "n1", a.address);
    let two = || Instance::passing("chat-2", "n2", b.address);
    let agent = Agent::start(&[one()]).await;
    let proxy = agent.proxy().await;
    let origin = || async {
        let pool = proxy.api().get("/v1/pools/app").await;
        let own = |b: &&Value| b["name"] == "chat-2@n2";
        pool["backends"].as_array().unwrap().iter().find(own).map(|b| b["origin"].clone())
    };
    let becomes = async |wanted: Option<&str>| {
        let deadline = tokio::time::Instant::now() + crate::support::TIMEOUT;
        while origin().await != wanted.map(Value::from) {
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "{wanted:?}, not {:?}", origin().await);
        }
    };
    let address = b.address.to_string();
    let add = ["backends", "add", "app", &address, "--name", "chat-2@n2"];
    proxy.command(&add).await.done();
    becomes(Some("added")).await;
    // The source names it too; then the order is taken back, and the backend stays.
    agent.say(&[one(), two()]);
    becomes(Some("discovered")).await;
    proxy.command(&["backends", "remove", "app", "chat-2@n2"]).await.done();
    assert_eq!(origin().await, Some("discovered".into()));
    assert_answerers(&proxy, &["a", "b"]).await;
    let again = proxy.command(&["backends", "remove", "app", "chat-2@n2"]).await;
    assert!(again.err.contains("comes from the pool's source"), "{}", again.err);
    // It holds a tunnel, and leaves when the source forgets it.
    let mut client = crate::support::Raw::connect(proxy.web()).await;
    let on_b = || b.requests().iter().any(|request| request.target() == "/held");
    while !on_b() {
        client = crate::support::Raw::connect(proxy.web()).await;
        client.send(crate::support::websocket::request("/held", "")).await;
        assert_eq!(client.response().await.status(), 101);
    }
    agent.say(&[one()]);
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
    proxy.settle_and_finish((a, b, agent)).await;
}

impl Proxy {
    /// Ends what stands behind the proxy, and then the proxy.
    async fn settle_and_finish(self, behind: impl Sized) {
        drop(behind);
        self.finish().await;
    }
}
