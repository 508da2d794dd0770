//! Memory that the process keeps after its clients left.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::{
    Backend, Proxy, Raw, backend, eventually, message,
    node::{handshake, poll_target},
    process,
};

/// Clients that hold a poll at the same time.
const CLIENTS: usize = 1500;

/// Clients before the first look at the memory: what the process allocates once does not count as growth.
const FIRST_CLIENTS: usize = 80;

/// Percentage of the growth that may stay. More than a MiB stays after any number of clients, such as free buffers; without
/// a return of memory, 100 % stays.
const MOST_KEPT: usize = 40;

/// Opens sessions, and a poll in each.
async fn hold_polls(proxy: &Proxy, node: &Backend, count: usize) -> Vec<Raw> {
    let mut clients = Vec::new();
    for n in 0..count {
        let mut client = Raw::connect(proxy.web()).await;
        let session = handshake(&mut client, "open", "").await;
        client.send(message::get(&poll_target(&session.sid, &format!("{count}-{n}")), "")).await;
        clients.push(client);
    }
    let last = format!("t={count}-{}", count - 1);
    eventually("the last poll at the node", || node.saw(&last)).await;
    clients
}

#[tokio::test]
async fn memory_of_held_polls_returns_to_the_system() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let node = backend::script(|peer| async move {
        while let Some(request) = peer.request().await {
            if request.target().contains("sid=") {
                peer.ended().await;
                return;
            }
            let open = format!(
                "0{{\"sid\":\"{:016x}\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}}",
                fastrand::u64(..)
            );
            peer.send(message::reply("200 OK", "", &open)).await;
        }
    });
    let node = Backend::start(node).await;
    let proxy = Proxy::for_backends(&[node.address]).await;
    drop(hold_polls(&proxy, &node, FIRST_CLIENTS).await);
    let before = process::anonymous(proxy.pid());
    let clients = hold_polls(&proxy, &node, CLIENTS).await;
    let grown = process::anonymous(proxy.pid()).saturating_sub(before);
    assert!(grown > CLIENTS * 2048, "{grown} bytes: the test measures nothing");
    drop(clients);
    let kept = || process::anonymous(proxy.pid()).saturating_sub(before);
    let text = format!("at most {MOST_KEPT} % of {grown} bytes stays");
    eventually(&text, || kept() <= grown * MOST_KEPT / 100).await;
    drop(node);
    proxy.finish().await;
}
