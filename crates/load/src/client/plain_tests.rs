//! Clients without Socket.IO, against the echo server and servers that misbehave.

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

async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(echo::serve(listener));
    address
}

/// A server that answers any data with the same bytes, on every connection.
async fn fixed_reply_server(reply: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut received = [0; 4096];
            while tcp.read(&mut received).await.is_ok_and(|n| n > 0) {
                tcp.write_all(reply).await.unwrap();
            }
        }
    });
    address
}

/// Runs one client of a kind, and commands it to stop when `is_enough` is true.
pub(super) async fn run_one_client(
    url: String,
    client: ClientKind,
    change: impl FnOnce(&mut Options),
    is_enough: impl Fn(&Record) -> bool,
) -> Record {
    let mut options = Options { url: Some(url), client: Some(client), ..Options::default() };
    options.no_reconnect = true;
    change(&mut options);
    let scenario = Arc::new(Scenario::check(options).unwrap());
    let collector = Collector::new(Meter::default());
    let (commands, receiver) = watch::channel(ClientCommand::Run);
    let context = Arc::new(Context {
        connector: Arc::new(Connector::new(&scenario).unwrap()),
        scenario,
        recorder: collector.recorder(),
        commands: receiver,
        node_states: Arc::default(),
        epoch: collector.epoch(),
    });
    let mut client = std::pin::pin!(run_client(context, 0, Instant::now()));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < deadline, "the client does not end");
        tokio::select! {
            () = &mut client => return collector.record(),
            () = tokio::time::sleep(Duration::from_millis(2)) => {}
        }
        if is_enough(&collector.record()) {
            commands.send_replace(ClientCommand::Stop);
        }
    }
}

fn without_pause(options: &mut Options) {
    options.think = Some("0s".parse().unwrap());
    options.messages = Some(20);
}

fn errors(record: &Record, kind: ErrorKind) -> u64 {
    record.errors[kind as usize]
}

#[tokio::test]
async fn echo_client_sends_its_messages_and_ends() {
    let url = format!("ws://{}", echo_server().await);
    for size in [0, 5, 64, 100_000] {
        let change = |options: &mut Options| {
            without_pause(options);
            options.size = Some(size.to_string().parse().unwrap());
        };
        let totals = run_one_client(url.clone(), ClientKind::Ws, change, |_| false).await.totals;
        assert_eq!((totals.answered, totals.finished, totals.errors), (20, 1, 0), "{size} bytes");
        assert_eq!(totals.bytes_received, 20 * size as u64);
    }
}

#[tokio::test]
async fn silent_client_stays_until_it_is_stopped() {
    let url = format!("ws://{}", echo_server().await);
    let silent = |options: &mut Options| options.silent = true;
    let totals = run_one_client(url, ClientKind::Ws, silent, |record| record.totals.connects == 1)
        .await
        .totals;
    assert_eq!((totals.sent, totals.finished, totals.errors), (0, 1, 0));
}

#[tokio::test]
async fn client_that_sends_without_pause_can_be_stopped() {
    let url = format!("ws://{}", echo_server().await);
    for (pace, answer) in [("think", Answer::Nothing), ("every", Answer::Echo)] {
        let change = |options: &mut Options| {
            match pace {
                "think" => options.think = Some("0s".parse().unwrap()),
                _ => options.every = Some("1ns".parse().unwrap()),
            }
            options.answer = Some(answer);
        };
        let is_enough = |record: &Record| record.totals.sent > 1000;
        let totals = run_one_client(url.clone(), ClientKind::Ws, change, is_enough).await.totals;
        assert_eq!((totals.finished, totals.errors), (1, 0), "{pace}");
        assert!(totals.bytes_received > 0, "{pace}");
    }
}

