//! Kept connections over real sockets, plain and with TLS.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    client::UnbufferedClientConnection,
    pki_types::{PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server};

use super::KeptConnection;
use crate::{
    config::Reuse,
    net::{stream::BackendStream, tls_stream::TlsStream},
    upstream::reuse::{ANY_AGE, Acquired, IdlePool},
};

const LONG: Duration = Duration::from_secs(3600);

fn pool(max_total: Option<usize>) -> IdlePool {
    IdlePool::new(&Reuse { max_idle: 64, max_total, idle_timeout: LONG })
}

/// A connection, and the backend's end of it.
async fn plain(pool: &IdlePool) -> (Box<KeptConnection>, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    (kept(pool, BackendStream::Plain(ours.unwrap())).await, theirs.unwrap().0)
}

/// The same with TLS 1.3. The backend's session tickets have not been read.
async fn tls(pool: &IdlePool) -> (Box<KeptConnection>, server::TlsStream<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["node.test".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let ours = async {
        let socket = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("node.test").unwrap();
        let session = UnbufferedClientConnection::new(Arc::new(client), name).unwrap();
        let mut stream = TlsStream::new(session, socket, None);
        stream.handshake().await.unwrap();
        stream
    };
    let theirs = async {
        let (socket, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(config)).accept(socket).await.unwrap()
    };
    let (ours, theirs) = tokio::join!(ours, theirs);
    (kept(pool, BackendStream::Tls(Box::new(ours))).await, theirs)
}

async fn kept(pool: &IdlePool, stream: BackendStream) -> Box<KeptConnection> {
    let permit = pool.permit().await;
    Box::new(KeptConnection::new(stream, 0, pool.epoch(), permit))
}

fn take(pool: &IdlePool) -> Option<Box<KeptConnection>> {
    pool.take(ANY_AGE)
}

/// Waits until the pool keeps this many connections, which only the sweeper changes.
async fn until_kept(pool: &IdlePool, count: usize) {
    let all = async {
        while pool.len() != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), all).await;
    assert!(waited.is_ok(), "{} connections are kept", pool.len());
}

/// One request and its response, both one byte.
async fn exchange<S>(connection: &mut KeptConnection, backend: &mut S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut byte = [0];
    connection.stream.write_all(b"q").await.unwrap();
    connection.stream.flush().await.unwrap();
    backend.read_exact(&mut byte).await.unwrap();
    backend.write_all(b"r").await.unwrap();
    backend.flush().await.unwrap();
    connection.stream.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"r");
}

#[tokio::test]
async fn a_close_while_idle_drops_the_connection_and_frees_its_permit() {
    let pool = pool(Some(1));
    let (mut connection, mut backend) = plain(&pool).await;
    exchange(&mut connection, &mut backend).await;
    pool.put(connection, LONG);
    assert_eq!(pool.len(), 1);
    drop(backend);
    until_kept(&pool, 0).await;
    assert!(matches!(pool.acquire::<KeptConnection>(ANY_AGE).await, Acquired::Permit(_)));
}

#[tokio::test]
async fn two_closes_after_the_same_idle_time_are_the_backends_timeout() {
    const IDLE: Duration = Duration::from_millis(600);
    let pool = pool(None);
    let (first, backend) = plain(&pool).await;
    let (second, other) = tls(&pool).await;
    pool.put(first, LONG);
    pool.put(second, LONG);
    tokio::time::sleep(IDLE).await;
    drop((backend, other));
    until_kept(&pool, 0).await;
    let limit = pool.observed_limit().unwrap();
    assert!(limit >= IDLE, "{limit:?}");
}

#[tokio::test]
async fn unexpected_bytes_make_an_idle_connection_unusable() {
    let pool = pool(None);
    let (connection, mut backend) = plain(&pool).await;
    let (secure, mut tls_backend) = tls(&pool).await;
    pool.put(connection, LONG);
    pool.put(secure, LONG);
    assert_eq!(pool.len(), 2);
    backend.write_all(b"408").await.unwrap();
    tls_backend.write_all(b"408").await.unwrap();
    tls_backend.flush().await.unwrap();
    until_kept(&pool, 0).await;
}

