//! Streams over pipes, with rustls's buffered API on the other side.

mod records;

use std::{future::poll_fn, io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

use super::*;
use crate::net::tls::{self, self_signed};

type OurServer = TlsStream<UnbufferedServerConnection, DuplexStream>;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

fn configs(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let certificate = self_signed(&["chat.test".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.key.cert[0].clone()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::clone(tls::provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certificate.key)));
    let client = ClientConfig::builder_with_provider(Arc::clone(tls::provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("chat.test").unwrap()
}

/// Our server and a client, over a pipe that holds `size` bytes.
async fn served(
    version: &'static SupportedProtocolVersion,
    size: usize,
) -> (OurServer, client::TlsStream<DuplexStream>) {
    let (server, client) = configs(version);
    let (ours, theirs) = duplex(size);
    let session = UnbufferedServerConnection::new(server).unwrap();
    let mut ours = TlsStream::new(session, ours, None);
    let connector = TlsConnector::from(client);
    let (ready, theirs) = tokio::join!(ours.handshake(), connector.connect(name(), theirs));
    ready.unwrap();
    (ours, theirs.unwrap())
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 % 251) as u8).collect()
}

/// Returns all bytes that arrive at `ours` in reads of `step` bytes, and sends them back.
async fn echo(ours: &mut (impl AsyncRead + AsyncWrite + Unpin), step: usize) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; step]);
    loop {
        let count = ours.read(&mut buffer).await.unwrap();
        if count == 0 {
            ours.shutdown().await.unwrap();
            return all;
        }
        all.extend_from_slice(&buffer[..count]);
        ours.write_all(&buffer[..count]).await.unwrap();
        ours.flush().await.unwrap();
    }
}

/// Sends bytes and the end, and returns what comes back up to the end.
async fn exchange(theirs: impl AsyncRead + AsyncWrite, sent: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(theirs);
    let mut received = Vec::new();
    let write = async {
        writer.write_all(sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let (_, read) = tokio::join!(write, reader.read_to_end(&mut received));
    read.unwrap();
    received
}

/// Polls a read once; returns whether it would wait.
async fn read_waits<S: TlsSession>(ours: &mut TlsStream<S, DuplexStream>) -> bool {
    let mut byte = [0];
    poll_fn(|cx| {
        Poll::Ready(Pin::new(&mut *ours).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending())
    })
    .await
}

fn holds_nothing<S, T>(stream: &TlsStream<S, T>) -> bool {
    stream.incoming.is_none() && stream.plain.is_none() && stream.outgoing.is_none()
}

/// The handshake, then [`echo`]. Returns the stream, too.
async fn run<S: TlsSession>(
    session: S,
    pipe: DuplexStream,
    step: usize,
) -> (TlsStream<S, DuplexStream>, Vec<u8>) {
    let mut ours = TlsStream::new(session, pipe, None);
    ours.handshake().await.unwrap();
    let echoed = echo(&mut ours, step).await;
    (ours, echoed)
}

#[tokio::test]
async fn bytes_arrive_however_they_are_split() {
    for version in VERSIONS {
        for (size, count, step) in
            [(1, 1_000, 100), (13, 5_000, 7), (5_000, 300_000, 20_000), (1 << 20, 300_000, 1 << 16)]
        {
            let sent = bytes(count);
            let (server, client) = configs(version);
            let (ours, theirs) = duplex(size);
            let session = UnbufferedServerConnection::new(Arc::clone(&server)).unwrap();
            // The pipe may be too small for the session tickets: both sides move at once.
            let peer = async {
                let connector = TlsConnector::from(Arc::clone(&client));
                exchange(connector.connect(name(), theirs).await.unwrap(), &sent).await
            };
            let ((ours, echoed), received) = tokio::join!(run(session, ours, step), peer);
            assert!(echoed == sent && received == sent, "server, {version:?}, {size}");
            assert!(holds_nothing(&ours));

            let (ours, theirs) = duplex(size);
            let session = UnbufferedClientConnection::new(Arc::clone(&client), name()).unwrap();
            let peer = async {
                let acceptor = TlsAcceptor::from(Arc::clone(&server));
                exchange(acceptor.accept(theirs).await.unwrap(), &sent).await
            };
            let ((ours, echoed), received) = tokio::join!(run(session, ours, step), peer);
            assert!(echoed == sent && received == sent, "client, {version:?}, {size}");
            assert!(holds_nothing(&ours));
        }
    }
}

/// Passes bytes on in pieces of random size.
async fn relay(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut random: fastrand::Rng,
) {
    let mut buffer = vec![0; 30_000];
    loop {
        let most = if random.bool() { random.usize(1..64) } else { random.usize(64..30_000) };
        let count = from.read(&mut buffer[..most]).await.unwrap();
        if count == 0 {
            return to.shutdown().await.unwrap();
        }
        to.write_all(&buffer[..count]).await.unwrap();
    }
}

/// Writes bytes in pieces of random size, some of them in several parts.
async fn write_pieces(mut to: impl AsyncWrite + Unpin, bytes: &[u8], mut random: fastrand::Rng) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let piece = &rest[..random.usize(1..40_000).min(rest.len())];
        let (start, end) = piece.split_at(random.usize(0..=piece.len()));
        let written = match random.bool() {
            true => to.write(piece).await.unwrap(),
            false => to.write_vectored(&[IoSlice::new(start), IoSlice::new(end)]).await.unwrap(),
        };
        rest = &rest[written..];
        if random.bool() {
            to.flush().await.unwrap();
        }
        tokio::task::yield_now().await;
    }
    to.shutdown().await.unwrap();
}

