use std::net::{IpAddr, SocketAddr};

use super::*;

/// Sends each client its source address.
async fn address_server() -> SocketAddr {
    server(|mut tcp| async move {
        let IpAddr::V4(source) = tcp.peer_addr().unwrap().ip() else { panic!("no IPv4") };
        tcp.write_all(&source.octets()).await.unwrap();
    })
    .await
}

async fn source_of(connector: &Arc<Connector>, number: u32) -> [u8; 4] {
    let mut octets = [0; 4];
    let mut stream = connector.dialer(number).connect().await.unwrap();
    stream.read_exact(&mut octets).await.unwrap();
    octets
}

#[tokio::test]
async fn clients_are_spread_over_the_source_addresses() {
    let url = format!("ws://{}", address_server().await);
    let many = connector(url.clone(), |options| options.sources = Some(300));
    let mut sources = Vec::new();
    for number in [0, 1, 254, 299, 300, 301] {
        sources.push(source_of(&many, number).await);
    }
    let expected = [
        [127, 1, 0, 1],
        [127, 1, 0, 2],
        [127, 1, 0, 255],
        [127, 1, 1, 44],
        [127, 1, 0, 1],
        [127, 1, 0, 2],
    ];
    assert_eq!(sources, expected);
    let one = connector(url, |_| ());
    assert_eq!(source_of(&one, 7).await, [127, 0, 0, 1], "chosen by the kernel");
}

#[tokio::test]
async fn clients_are_spread_over_the_target_addresses() {
    let (first, second) = (address_server().await, address_server().await);
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = listening.local_addr().unwrap();
    drop(listening);
    let mut scenario = scenario(format!("ws://{first}"), |_| ());
    scenario.target.addresses = vec![first, second, free];
    let connector = Arc::new(Connector::new(&scenario).unwrap());
    for (number, expected) in [(0, first), (1, second), (2, first), (3, first)] {
        let stream = connector.dialer(number).connect().await.unwrap();
        let crate::net::Stream::Plain(tcp) = &stream else { panic!("unexpected TLS") };
        assert_eq!(tcp.peer_addr().unwrap(), expected, "client {number}");
        assert!(tcp.nodelay().unwrap());
    }
}

#[tokio::test]
async fn address_without_a_listener_is_reported() {
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = listening.local_addr().unwrap();
    drop(listening);
    let failure = Connector::plain(free).dialer(0).connect().await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Connect);
    assert_eq!(
        failure.detail,
        format!("nothing listens on {free}: start the server, or check the URL")
    );
}
