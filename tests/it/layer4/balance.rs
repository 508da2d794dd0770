//! Which backend a stream goes to, and what happens where none can take it.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{before, ended, named, naming, tcp};
use crate::support::{End, Proxy, Raw, Refusing, eventually};

/// How many of these went to each.
fn spread(names: impl IntoIterator<Item = char>) -> BTreeMap<char, usize> {
    let mut spread = BTreeMap::new();
    for name in names {
        *spread.entry(name).or_default() += 1;
    }
    spread
}

async fn streams(proxy: &Proxy, count: usize) -> Vec<(Raw, char)> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(named(proxy.web()).await);
    }
    streams
}

fn names(streams: &[(Raw, char)]) -> BTreeMap<char, usize> {
    spread(streams.iter().map(|(_, name)| *name))
}

#[tokio::test]
async fn least_sessions_counts_open_streams() {
    let (a, b, c) = (naming("a").await, naming("b").await, naming("c").await);
    let proxy = before(&[a.address, b.address, c.address]).await;
    let mut streams = streams(&proxy, 9).await;
    assert_eq!(names(&streams), [('a', 3), ('b', 3), ('c', 3)].into());
    // Those who leave make room where they were.
    streams.retain(|(_, name)| *name != 'b');
    let open = "moorline_backend_sessions";
    proxy.wait_for_metric("six streams", open, |count| count == 6.0).await;
    for _ in 0..3 {
        streams.push(named(proxy.web()).await);
    }
    assert_eq!(names(&streams), [('a', 3), ('b', 3), ('c', 3)].into());
    drop((streams, a, b, c));
    proxy.finish().await;
}