#[tokio::test]
async fn rejected_upgrade_is_counted() {
    let url = format!(
        "ws://{}",
        fixed_reply_server(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await
    );
    let record = run_one_client(url, ClientKind::Ws, without_pause, |_| false).await;
    assert_eq!((record.totals.errors, errors(&record, ErrorKind::UpgradeRefused)), (1, 1));
    assert_eq!(record.totals.connects, 0);
}

#[tokio::test]
async fn download_is_counted_until_its_end_or_a_stop() {
    let address = echo_server().await;
    let whole = run_one_client(
        format!("ws://{address}/?bytes=3000000"),
        ClientKind::Bulk,
        |_| (),
        |_| false,
    )
    .await;
    assert_eq!((whole.totals.bytes_received, whole.totals.finished), (3_000_000, 1));
    let endless = run_one_client(
        format!("ws://{address}/bulk"),
        ClientKind::Bulk,
        |_| (),
        |record| record.totals.bytes_received > 1 << 20,
    )
    .await;
    assert_eq!((endless.totals.finished, endless.totals.errors), (1, 0));
}

#[tokio::test]
async fn requests_are_counted_by_status() {
    let fine = run_one_client(
        format!("http://{}", echo_server().await),
        ClientKind::Http,
        without_pause,
        |_| false,
    )
    .await;
    let totals = fine.totals;
    assert_eq!((totals.answered, totals.connects, totals.errors), (20, 1, 0));
    let busy = fixed_reply_server(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
    let record =
        run_one_client(format!("http://{busy}"), ClientKind::Http, without_pause, |_| false).await;
    assert_eq!((record.totals.answered, errors(&record, ErrorKind::Status)), (0, 20));
}

#[tokio::test]
async fn client_that_stays_keeps_its_connection_after_its_last_request() {
    let url = format!("http://{}", echo_server().await);
    let change = |options: &mut Options| {
        options.think = Some("0s".parse().unwrap());
        options.messages = Some(2);
        options.stay = true;
    };
    let is_enough = |record: &Record| record.totals.answered == 2;
    let totals = run_one_client(url, ClientKind::Http, change, is_enough).await.totals;
    // The command ended the client, not its second answer.
    assert_eq!((totals.connects, totals.answered), (1, 2));
    assert_eq!((totals.finished, totals.errors), (1, 0));
}

#[tokio::test]
async fn client_that_stays_reports_that_the_server_closed() {
    let reply = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let url = format!("http://{}", fixed_reply_server(reply).await);
    let change = |options: &mut Options| {
        options.think = Some("0s".parse().unwrap());
        options.messages = Some(1);
        options.stay = true;
    };
    let record = run_one_client(url, ClientKind::Http, change, |_| false).await;
    assert_eq!((record.totals.answered, record.totals.disconnects), (1, 1));
}

#[tokio::test]
async fn slow_reader_takes_as_long_as_its_rate_says() {
    let url = format!("http://{}/bulk?bytes=400000", echo_server().await);
    let run = |rate: &str| {
        let rate = rate.parse().unwrap();
        let change = move |options: &mut Options| {
            options.think = Some("0s".parse().unwrap());
            options.messages = Some(1);
            options.timeout = Some("100ms".parse().unwrap());
            options.read_rate = Some(rate);
        };
        let start = Instant::now();
        let run = run_one_client(url.clone(), ClientKind::Http, change, |_| false);
        async move { (run.await.totals, start.elapsed()) }
    };
    let (totals, took) = run("1MiB").await;
    assert_eq!((totals.answered, totals.bytes_received, totals.errors), (1, 400_000, 0));
    // Longer than the timeout for an answer, which does not apply.
    assert!(took >= Duration::from_secs_f64(400_000.0 / f64::from(1 << 20)), "{took:?}");
}

#[tokio::test]
async fn server_may_close_between_two_requests() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut received = [0; 4096];
            assert!(tcp.read(&mut received).await.unwrap() > 0);
            let reply = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            tcp.write_all(reply).await.unwrap();
        }
    });
    let totals = run_one_client(url, ClientKind::Http, without_pause, |_| false).await.totals;
    assert_eq!((totals.answered, totals.connects, totals.errors), (20, 20, 0));
}

#[tokio::test]
async fn connect_clients_repeat() {
    let url = format!("http://{}", echo_server().await);
    let once = run_one_client(url.clone(), ClientKind::Connect, |_| (), |_| false).await.totals;
    assert_eq!((once.connects, once.finished, once.errors), (1, 1, 0));
    let repeat = |options: &mut Options| options.repeat = true;
    let often =
        run_one_client(url, ClientKind::Connect, repeat, |record| record.totals.connects >= 50)
            .await;
    assert!(often.totals.finished >= 50 && often.totals.errors == 0);
}
