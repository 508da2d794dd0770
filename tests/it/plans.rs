//! `plan` shows what `reload` does: random edits of a configuration are planned and then applied.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::{Value, json};

use crate::support::{Backend, Peer, Proxy, Raw, TIMEOUT, backend, proxy::Setup, websocket};

/// Edits of each seed.
const EDITS: usize = 40;

/// Tunnels that are open before each edit.
const TUNNELS: usize = 10;

/// The parts of a configuration that are edited.
#[derive(Clone, Debug)]
struct Model {
    pools: Vec<Pool>,
    /// Pools that paths lead to, by their positions.
    routes: Vec<(String, usize)>,
    timeout: u32,
    extra: bool,
    comment: u32,
}

#[derive(Clone, Debug)]
struct Pool {
    name: String,
    /// Name, index of the server, weight.
    backends: Vec<(String, usize, u32)>,
    balance: &'static str,
    memory: u32,
}

/// Servers, a proxy in front of them, and open tunnels.
struct Scene {
    proxy: Proxy,
    servers: Vec<Backend>,
    model: Model,
    tunnels: Vec<Raw>,
    top: String,
}

impl Model {
    fn new() -> Self {
        let backend = |at: usize| (format!("n{at}"), at, 1);
        let pool = |name: &str, from: usize| Pool {
            name: name.to_owned(),
            backends: vec![backend(from), backend(from + 1)],
            balance: "round-robin",
            memory: 60,
        };
        Self {
            pools: vec![pool("p0", 0), pool("p1", 2)],
            routes: vec![("/".to_owned(), 0), ("/r1".to_owned(), 1)],
            timeout: 20,
            extra: false,
            comment: 0,
        }
    }

    fn text(&self, top: &str, servers: &[Backend]) -> String {
        let mut text = format!("# {}\n{top}", self.comment);
        let _ = write!(
            text,
            "[listeners.web]\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
             header_timeout = \"{}s\"\n",
            self.timeout
        );
        if self.extra {
            text.push_str("[listeners.extra]\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n");
        }
        for (path, pool) in &self.routes {
            let pool = &self.pools[*pool].name;
            let _ = write!(text, "[[routes]]\npath = {path:?}\npool = {pool:?}\n");
        }
        for Pool { name, backends, balance, memory } in &self.pools {
            let backends: Vec<_> = backends
                .iter()
                .map(|(name, server, weight)| {
                    let address = servers[*server].address;
                    format!("{{ name = {name:?}, address = \"{address}\", weight = {weight} }}")
                })
                .collect();
            let _ = write!(
                text,
                "[pools.{name}]\nbackends = [{}]\nbalance = {balance:?}\n\
                 health = {{ probe = \"off\" }}\nreuse = {{ idle_timeout = \"1s\" }}\n\
                 sticky = {{ memory = \"{memory}s\" }}\ndrain = {{ within = \"300ms\" }}\n",
                backends.join(", ")
            );
        }
        text
    }

    /// Makes one to three edits; the result is always valid.
    fn edit(&mut self, random: &mut fastrand::Rng, servers: usize, number: usize) {
        for _ in 0..=random.usize(..3) {
            self.edit_once(random, servers, number);
        }
    }