/// Reads up to the end in steps of random size.
async fn read_steps(mut from: impl AsyncRead + Unpin, mut random: fastrand::Rng) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 70_000]);
    loop {
        let most = if random.bool() { random.usize(1..64) } else { random.usize(64..70_000) };
        match from.read(&mut buffer[..most]).await.unwrap() {
            0 => return all,
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

#[tokio::test]
async fn both_directions_and_key_updates_at_once() {
    for version in VERSIONS {
        let (server, client) = configs(version);
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (ours, near) = duplex(random.usize(1..40_000));
            let (far, theirs) = duplex(1 << 20);
            let (near_in, near_out) = tokio::io::split(near);
            let (far_in, far_out) = tokio::io::split(far);
            tokio::spawn(relay(near_in, far_out, random.fork()));
            tokio::spawn(relay(far_in, near_out, random.fork()));
            let session = UnbufferedServerConnection::new(Arc::clone(&server)).unwrap();
            let sent = bytes(random.usize(1..200_000));
            let (mut reads, mut writes) = (random.fork(), random.fork());
            let ours = async {
                let mut ours = TlsStream::new(session, ours, None);
                ours.handshake().await.unwrap();
                let (reader, writer) = tokio::io::split(ours);
                let both =
                    (read_steps(reader, reads.fork()), write_pieces(writer, &sent, writes.fork()));
                tokio::join!(both.0, both.1).0
            };
            let theirs = async {
                let connector = TlsConnector::from(Arc::clone(&client));
                let mut theirs = connector.connect(name(), theirs).await.unwrap();
                for piece in sent.chunks(random.usize(5_000..50_000)) {
                    if *version == TLS13 && random.bool() {
                        theirs.get_mut().1.refresh_traffic_keys().unwrap();
                    }
                    theirs.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                theirs.shutdown().await.unwrap();
                read_steps(theirs, random.fork()).await
            };
            let (received, answered) = tokio::join!(ours, theirs);
            assert!(received == sent && answered == sent, "{version:?}, seed {seed}");
        }
    }
}

#[tokio::test]
async fn an_idle_stream_holds_no_buffer() {
    for version in VERSIONS {
        let (mut ours, mut theirs) = served(version, 1 << 20).await;
        assert!(read_waits(&mut ours).await && holds_nothing(&ours), "after the handshake");
        for count in [1, 100_000] {
            theirs.write_all(&bytes(count)).await.unwrap();
            ours.read_exact(&mut vec![0; count]).await.unwrap();
            ours.write_all(&bytes(count)).await.unwrap();
            assert!(read_waits(&mut ours).await && holds_nothing(&ours), "after {count} bytes");
            theirs.read_exact(&mut vec![0; count]).await.unwrap();
        }
    }
}

/// What one connection costs the proxy, apart from its socket and its task.
#[test]
fn an_idle_stream_costs_little_memory() {
    const MANY: u64 = 8;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for version in VERSIONS {
        let (server, client) = configs(version);
        let open = || {
            runtime.block_on(async {
                let (ours, theirs) = duplex(1 << 16);
                let session = UnbufferedServerConnection::new(Arc::clone(&server)).unwrap();
                let mut ours = Box::new(TlsStream::new(session, ours, None));
                let connector = TlsConnector::from(Arc::clone(&client));
                let connect = connector.connect(name(), theirs);
                let (ready, theirs) = tokio::join!(ours.handshake(), connect);
                ready.unwrap();
                let mut theirs = theirs.unwrap();
                theirs.write_all(b"request").await.unwrap();
                ours.read_exact(&mut [0; 7]).await.unwrap();
                ours.write_all(b"response").await.unwrap();
                theirs.read_exact(&mut [0; 8]).await.unwrap();
                ours
            })
        };
        let _first = open();
        let mut streams = Vec::with_capacity(MANY as usize);
        let held = allocation_counter::measure(|| streams.extend((0..MANY).map(|_| open())));
        let pipes = allocation_counter::measure(|| {
            streams.iter_mut().for_each(|stream| stream.socket = duplex(1).0);
        });
        let each = (held.bytes_current + pipes.bytes_current) as u64 / MANY;
        assert!(each < 4_500, "{version:?}: {each} bytes");
    }
}

#[tokio::test]
async fn bytes_behind_the_handshake_are_not_lost() {
    for version in VERSIONS {
        let (server, client) = configs(version);
        let (ours, theirs) = duplex(1 << 20);
        let session = UnbufferedServerConnection::new(server).unwrap();
        let mut ours = TlsStream::new(session, ours, None);
        // The client sends its last message and the request before the server is polled again.
        let theirs = async {
            let mut theirs = TlsConnector::from(client).connect(name(), theirs).await.unwrap();
            theirs.write_all(&bytes(50_000)).await.unwrap();
            theirs
        };
        let (_theirs, ready) = tokio::join!(theirs, ours.handshake());
        ready.unwrap();
        let mut received = vec![0; 50_000];
        ours.read_exact(&mut received).await.unwrap();
        assert_eq!(received, bytes(50_000));
    }
}

#[tokio::test]
async fn a_client_that_leaves_during_the_handshake_is_reported() {
    let (server, _) = configs(&TLS13);
    let (ours, mut theirs) = duplex(1 << 10);
    let session = UnbufferedServerConnection::new(server).unwrap();
    let mut ours = TlsStream::new(session, ours, None);
    theirs.write_all(&[22, 3, 1, 1]).await.unwrap();
    drop(theirs);
    assert_eq!(ours.handshake().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn close_notify_ends_reads_but_not_writes() {
    for version in VERSIONS {
        let (mut ours, mut theirs) = served(version, 1 << 20).await;
        theirs.write_all(b"last").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut received = Vec::new();
        ours.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"last");
        assert_eq!(ours.read(&mut [0; 8]).await.unwrap(), 0);
        ours.write_all(&bytes(100_000)).await.unwrap();
        ours.shutdown().await.unwrap();
        assert_eq!(ours.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, bytes(100_000));
    }
}

#[tokio::test]
async fn reads_go_on_after_our_own_end() {
    for version in VERSIONS {
        let (mut ours, mut theirs) = served(version, 1 << 20).await;
        ours.shutdown().await.unwrap();
        assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0);
        theirs.write_all(&bytes(100_000)).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut received = Vec::new();
        ours.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, bytes(100_000));
        assert!(holds_nothing(&ours));
    }
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_error_behind_the_data() {
    for version in VERSIONS {
        let (mut ours, mut theirs) = served(version, 1 << 20).await;
        theirs.write_all(b"cut").await.unwrap();
        drop(theirs);
        let mut received = Vec::new();
        let error = ours.read_to_end(&mut received).await.unwrap_err();
        assert_eq!((error.kind(), &received[..]), (io::ErrorKind::UnexpectedEof, &b"cut"[..]));
        assert!(holds_nothing(&ours));
    }
}

#[tokio::test]
async fn a_reader_that_stalls_stops_the_writer() {
    let (mut ours, mut theirs) = served(&TLS13, 1_000).await;
    let sent = bytes(1 << 20);
    let mut accepted = 0;
    let written = poll_fn(|cx| {
        while let Poll::Ready(count) = Pin::new(&mut ours).poll_write(cx, &sent[accepted..]) {
            accepted += count.unwrap();
        }
        Poll::Ready(accepted)
    });
    let written = written.await;
    assert!((1_000..=MOST_AT_ONCE).contains(&written), "{written}");
    assert!(ours.has_unsent());
    assert!(ours.outgoing.as_ref().is_some_and(|held| held.capacity() <= BULK_SIZE));
    let mut received = vec![0; sent.len()];
    let rest = async {
        ours.write_all(&sent[written..]).await.unwrap();
        ours.flush().await.unwrap();
    };
    let (_, read) = tokio::join!(rest, theirs.read_exact(&mut received));
    read.unwrap();
    assert!(received == sent && holds_nothing(&ours));
}

#[tokio::test]
async fn unread_records_do_not_delay_writes() {
    for version in VERSIONS {
        let (mut ours, mut theirs) = served(version, 1 << 20).await;
        for part in bytes(60_000).chunks(20_000) {
            theirs.write_all(part).await.unwrap();
        }
        let mut received = vec![0; 60_000];
        ours.read_exact(&mut received[..1]).await.unwrap();
        ours.write_all(b"response").await.unwrap();
        let mut response = [0; 8];
        theirs.read_exact(&mut response).await.unwrap();
        assert_eq!(&response, b"response");
        ours.read_exact(&mut received[1..]).await.unwrap();
        assert_eq!(received, bytes(60_000));
    }
}