#[tokio::test]
async fn every_policy_balances_streams_by_weight() {
    let (a, b) = (naming("a").await, naming("b").await);
    for (policy, most) in [("round-robin", 10..=10), ("least-sessions", 10..=10), ("p2c", 3..=17)] {
        let proxy = Proxy::with(|settings| {
            let weighted = format!(
                "[{{ address = \"{}\" }}, {{ address = \"{}\", weight = 3 }}]",
                a.address, b.address
            );
            tcp(settings, &[]).pool("backends", &weighted);
            settings.pool("balance", &format!("\"{policy}\""));
        })
        .await;
        let streams = streams(&proxy, 40).await;
        let light = names(&streams)[&'a'];
        assert!(most.contains(&light), "{policy}: {light} of 40");
        drop(streams);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn source_hash_moves_a_share_of_clients_to_a_new_backend_and_nobody_else() {
    const CLIENTS: u8 = 60;
    let (a, b, c) = (naming("a").await, naming("b").await, naming("c").await);
    let mut proxy = Proxy::with(|settings| {
        tcp(settings, &[a.address, b.address]).pool("balance", "\"source-hash\"");
    })
    .await;
    let ask = async |proxy: &Proxy| {
        let mut owners = Vec::new();
        for client in 1..=CLIENTS {
            let source = Ipv4Addr::new(127, 0, 1, client);
            let mut stream = Raw::from(source, proxy.web()).await;
            owners.push(char::from(stream.exact(1).await[0]));
        }
        owners
    };
    let owners = ask(&proxy).await;
    assert_eq!(ask(&proxy).await, owners, "the same clients, the same backends");
    let all = [a.address, b.address, c.address];
    proxy
        .reload(|settings| {
            settings.backends(&all);
        })
        .await;
    let now = ask(&proxy).await;
    let moved: Vec<char> =
        owners.iter().zip(&now).filter(|(old, new)| old != new).map(|(_, &new)| new).collect();
    assert!(moved.iter().all(|&name| name == 'c'), "{moved:?}");
    // A third of 60 is 20; this far off is one in some hundreds of thousands.
    assert!((5..=38).contains(&moved.len()), "{} of {CLIENTS} moved", moved.len());
    drop((a, b, c));
    proxy.finish().await;
}

#[tokio::test]
async fn a_backend_that_refuses_is_passed_by_and_told() {
    let (refusing, a) = (Refusing::new(), naming("a").await);
    let proxy = Proxy::with(|settings| {
        tcp(settings, &[refusing.address(), a.address]).pool("balance", "\"round-robin\"");
    })
    .await;
    let streams = streams(&proxy, 4).await;
    assert_eq!(names(&streams), [('a', 4)].into());
    assert!(proxy.metric("moorline_retries_total").await >= 1.0);
    drop((streams, a));
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_that_no_backend_takes_is_closed_in_order() {
    let refusing = Refusing::new();
    let proxy = before(&[refusing.address()]).await;
    let mut silent = Raw::connect(proxy.web()).await;
    assert_eq!(silent.assert_closed().await, End::Fin);
    let mut speaking = Raw::connect(proxy.web()).await;
    speaking.try_send("hello").await;
    assert_eq!(speaking.assert_closed().await, End::Fin);
    let line = ended(&proxy, "backend_connect_refused").await;
    assert_eq!(line["backend"], refusing.address().to_string());
    assert_eq!((&line["status"], &line["bytes_in"]), (&serde_json::Value::Null, &0.into()));
    let refused = "moorline_streams_total{listener=\"web\",termination=\"backend_connect_refused\"";
    let refused = refused.to_owned();
    proxy.wait_for_metric("both are counted", &refused, |count| count == 2.0).await;
    drop((silent, speaking));
    proxy.finish().await;
}

#[tokio::test]
async fn fault_078_streams_beyond_the_limit_wait_in_a_bounded_queue() {
    let backend = naming("a").await;
    let proxy = Proxy::with(|settings| {
        tcp(settings, &[backend.address]).pool("limits", "{ connections = 2, pending = 2 }");
        settings.timeouts("connect = \"20s\"");
    })
    .await;
    let (first, _) = named(proxy.web()).await;
    let (second, _) = named(proxy.web()).await;
    let mut waiting = Vec::new();
    for count in [1.0, 2.0] {
        waiting.push(Raw::connect(proxy.web()).await);
        let pending = "moorline_backend_pending";
        proxy.wait_for_metric("it waits", pending, |pending| pending == count).await;
    }
    let mut beyond = Raw::connect(proxy.web()).await;
    assert_eq!(beyond.assert_closed().await, End::Fin);
    ended(&proxy, "proxy_select_saturated").await;
    assert_eq!(backend.connections(), 2, "no more than the limit");
    // In order of coming.
    drop(first);
    assert_eq!(waiting[0].exact(1).await, b"a");
    assert!(!waiting[1].has(1).await);
    // One that leaves by a reset leaves the queue.
    let mut last = Raw::connect(proxy.web()).await;
    waiting.pop().unwrap().reset();
    ended(&proxy, "client_select_reset").await;
    drop(second);
    assert_eq!(last.exact(1).await, b"a");
    drop((waiting, last, beyond, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn a_stream_waits_no_longer_than_connecting_may_take() {
    let backend = naming("a").await;
    let proxy = Proxy::with(|settings| {
        tcp(settings, &[backend.address]).pool("limits", "{ connections = 1 }");
        settings.timeouts("connect = \"300ms\"");
    })
    .await;
    let (first, _) = named(proxy.web()).await;
    let mut waiting = Raw::connect(proxy.web()).await;
    assert_eq!(waiting.assert_closed().await, End::Fin);
    ended(&proxy, "proxy_select_saturated").await;
    drop((first, waiting, backend));
    proxy.finish().await;
}

#[tokio::test]
async fn whichever_backend_is_free_first_takes_who_waits() {
    let (a, b) = (naming("a").await, naming("b").await);
    let proxy = Proxy::with(|settings| {
        let limits = "{ connections = 1, pending = 1 }";
        tcp(settings, &[a.address, b.address]).pool("limits", limits);
        settings.timeouts("connect = \"20s\"");
    })
    .await;
    let mut streams = streams(&proxy, 2).await;
    let mut waiting = Vec::new();
    for count in 1..=2 {
        waiting.push(Raw::connect(proxy.web()).await);
        let pending = "moorline_backend_pending";
        proxy.wait_for_metric("it waits", pending, |sum| sum == f64::from(count)).await;
    }
    // Each has the one place of one backend, and waits for both.
    let mut beyond = Raw::connect(proxy.web()).await;
    assert_eq!(beyond.assert_closed().await, End::Fin);
    for client in &mut waiting {
        let (stream, name) = streams.pop().unwrap();
        drop(stream);
        assert_eq!(client.exact(1).await, [name as u8]);
    }
    drop((waiting, beyond, a, b));
    proxy.finish().await;
}

#[tokio::test]
async fn failures_under_streams_take_a_backend_down_as_those_under_requests() {
    let (a, b) = (naming("a").await, naming("b").await);
    let address = b.address;
    let proxy = Proxy::with(|settings| {
        tcp(settings, &[a.address, address]).pool("balance", "\"round-robin\"");
        settings.pool("health", "{ probe = \"tcp\", interval = \"1h\", fall = 2 }");
    })
    .await;
    eventually("both are probed", || a.connections() > 0 && b.connections() > 0).await;
    let up = format!("moorline_backend_up{{pool=\"app\",backend=\"{address}\"");
    proxy.wait_for_metric("it is up", &up, |up| up == 1.0).await;
    drop(b);
    let refusing = Refusing::at(address).await;
    let mut streams = Vec::new();
    while proxy.metric(&up).await == 1.0 {
        assert!(streams.len() < 100, "nobody takes it down");
        let (stream, name) = named(proxy.web()).await;
        assert_eq!(name, 'a');
        streams.push(stream);
    }
    let told = || proxy.stderr().iter().any(|l| l.contains("backend failed under traffic"));
    eventually("it is told", told).await;
    drop((streams, a, refusing));
    proxy.finish().await;
}

#[tokio::test]
async fn a_backend_nobody_else_stands_in_for_is_tried_once_and_no_retry_counted() {
    let refusing = Refusing::new();
    let proxy = before(&[refusing.address()]).await;
    let mut client = Raw::connect(proxy.web()).await;
    assert_eq!(client.assert_closed().await, End::Fin);
    ended(&proxy, "backend_connect_refused").await;
    assert_eq!(proxy.metric("moorline_retries_total").await, 0.0);
    drop(client);
    proxy.finish().await;
}

#[tokio::test]
async fn fault_093_streams_wait_to_be_admitted_as_sessions_do() {
    let backend = naming("a").await;
    let mut proxy = Proxy::with(|settings| {
        tcp(settings, &[backend.address]);
        settings.pool("admission", "{ rate = \"1/m\", queue = 9, deadline = \"1s\" }");
    })
    .await;
    let (first, _) = named(proxy.web()).await;
    let mut refused = Raw::connect(proxy.web()).await;
    assert_eq!(refused.assert_closed().await, End::Fin);
    ended(&proxy, "proxy_select_not_admitted").await;
    assert_eq!(proxy.metric("moorline_admission_total{result=\"refused\"}").await, 1.0);
    assert_eq!(backend.connections(), 1);
    drop((first, refused));

    let other = naming("b").await;
    proxy
        .reload(|settings| {
            settings.backends(&[other.address]);
            settings.pool("admission", "{ rate = \"2/s\", queue = 9, deadline = \"19s\" }");
        })
        .await;
    let mut herd = Vec::new();
    for _ in 0..5 {
        herd.push(Raw::connect(proxy.web()).await);
    }
    for client in &mut herd {
        assert_eq!(client.exact(1).await, b"b");
    }
    assert!(proxy.metric("moorline_admission_total{result=\"queued\"}").await >= 1.0);
    drop((herd, backend, other));
    proxy.finish().await;
}