    fn edit_once(&mut self, random: &mut fastrand::Rng, servers: usize, number: usize) {
        let at = random.usize(..self.pools.len());
        let other = random.usize(..self.pools.len());
        let (server, pools) = (random.usize(..servers), self.pools.len());
        let name = format!("e{number}-{}", random.u32(..1000));
        let pool = &mut self.pools[at];
        let last = pool.backends.len() - 1;
        let one = random.usize(..=last);
        match random.usize(..14) {
            0 | 1 if pool.backends.iter().all(|(_, known, _)| *known != server) => {
                pool.backends.push((name, server, 1));
            }
            2 | 3 if last > 0 => drop(pool.backends.remove(one)),
            4 => pool.backends[one].0 = name,
            5 => pool.backends[one].2 = 1 + random.u32(..4),
            6 if pool.backends.iter().all(|(_, known, _)| *known != server) => {
                pool.backends[one].1 = server;
            }
            7 if last > 0 && at != other => {
                let moved = pool.backends.remove(one);
                let others = &mut self.pools[other].backends;
                if others.iter().all(|(name, server, _)| *name != moved.0 && *server != moved.1) {
                    others.push(moved);
                }
            }
            8 if pools < 4 => {
                let path = format!("/{name}");
                let backends = vec![(name.clone(), server, 1)];
                self.pools.push(Pool { name, backends, balance: "round-robin", memory: 60 });
                self.routes.push((path, pools));
            }
            9 if pools > 1 => {
                self.pools.remove(at);
                for (_, pool) in &mut self.routes {
                    *pool = if *pool == at { 0 } else { *pool - usize::from(*pool > at) };
                }
            }
            10 => {
                let route = random.usize(..self.routes.len());
                self.routes[route].1 = at;
            }
            11 => pool.memory = 30 + random.u32(..3),
            12 => match random.usize(..4) {
                0 => self.timeout = 20 + random.u32(..3),
                1 => self.extra = !self.extra,
                2 => pool.backends.reverse(),
                _ => self.routes.reverse(),
            },
            _ => self.comment += 1,
        }
    }

    /// Pool, backend, address and weight of every backend.
    fn backends(&self, servers: &[Backend]) -> BTreeSet<(String, String, String, u64)> {
        let of = |pool: &Pool| {
            let name = pool.name.clone();
            let all = pool.backends.clone().into_iter();
            all.map(move |(backend, at, weight)| {
                (name.clone(), backend, servers[at].address.to_string(), u64::from(weight))
            })
        };
        self.pools.iter().flat_map(of).collect()
    }
}

impl Scene {
    async fn start() -> Self {
        let mut servers = Vec::new();
        for _ in 0..6 {
            servers.push(Backend::start(backend::script(echo)).await);
        }
        let setup = Setup::new();
        let log = setup.directory().join("access.log");
        let top = format!(
            "access_log = {{ file = {log:?} }}\nadmin = \"127.0.0.1:0\"\ndrain = \"10s\"\nreload = {{ watch = false }}\n"
        );
        let model = Model::new();
        let proxy = setup.text(model.text(&top, &servers)).start().await;
        Self { proxy, servers, model, tunnels: Vec::new(), top }
    }

    /// Opens tunnels until there are enough, by all routes in turn.
    async fn fill(&mut self) {
        while self.tunnels.len() < TUNNELS {
            let (path, _) = &self.model.routes[self.tunnels.len() % self.model.routes.len()];
            let mut client = Raw::connect(self.proxy.web()).await;
            client.send(websocket::request(path, "")).await;
            assert_eq!(client.response().await.status(), 101);
            self.tunnels.push(client);
        }
    }

    /// Applies an edit, and returns the differences between its plan and its effect.
    async fn difference(&mut self, next: Model) -> Option<String> {
        self.fill().await;
        let text = next.text(&self.top, &self.servers);
        let api = self.proxy.api();
        let file = self.proxy.file();
        let request = json!({ "text": text, "path": file }).to_string();
        let planned = api.ask("POST", "/v1/plan", &request).await.json();
        let before = self.settings().await;
        self.proxy.write(&text);
        let reply = api.ask("POST", "/v1/reload", "{}").await;
        assert_eq!(reply.status(), 200, "{}", reply.text());
        let reported = reply.json();
        self.model = next;
        let mut differs = Vec::new();
        if planned != reported {
            differs.push(format!("the reload reports {reported}"));
        }
        let after = self.settings().await;
        if planned["empty"] != json!(before == after) {
            differs.push(format!("from {before}\n  to {after}"));
        }
        let (serving, listed) = (self.model.backends(&self.servers), self.serving().await);
        if serving != listed {
            differs.push(format!("{listed:?} serve, and not {serving:?}"));
        }
        let expected = planned["disconnected_tunnels"].as_u64().unwrap();
        let lost = self.lost(expected).await;
        if lost != expected {
            differs.push(format!("{lost} tunnels are lost"));
        }
        let report = || format!("{}\n  planned {planned}\n{text}", differs.join("\n  "));
        (!differs.is_empty()).then(report)
    }

