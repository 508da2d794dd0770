//! The kinds that speak no Socket.IO, against the echo origin and servers that misbehave.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    cost::Meter,
    node::echo,
    scenario::{Answer, ClientKind, options::Options},
    stats::{Collector, Record},
};

async fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(echo::serve(listener));
    address
}

/// A server that answers whatever it hears with the same bytes, on every connection.
async fn parrot(reply: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut heard = [0; 4096];
            while tcp.read(&mut heard).await.is_ok_and(|n| n > 0) {
                tcp.write_all(reply).await.unwrap();
            }
        }
    });
    address
}

/// The life of one client of a kind, whose orders are to leave from the time when `enough`.
async fn life(
    url: String,
    client: ClientKind,
    change: impl FnOnce(&mut Options),
    enough: impl Fn(&Record) -> bool,
) -> Record {
    let mut options = Options { url: Some(url), client: Some(client), ..Options::default() };
    options.no_reconnect = true;
    change(&mut options);
    let scenario = Arc::new(Scenario::check(options).unwrap());
    let collector = Collector::new(Meter::default());
    let (orders, receiver) = watch::channel(Order::Go);
    let context = Arc::new(Context {
        connector: Arc::new(Connector::new(&scenario).unwrap()),
        scenario,
        recorder: collector.recorder(),
        orders: receiver,
        departed: Arc::default(),
        epoch: collector.epoch(),
    });
    let mut life = std::pin::pin!(live(context, 0, Instant::now()));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < deadline, "it never ends");
        tokio::select! {
            () = &mut life => return collector.record(),
            () = tokio::time::sleep(Duration::from_millis(2)) => {}
        }
        if enough(&collector.record()) {
            orders.send_replace(Order::Leave);
        }
    }
}

fn at_once(options: &mut Options) {
    options.think = Some("0s".parse().unwrap());
    options.messages = Some(20);
}

fn errors(record: &Record, kind: ErrorKind) -> u64 {
    record.errors[kind as usize]
}

#[tokio::test]
async fn an_echo_client_says_its_messages_and_leaves() {
    let url = format!("ws://{}", origin().await);
    for size in [0, 5, 64, 100_000] {
        let change = |options: &mut Options| {
            at_once(options);
            options.size = Some(size.to_string().parse().unwrap());
        };
        let totals = life(url.clone(), ClientKind::Ws, change, |_| false).await.totals;
        assert_eq!((totals.answered, totals.finished, totals.errors), (20, 1, 0), "{size} bytes");
        assert_eq!(totals.bytes_received, 20 * size as u64);
    }
}

#[tokio::test]
async fn a_silent_client_stays_until_it_is_told_to_leave() {
    let url = format!("ws://{}", origin().await);
    let silent = |options: &mut Options| options.silent = true;
    let totals =
        life(url, ClientKind::Ws, silent, |record| record.totals.connects == 1).await.totals;
    assert_eq!((totals.sent, totals.finished, totals.errors), (0, 1, 0));
}

#[tokio::test]
async fn who_says_more_than_can_be_said_still_obeys() {
    let url = format!("ws://{}", origin().await);
    for (pace, answer) in [("think", Answer::Nothing), ("every", Answer::Echo)] {
        let change = |options: &mut Options| {
            match pace {
                "think" => options.think = Some("0s".parse().unwrap()),
                _ => options.every = Some("1ns".parse().unwrap()),
            }
            options.answer = Some(answer);
        };
        let enough = |record: &Record| record.totals.sent > 1000;
        let totals = life(url.clone(), ClientKind::Ws, change, enough).await.totals;
        assert_eq!((totals.finished, totals.errors), (1, 0), "{pace}");
        assert!(totals.bytes_received > 0, "{pace}");
    }
}

#[tokio::test]
async fn a_refused_upgrade_is_counted_as_such() {
    let url =
        format!("ws://{}", parrot(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await);
    let record = life(url, ClientKind::Ws, at_once, |_| false).await;
    assert_eq!((record.totals.errors, errors(&record, ErrorKind::UpgradeRefused)), (1, 1));
    assert_eq!(record.totals.connects, 0);
}

#[tokio::test]
async fn a_download_is_counted_to_its_end_or_until_told_to_leave() {
    let address = origin().await;
    let whole =
        life(format!("ws://{address}/?bytes=3000000"), ClientKind::Bulk, |_| (), |_| false).await;
    assert_eq!((whole.totals.bytes_received, whole.totals.finished), (3_000_000, 1));
    let endless = life(
        format!("ws://{address}/bulk"),
        ClientKind::Bulk,
        |_| (),
        |record| record.totals.bytes_received > 1 << 20,
    )
    .await;
    assert_eq!((endless.totals.finished, endless.totals.errors), (1, 0));
}

#[tokio::test]
async fn requests_are_counted_by_their_status() {
    let fine =
        life(format!("http://{}", origin().await), ClientKind::Http, at_once, |_| false).await;
    let totals = fine.totals;
    assert_eq!((totals.answered, totals.connects, totals.errors), (20, 1, 0));
    let busy = parrot(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
    let record = life(format!("http://{busy}"), ClientKind::Http, at_once, |_| false).await;
    assert_eq!((record.totals.answered, errors(&record, ErrorKind::Status)), (0, 20));
}

#[tokio::test]
async fn a_server_may_close_between_two_requests() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut heard = [0; 4096];
            assert!(tcp.read(&mut heard).await.unwrap() > 0);
            let reply = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            tcp.write_all(reply).await.unwrap();
        }
    });
    let totals = life(url, ClientKind::Http, at_once, |_| false).await.totals;
    assert_eq!((totals.answered, totals.connects, totals.errors), (20, 20, 0));
}

#[tokio::test]
async fn bare_connections_are_made_again_and_again() {
    let url = format!("http://{}", origin().await);
    let once = life(url.clone(), ClientKind::Connect, |_| (), |_| false).await.totals;
    assert_eq!((once.connects, once.finished, once.errors), (1, 1, 0));
    let repeat = |options: &mut Options| options.repeat = true;
    let often = life(url, ClientKind::Connect, repeat, |record| record.totals.connects >= 50).await;
    assert!(often.totals.finished >= 50 && often.totals.errors == 0);
}
