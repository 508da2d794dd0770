//! `explain` predicts what the data path does: generated requests are explained, then sent.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::{
    Node, Proxy, Raw, Refusing,
    message::get,
    node::{Session, handshake_target},
    proxy::Setup,
    settings::list,
    websocket,
};

/// Number of requests for each seed.
const REQUESTS: usize = 250;

/// A proxy with many kinds of pools in front of three nodes, with sessions and cookies in every state.
struct Scene {
    proxy: Proxy,
    nodes: Vec<Node>,
    _down: Refusing,
    sids: Vec<String>,
    cookies: Vec<String>,
}

/// A generated request.
#[derive(Clone, Debug)]
struct GeneratedRequest {
    listener: &'static str,
    method: &'static str,
    host: &'static str,
    target: String,
    cookie: Option<String>,
    agent: Option<&'static str>,
    upgrade: bool,
}

impl Scene {
    async fn start() -> Self {
        let nodes = [Node::start("a").await, Node::start("b").await, Node::start("c").await];
        let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.backend.address).collect();
        let down = Refusing::new();
        let proxy = Setup::new()
            .with(|settings| {
                settings.unrouted().backends(&addresses).pool("balance", "\"round-robin\"");
                settings.pool("sticky", "{ memory = \"0s\", cookie = { set_on = \"always\" } }");
                let all = list(&addresses);
                for (host, path, pool, lines) in [
                    ("app.test", "/", "app", ""),
                    ("app.test", "/plain", "plain", "sticky = false"),
                    ("app.test", "/none", "none", "sticky = { owner_search = 0, memory = \"0s\" }"),
                    ("*.wild.test", "/", "hash", "balance = \"source-hash\""),
                    ("mem.test", "/", "mem", "sticky = { cookie = false }"),
                ] {
                    settings.table(&format!(
                        "[[routes]]\nhost = {host:?}\npath = {path:?}\npool = {pool:?}\n"
                    ));
                    if pool != "app" {
                        settings.table(&format!("[pools.{pool}]\nbackends = {all}\n{lines}\n{QUIET}"));
                    }
                }
                settings.table(&format!(
                    "[[routes]]\nhost = \"side.test\"\npool = \"app\"\nlisteners = [\"side\"]\n\
                     [[routes]]\nhost = \"down.test\"\npool = \"down\"\n\
                     [pools.down]\nbackends = {}\n\
                     health = {{ probe = \"tcp\", interval = \"100ms\", timeout = \"100ms\", fall = 1 }}\n\
                     [listeners.side]\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
                     [listeners.moved]\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
                     redirect = \"https\"\n",
                    list(&[down.address()])
                ));
            })
            .start()
            .await;
        let mut scene = Self {
            proxy,
            nodes: Vec::from(nodes),
            _down: down,
            sids: vec!["unknown-everywhere".to_owned(), "a%20b%2Fc".to_owned()],
            cookies: vec!["moorline-app=forged; other=1".to_owned()],
        };
        scene.fill().await;
        scene
    }

    /// Opens sessions and ends some of them.
    async fn fill(&mut self) {
        let mut client = Raw::connect(self.proxy.web()).await;
        let mut sessions: Vec<Session> = Vec::new();
        for node in ["a", "b", "c", "c"] {
            let session = loop {
                let session = handshake(&mut client, "app.test").await;
                if session.node == node {
                    break session;
                }
            };
            sessions.push(session);
        }
        let foreign = handshake(&mut client, "x.wild.test").await.cookie.unwrap();
        self.cookies.push(foreign.replace("moorline-hash", "moorline-app"));
        for session in &sessions {
            self.sids.push(session.sid.clone());
            self.cookies.push(session.cookie.clone().unwrap());
        }
        self.cookies.push(format!("moorline-app=old; {}", self.cookies[2]));
        // A session that a node has and the proxy does not know.
        self.nodes[1].add_session("of-b-alone");
        self.sids.push("of-b-alone".to_owned());
        // A session that is closed by a command.
        let closed = handshake(&mut client, "app.test").await;
        let find = json!({ "sid": closed.sid }).to_string();
        let found = self.proxy.api().ask("POST", "/v1/sessions/find", &find).await.json();
        let id = found["found"][0]["id"].as_str().unwrap();
        let path = format!("/v1/sessions/{id}");
        assert_eq!(self.proxy.api().ask("DELETE", &path, "").await.status() / 100, 2);
        self.sids.push(closed.sid);
        // `c` is drained, and a client of `mem` has ended its session.
        let drain = json!({
            "pool": "app", "backend": self.nodes[2].backend.address.to_string(), "within": 600,
        });
        let drained = self.proxy.api().ask("POST", "/v1/drain", &drain.to_string()).await;
        assert_eq!(drained.status(), 200, "{}", drained.text());
        let mut tunnel = Raw::connect(self.proxy.web()).await;
        tunnel
            .send(for_host(
                websocket::request(
                    "/socket.io/?EIO=4&transport=websocket",
                    "User-Agent: phone/1\r\n",
                ),
                "mem.test",
            ))
            .await;
        assert_eq!(tunnel.response().await.status(), 101);
        drop(tunnel);
        self.wait_until_settled().await;
    }

    /// Waits until `down` is down and the ended session is remembered.
    async fn wait_until_settled(&self) {
        let web = self.proxy.web();
        let down = json!({ "url": format!("http://down.test:{}/", web.port()) });
        let new = json!({
            "url": format!("http://mem.test:{}/?EIO=4&transport=polling", web.port()),
            "user_agent": "phone/1",
        });
        for (body, key, value) in
            [(down, "status", json!(503)), (new, "chosen_by", json!("memory"))]
        {
            let mut explanation = Value::Null;
            for _ in 0..500 {
                explanation = self.explain(&body).await;
                if explanation[key] == value {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            assert_eq!(explanation[key], value, "{explanation}");
        }
    }

    async fn explain(&self, body: &Value) -> Value {
        let reply = self.proxy.api().ask("POST", "/v1/explain", &body.to_string()).await;
        assert_eq!(reply.status(), 200, "{body}: {}", reply.text());
        reply.json()
    }

    fn generate(&self, random: &mut fastrand::Rng, number: usize) -> GeneratedRequest {
        let mut pick = |of: &[&'static str]| pick_one(of, random);
        let listener = pick(&["web", "web", "web", "web", "side", "moved"]);
        let method = pick(&["GET", "GET", "GET", "POST", "OPTIONS", "DELETE", "TRACE", "PATCH"]);
        let host = pick(&[
            "app.test",
            "app.test",
            "app.test",
            "app.test",
            "APP.test",
            "app.test.",
            "a%2e",
            "x.wild.test",
            "wild.test",
            "mem.test",
            "mem.test",
            "side.test",
            "down.test",
            "a_b",
            "a,b",
            "[::1]",
            "127.0.0.1",
            "other.test",
            "x@app.test",
        ]);
        let path = pick(&[
            "/socket.io/",
            "/socket.io/",
            "/",
            "/plain",
            "/plain/x",
            "/%70lain",
            "//plain",
            "/none/",
            "/none",
            "/a/../plain",
            "/%2e%2e/",
            "/a%2Fb",
            "/a%00",
            "/plain%2f",
            "/./none",
            "/a.b",
            "/.well-known/acme-challenge/x",
        ]);
        let transport = pick(&[
            "",
            "EIO=4&transport=polling",
            "EIO=4&transport=polling",
            "EIO=4&transport=websocket",
            "EIO=3&transport=polling",
            "EIO=4&transport=webtransport",
            "EIO=4&transport=pigeon",
            "transport=polling",
            "transport=websocket",
            "EIO=4",
        ]);
        let agent = pick(&["", "phone/1", "phone/2"]);
        let sid = match random.usize(..4) {
            0 | 1 => String::new(),
            2 => format!("&sid={}", self.sids[random.usize(..self.sids.len())]),
            _ => pick_one(&["&sid=", "&sid=x&sid=y", "&sid=of-b-alone"], random).to_owned(),
        };
        let cookie = match random.bool() {
            true => Some(self.cookies[random.usize(..self.cookies.len())].clone()),
            false => None,
        };
        let target = format!("{path}?{transport}{sid}&mark={number}-");
        let upgrade = random.usize(..6) == 0;
        let agent = Some(agent).filter(|agent| !agent.is_empty());
        GeneratedRequest { listener, method, host, target, cookie, agent, upgrade }
    }

    /// Compares the explanation of a request with its log line. Returns a report if they differ.
    async fn difference(&self, request: &GeneratedRequest, mark: &str) -> Option<String> {
        let address = self.proxy.listener(request.listener);
        let authority = format!("{}:{}", request.host, address.port());
        let explanation = self.explain(&request.explain_body(&authority)).await;
        let mut client = Raw::connect(address).await;
        client.send(request.bytes(&authority)).await;
        let status = client.response().await.status();
        drop(client);
        let marked = |line: &Value| line["path"].as_str().is_some_and(|path| path.contains(mark));
        let line = self.proxy.wait_for_log("the request's line", marked).await;
        let mut different_keys = Vec::new();
        // Only the backend knows whether it has the session for which the cookie names it.
        let owner_was_first =
            explanation["chosen_by"] == "owner_search" && line["chosen_by"] == "cookie" && {
                let first = format!("first {}", line["backend"].as_str().unwrap_or_default());
                explanation["steps"].to_string().contains(&first)
            };
        for key in ["listener", "route", "pool", "chosen_by"] {
            if explanation[key] != line[key] && !(owner_was_first && key == "chosen_by") {
                different_keys.push(key);
            }
        }
        match &explanation["status"] {
            Value::Null if line["backend"].is_null() => different_keys.push("status"),
            Value::Null => {}
            own => {
                if *own != status || *own != line["status"] {
                    different_keys.push("status");
                }
            }
        }
        if !explanation["backend"].is_null() && explanation["backend"] != line["backend"] {
            different_keys.push("backend");
        }
        let report = || {
            format!(
                "{different_keys:?}\n  {request:?}\n  explanation {explanation}\n  {status}: {line}"
            )
        };
        (!different_keys.is_empty()).then(report)
    }
}

/// Settings of a pool without probes and with short-lived idle connections.
const QUIET: &str = "health = { probe = \"off\" }\nreuse = { idle_timeout = \"1s\" }\n";

fn pick_one<'a>(of: &[&'a str], random: &mut fastrand::Rng) -> &'a str {
    of[random.usize(..of.len())]
}