    /// Returns the effective configuration with sorted arrays.
    async fn settings(&self) -> Value {
        let mut shown = self.proxy.api().get("/v1/config").await;
        sort(&mut shown);
        shown
    }

    /// Returns the backends that the process lists, and whether each is leaving.
    async fn listed(&self) -> Vec<(Value, bool)> {
        let shown = self.proxy.api().get("/v1/pools").await;
        let of = |pool: &Value| pool["backends"].as_array().unwrap().clone();
        let all = shown["pools"].as_array().unwrap().iter().flat_map(of);
        all.map(|backend| (backend.clone(), backend["state"] == "leaving")).collect()
    }

    async fn serving(&self) -> BTreeSet<(String, String, String, u64)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let serving = self.listed().await.into_iter().filter(|(_, leaving)| !leaving);
        serving
            .map(|(b, _)| {
                let weight = b["weight"].as_u64().unwrap();
                (text(&b["pool"]), text(&b["name"]), text(&b["address"]), weight)
            })
            .collect()
    }

    /// Waits until the expected number of tunnels has ended and no backend is leaving. Returns the number
    /// of ended tunnels. A tunnel that ends later is counted after the next edit.
    async fn lost(&mut self, expected: u64) -> u64 {
        let mut lost = 0;
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        loop {
            let mut alive = Vec::new();
            for mut client in self.tunnels.drain(..) {
                client.try_send(websocket::EARLY).await;
                match client.receives(websocket::EARLY).await {
                    true => alive.push(client),
                    false => lost += 1,
                }
            }
            self.tunnels = alive;
            let wanted = self.model.backends(&self.servers);
            let leaves = |(backend, leaving): &(Value, bool)| {
                // A backend whose address is still configured keeps its tunnels.
                *leaving && !wanted.iter().any(|(_, _, address, _)| backend["address"] == *address)
            };
            let empties = self.listed().await.iter().any(leaves);
            if lost >= expected && !empties || tokio::time::Instant::now() > deadline {
                return lost;
            }
        }
    }
}

/// Sorts arrays, because their order does not matter here.
fn sort(value: &mut Value) {
    match value {
        Value::Array(elements) => {
            elements.iter_mut().for_each(sort);
            elements.sort_by_key(Value::to_string);
        }
        Value::Object(fields) => fields.values_mut().for_each(sort),
        _ => {}
    }
}

/// A WebSocket server that echoes all bytes.
async fn echo(peer: Peer) {
    let Some(request) = peer.head().await else { return };
    peer.send(websocket::switching(&request)).await;
    loop {
        if !peer.skip(websocket::EARLY.len()).await {
            return;
        }
        peer.send(websocket::EARLY).await;
    }
}

async fn compare(seed: u64) {
    let mut scene = Scene::start().await;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut differences = Vec::new();
    for number in 0..EDITS {
        let mut next = scene.model.clone();
        next.edit(&mut random, scene.servers.len(), number);
        differences.extend(scene.difference(next).await);
    }
    differences.extend(scene.difference(scene.model.clone()).await);
    let count = differences.len();
    assert!(count == 0, "seed {seed}: {count} differences\n{}", differences.join("\n"));
    // Without a check for leaked descriptors: the edits have added listeners.
    drop(scene);
}

#[tokio::test]
async fn plans_are_equal_to_reloads() {
    compare(1).await;
}

#[tokio::test]
async fn plans_are_equal_to_reloads_with_another_seed() {
    let seed = std::env::var("MOORLINE_SEED").ok().and_then(|seed| seed.parse().ok());
    compare(seed.unwrap_or(2)).await;
}
