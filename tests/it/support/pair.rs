//! Two Engine.IO nodes behind one proxy, and how a request was assigned to one of them.

use super::{
    Node, Proxy, Raw, Settings,
    node::{Session, handshake},
};

/// Two nodes behind a proxy with the policy `round-robin`.
pub(crate) struct Pair {
    /// Node `a`.
    pub(crate) a: Node,
    /// Node `b`.
    pub(crate) b: Node,
    /// The proxy in front of both.
    pub(crate) proxy: Proxy,
}

impl Pair {
    /// Starts the pair with the default settings otherwise.
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// Starts the pair with changed settings.
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

    /// Opens a connection to the proxy.
    pub(crate) async fn client(&self) -> Raw {
        Raw::connect(self.proxy.web()).await
    }

    /// Opens a session on the node of this name.
    pub(crate) async fn session_on(&self, node: &str) -> Session {
        let mut client = self.client().await;
        loop {
            let session = handshake(&mut client, "seek", "").await;
            if session.node == node {
                return session;
            }
        }
    }

    /// Sends six handshakes with these header lines and returns their sessions.
    pub(crate) async fn spread(&self, t: &str, headers: &str) -> Vec<Session> {
        let mut client = self.client().await;
        let mut sessions = Vec::new();
        for _ in 0..6 {
            sessions.push(handshake(&mut client, t, headers).await);
        }
        sessions
    }

    /// `chosen_by` in the log line of the first request marked with `t`.
    pub(crate) async fn chosen_by(&self, t: &str) -> String {
        let marked = |line: &serde_json::Value| {
            line["path"].as_str().is_some_and(|path| path.contains(&format!("t={t}")))
        };
        let line = self.proxy.wait_for_log("the request's line", marked).await;
        line["chosen_by"].as_str().unwrap().to_owned()
    }

    /// Asserts that the cookie is ignored: sessions go to both nodes, and replies set a new cookie.
    pub(crate) async fn assert_ignored(&self, t: &str, headers: &str) {
        let sessions = self.spread(t, headers).await;
        for node in ["a", "b"] {
            assert!(sessions.iter().any(|session| session.node == node), "{t} binds to one node");
        }
        assert!(sessions.iter().all(|session| session.cookie.is_some()), "{t}: no new cookie");
        assert_eq!(self.chosen_by(t).await, "balance", "{t}");
    }

    /// Asserts that the cookie leads to this node.
    pub(crate) async fn assert_bound(&self, t: &str, headers: &str, node: &str) {
        let sessions = self.spread(t, headers).await;
        assert!(sessions.iter().all(|session| session.node == node), "{t}: {sessions:?}");
        assert_eq!(self.chosen_by(t).await, "cookie", "{t}");
    }

    /// Stops the nodes, and finishes as [`Proxy::finish`] does.
    pub(crate) async fn finish(self) {
        drop((self.a, self.b));
        self.proxy.finish().await;
    }
}