#[tokio::test]
async fn a_close_before_the_connection_is_put_back_is_noticed() {
    let pool = pool(None);
    let (connection, backend) = plain(&pool).await;
    drop(backend);
    connection.stream.socket().readable().await.unwrap();
    pool.put(connection, LONG);
    assert_eq!(pool.len(), 0);
}

#[tokio::test]
async fn bytes_that_were_read_with_the_response_make_a_tls_connection_unusable() {
    let pool = pool(None);
    let (mut connection, mut backend) = tls(&pool).await;
    // One record, of which the response is the first byte.
    backend.write_all(b"response").await.unwrap();
    backend.flush().await.unwrap();
    connection.stream.read_exact(&mut [0]).await.unwrap();
    pool.put(connection, LONG);
    assert_eq!(pool.len(), 0);
}

#[tokio::test]
async fn tls_messages_without_data_do_not_end_an_idle_connection() {
    let pool = pool(None);
    let (connection, mut backend) = tls(&pool).await;
    // The backend's session tickets.
    connection.stream.socket().readable().await.unwrap();
    pool.put(connection, LONG);
    assert_eq!(pool.len(), 1);
    let connection = take(&pool).unwrap();
    assert!(!connection.has_event());

    pool.put(connection, LONG);
    backend.get_mut().1.refresh_traffic_keys().unwrap();
    backend.flush().await.unwrap();
    let mut connection = take(&pool).unwrap();
    connection.stream.socket().readable().await.unwrap();
    pool.put(connection, LONG);
    connection = take(&pool).unwrap();
    assert!(!connection.has_event());
    exchange(&mut connection, &mut backend).await;

    // Still watched after a message has woken the pool.
    pool.put(connection, LONG);
    backend.get_mut().1.refresh_traffic_keys().unwrap();
    backend.flush().await.unwrap();
    drop(backend);
    until_kept(&pool, 0).await;
}

#[tokio::test]
async fn a_used_connection_is_not_swept() {
    let pool = pool(None);
    let (mut connection, mut backend) = plain(&pool).await;
    let (other, other_backend) = plain(&pool).await;
    for _ in 0..3 {
        exchange(&mut connection, &mut backend).await;
        pool.put(connection, LONG);
        connection = take(&pool).unwrap();
    }
    // The pool's waker is still stored with the socket.
    backend.write_all(b"early").await.unwrap();
    pool.put(other, LONG);
    drop(other_backend);
    until_kept(&pool, 0).await;
    let mut bytes = [0; 5];
    connection.stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"early");
    exchange(&mut connection, &mut backend).await;
    assert!(connection.answered().is_some());
}

#[tokio::test]
async fn a_backend_that_closes_all_connections_leaves_none() {
    let pool = pool(None);
    let mut backends = Vec::new();
    for _ in 0..50 {
        let (connection, backend) = plain(&pool).await;
        pool.put(connection, LONG);
        backends.push(backend);
    }
    assert_eq!(pool.len(), 50);
    let stays = backends.pop();
    drop(backends);
    until_kept(&pool, 1).await;
    drop(stays);
    until_kept(&pool, 0).await;
}

#[tokio::test]
async fn a_dropped_pool_ends_its_sweeper() {
    let pool = pool(None);
    let (connection, _backend) = plain(&pool).await;
    pool.put(connection, LONG);
    let tasks = tokio::runtime::Handle::current().metrics();
    assert_eq!(tasks.num_alive_tasks(), 1);
    drop(pool);
    while tasks.num_alive_tasks() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn putting_back_and_taking_allocate_nothing() {
    for secure in [false, true] {
        let pool = pool(None);
        let (connection, _plain, _tls) = match secure {
            false => {
                let (mut connection, mut backend) = plain(&pool).await;
                exchange(&mut connection, &mut backend).await;
                (connection, Some(backend), None)
            }
            true => {
                let (mut connection, mut backend) = tls(&pool).await;
                exchange(&mut connection, &mut backend).await;
                (connection, None, Some(backend))
            }
        };
        pool.put(connection, LONG);
        let mut connection = take(&pool);
        let allocated = allocation_counter::measure(|| {
            for _ in 0..1000 {
                pool.put(connection.take().unwrap(), LONG);
                connection = take(&pool);
            }
        });
        assert!(connection.is_some());
        assert_eq!(allocated.count_total, 0, "TLS: {secure}");
    }
}
