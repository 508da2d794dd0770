//! Checks whether the target forwards requests to nodes of this run.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::time::{sleep, timeout};

use crate::{
    net::Connector,
    scenario::Target,
    stats::{ErrorKind, Failure},
};

/// Header with the name of the node that sent a reply.
const X_NODE: &str = "x-node";
/// Maximum time until the target uses the nodes of the list.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time until the target uses a node that was just added to the list.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of one request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two requests.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until the target answers through one of these nodes.
///
/// # Errors
///
/// The target did not do so in time.
pub(super) async fn wait_for_nodes(
    connector: &Arc<Connector>,
    target: &Target,
    nodes: &[&str],
    list: &Path,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIST_TIMEOUT;
    loop {
        let seen = match node_of_reply(connector, target).await {
            Ok(Some(name)) if nodes.contains(&name.as_str()) => return Ok(()),
            Ok(Some(name)) => format!("its replies come from {name}"),
            Ok(None) => "its replies have no X-Node header".to_owned(),
            Err(failure) => failure.detail,
        };
        ensure!(
            Instant::now() < deadline,
            "{} did not answer through the nodes in {} within {LIST_TIMEOUT:?} ({seen}): check that the proxy reads this list",
            target.url,
            list.display()
        );
        sleep(PAUSE).await;
    }
}

/// Returns whether the target answered through this node within a few seconds.
pub(super) async fn wait_for_node(connector: &Arc<Connector>, target: &Target, node: &str) -> bool {
    let deadline = Instant::now() + NODE_TIMEOUT;
    while Instant::now() < deadline {
        if node_of_reply(connector, target).await.is_ok_and(|name| name.as_deref() == Some(node)) {
            return true;
        }
        sleep(PAUSE).await;
    }
    false
}

/// Returns the node behind one reply. The request has no query and so opens no session: nodes reject it, with
/// their name.
async fn node_of_reply(
    connector: &Arc<Connector>,
    target: &Target,
) -> Result<Option<String>, Failure> {
    let request = async {
        let mut http = connector.dialer(0).http().await?;
        http.send(Method::GET, &target.path, &HeaderMap::new(), Bytes::new()).await
    };
    let reply = timeout(REPLY_TIMEOUT, request).await.unwrap_or_else(|_| {
        Err(Failure::new(ErrorKind::Timeout, format!("no reply within {REPLY_TIMEOUT:?}")))
    })?;
    let name = reply.headers.get(X_NODE);
    Ok(name.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned()))
}
