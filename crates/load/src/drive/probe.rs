//! Whether the target passes requests on to nodes of this run.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::time::{sleep, timeout};

use crate::{net::Connector, scenario::Target};

/// Names the node that made a reply.
const X_NODE: &str = "x-node";
/// Longest wait for the target to take up the list.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for a node that has just been added to it to be chosen.
const CHOSEN: Duration = Duration::from_secs(5);
/// Deadline of one request.
const REPLY: Duration = Duration::from_secs(2);
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until the target answers through one of these nodes.
///
/// # Errors
///
/// A sentence for the user.
pub(super) async fn answered(
    connector: &Arc<Connector>,
    target: &Target,
    nodes: &[&str],
    list: &Path,
) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let told = match ask(connector, target).await {
            Ok(Some(name)) if nodes.contains(&name.as_str()) => return Ok(()),
            Ok(Some(name)) => format!("its replies come from {name}"),
            Ok(None) => "its replies name no node".to_owned(),
            Err(failure) => failure,
        };
        if Instant::now() >= deadline {
            return Err(format!(
                "{} did not answer through the nodes in {} within {PATIENCE:?} ({told}): is this the \
                 list that it reads?",
                target.url,
                list.display()
            ));
        }
        sleep(PAUSE).await;
    }
}

/// Whether the target was seen to answer through this node within a few seconds.
pub(super) async fn reached(connector: &Arc<Connector>, target: &Target, node: &str) -> bool {
    let deadline = Instant::now() + CHOSEN;
    while Instant::now() < deadline {
        if ask(connector, target).await.is_ok_and(|name| name.as_deref() == Some(node)) {
            return true;
        }
        sleep(PAUSE).await;
    }
    false
}

/// The node behind one reply. The request has no query, so that it opens no session anywhere: nodes
/// refuse it, and sign the refusal.
async fn ask(connector: &Arc<Connector>, target: &Target) -> Result<Option<String>, String> {
    let request = async {
        let mut http = connector.dialer(0).http().await?;
        http.send(Method::GET, &target.path, &HeaderMap::new(), Bytes::new()).await
    };
    match timeout(REPLY, request).await {
        Ok(Ok(reply)) => {
            let name = reply.headers.get(X_NODE);
            Ok(name.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned()))
        }
        Ok(Err(failure)) => Err(failure.detail),
        Err(_) => Err(format!("no reply within {REPLY:?}")),
    }
}