/// Changes the host of a request.
fn for_host(request: Vec<u8>, host: &str) -> Vec<u8> {
    String::from_utf8(request).unwrap().replace("app.test", host).into_bytes()
}

/// Opens a polling session for this host.
async fn handshake(client: &mut Raw, host: &str) -> Session {
    client.send(for_host(get(&handshake_target("fill"), ""), host)).await;
    let reply = client.response().await;
    let text = reply.text();
    let sid = text.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let node = reply.header("x-node").unwrap().to_owned();
    let cookie = reply.header("set-cookie").map(|set| set.split(';').next().unwrap().to_owned());
    Session { sid, node, cookie, reply }
}

impl GeneratedRequest {
    /// Body of the API request that explains this request.
    fn explain_body(&self, authority: &str) -> Value {
        json!({
            "url": format!("http://{authority}{}", self.target),
            "method": self.method,
            "cookie": self.cookie,
            "user_agent": self.agent,
            "upgrade": self.upgrade,
        })
    }

    /// The request as a client sends it.
    fn bytes(&self, authority: &str) -> Vec<u8> {
        let websocket = self.method == "GET" && self.target.contains("transport=websocket");
        let upgrade = if self.upgrade || websocket { websocket::UPGRADE } else { "" };
        let field = |name: &str, value: Option<&str>| {
            value.map(|value| format!("{name}: {value}\r\n")).unwrap_or_default()
        };
        let Self { method, target, cookie, agent, .. } = self;
        let fields = [field("Cookie", cookie.as_deref()), field("User-Agent", *agent)].concat();
        format!("{method} {target} HTTP/1.1\r\nHost: {authority}\r\n{upgrade}{fields}\r\n")
            .into_bytes()
    }
}

async fn compare(seed: u64) {
    let scene = Scene::start().await;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut differences = Vec::new();
    for number in 0..REQUESTS {
        let request = scene.generate(&mut random, number);
        differences.extend(scene.difference(&request, &format!("mark={number}-")).await);
    }
    let count = differences.len();
    assert!(count == 0, "seed {seed}: {count} differences\n{}", differences.join("\n"));
    drop(scene.nodes);
    scene.proxy.finish().await;
}

#[tokio::test]
async fn explanations_match_the_access_log() {
    compare(1).await;
}

#[tokio::test]
async fn explanations_match_the_access_log_for_other_requests() {
    let seed = std::env::var("MOORLINE_SEED").ok().and_then(|seed| seed.parse().ok());
    compare(seed.unwrap_or(2)).await;
}
