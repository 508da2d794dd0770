//! Two Engine.IO nodes behind one proxy, and what tells which of them was chosen and why.

use super::{
    Node, Proxy, Raw, Settings,
    node::{Session, handshake},
};

/// Two nodes, taken in turn where nothing binds a client to one.
pub(crate) struct Pair {
    /// Named `a`.
    pub(crate) a: Node,
    /// Named `b`.
    pub(crate) b: Node,
    /// In front of both.
    pub(crate) proxy: Proxy,
}

impl Pair {
    /// With the default settings otherwise.
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// With the settings changed.
    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let (a, b) = (Node::start("a").await, Node::start("b").await);
        let proxy = Proxy::with(|settings| {
            settings.backends(&[a.backend.address, b.backend.address]);
            settings.pool("balance", "\"round-robin\"");
            change(settings);
        })
        .await;
        Self { a, b, proxy }
    }

    /// A connection.
    pub(crate) async fn client(&self) -> Raw {
        Raw::connect(self.proxy.web()).await
    }

    /// A session on the node of this name.
    pub(crate) async fn session_on(&self, node: &str) -> Session {
        let mut client = self.client().await;
        loop {
            let session = handshake(&mut client, "seek", "").await;
            if session.node == node {
                return session;
            }
        }
    }

    /// Nodes of a few handshakes that send this header line.
    pub(crate) async fn spread(&self, t: &str, headers: &str) -> Vec<Session> {
        let mut client = self.client().await;
        let mut sessions = Vec::new();
        for _ in 0..6 {
            sessions.push(handshake(&mut client, t, headers).await);
        }
        sessions
    }

    /// How the first request marked with `t` was placed.
    pub(crate) async fn chosen_by(&self, t: &str) -> String {
        let marked = |line: &serde_json::Value| {
            line["path"].as_str().is_some_and(|path| path.contains(&format!("t={t}")))
        };
        let line = self.proxy.wait_for_log("the request's line", marked).await;
        line["chosen_by"].as_str().unwrap().to_owned()
    }

    /// The cookie is taken as absent: nodes are taken in turn, and the reply sets a good one.
    pub(crate) async fn assert_ignored(&self, t: &str, headers: &str) {
        let sessions = self.spread(t, headers).await;
        for node in ["a", "b"] {
            assert!(sessions.iter().any(|session| session.node == node), "{t} binds to one node");
        }
        assert!(sessions.iter().all(|session| session.cookie.is_some()), "{t}: no new cookie");
        assert_eq!(self.chosen_by(t).await, "balance", "{t}");
    }

    /// The cookie binds to this node.
    pub(crate) async fn assert_bound(&self, t: &str, headers: &str, node: &str) {
        let sessions = self.spread(t, headers).await;
        assert!(sessions.iter().all(|session| session.node == node), "{t}: {sessions:?}");
        assert_eq!(self.chosen_by(t).await, "cookie", "{t}");
    }

    /// Ends as every scenario does.
    pub(crate) async fn finish(self) {
        drop((self.a, self.b));
        self.proxy.finish().await;
    }
}
