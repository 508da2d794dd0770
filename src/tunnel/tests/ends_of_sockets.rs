//! How a tunnel between two sockets ends: when both sides have ended, by FIN and not by reset.

use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A client's empty Close, masked by zeros.
const CLIENT_CLOSE: &[u8] = b"\x88\x80\0\0\0\0";
/// A server's empty Close.
const SERVER_CLOSE: &[u8] = b"\x88\0";

/// A tunnel between two sockets.
struct Sockets {
    client: TcpStream,
    backend: TcpStream,
    endings: Endings,
    task: tokio::task::JoinHandle<()>,
}

impl Sockets {
    async fn open(framed: bool) -> Self {
        let ((client, client_end), (backend, backend_end)) = (pair().await, pair().await);
        let (endings, registry) = (Endings::default(), Arc::new(TunnelRegistry::default()));
        let options = TunnelOptions { framed, ..TunnelOptions::default() };
        let task = tokio::spawn(run(
            TunnelEndpoint { stream: client_end, early: Bytes::new() },
            TunnelEndpoint { stream: backend_end, early: Bytes::new() },
            endings.clone(),
            registry.enter(7, ([192, 0, 2, 1], 4711).into(), framed),
            options,
        ));
        Self { client, backend, endings, task }
    }

    /// Sends from the client and expects the bytes at the backend.
    async fn pass_up(&mut self, bytes: &[u8]) {
        pass(&mut self.client, &mut self.backend, bytes).await;
    }

    /// Sends from the backend and expects the bytes at the client.
    async fn pass_down(&mut self, bytes: &[u8]) {
        pass(&mut self.backend, &mut self.client, bytes).await;
    }

    /// Waits for the end of the tunnel.
    async fn end(&mut self) -> Termination {
        (&mut self.task).await.unwrap();
        self.endings.0.lock().unwrap()[0].termination
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

async fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).await.unwrap();
    let mut got = vec![0; bytes.len()];
    to.read_exact(&mut got).await.unwrap();
    assert_eq!(got, bytes);
}

#[tokio::test]
async fn a_backend_that_has_ended_still_gets_what_the_client_sends() {
    for close in [&b""[..], SERVER_CLOSE] {
        let mut sockets = Sockets::open(true).await;
        sockets.pass_down(close).await;
        sockets.backend.shutdown().await.unwrap();
        assert_eq!(sockets.client.read(&mut [0; 8]).await.unwrap(), 0);
        sockets.pass_up(b"\x81\x81\0\0\0\0a").await;
        sockets.pass_up(CLIENT_CLOSE).await;
        sockets.client.shutdown().await.unwrap();
        assert_eq!(sockets.end().await, Termination::Closed(Side::Backend));
    }
}

#[tokio::test]
async fn a_pong_after_both_close_frames_costs_no_bytes() {
    let mut sockets = Sockets::open(true).await;
    sockets.pass_up(CLIENT_CLOSE).await;
    // More than the client's socket takes at once: the rest, with the Close, waits in the tunnel's.
    let mut sent = b"\x89\0\x82\x7f\0\0\0\0\0\x04\0\0".to_vec();
    sent.resize(sent.len() + (256 << 10), 0);
    sent.extend_from_slice(SERVER_CLOSE);
    sockets.backend.write_all(&sent).await.unwrap();
    sockets.backend.shutdown().await.unwrap();
    // The client reads late, and answers the ping although it has sent its Close.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    sockets.client.write_all(b"\x8a\x80\0\0\0\0").await.unwrap();
    let mut got = Vec::new();
    sockets.client.read_to_end(&mut got).await.expect("an end, not a reset");
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    sockets.client.shutdown().await.unwrap();
    assert_eq!(sockets.end().await, Termination::Closed(Side::Backend));
}

#[tokio::test]
async fn a_tunnel_without_frames_ends_with_the_second_side() {
    let mut sockets = Sockets::open(false).await;
    sockets.client.shutdown().await.unwrap();
    assert_eq!(sockets.backend.read(&mut [0; 8]).await.unwrap(), 0);
    sockets.pass_down(SERVER_CLOSE).await;
    sockets.pass_down(b"the rest").await;
    sockets.backend.shutdown().await.unwrap();
    assert_eq!(sockets.client.read(&mut [0; 8]).await.unwrap(), 0, "an end, not a reset");
    assert_eq!(sockets.end().await, Termination::Closed(Side::Client));
}
