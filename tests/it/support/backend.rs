//! Backends that record every byte they are sent and do what a script says.
//!
//! A script is a function from a [`Peer`], one accepted connection, to a future; the connection is
//! closed when the future is done. Recording goes on beside it, whether the script reads or not,
//! unless the backend is made to stall.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{AbortHandle, JoinSet},
};

use super::{End, Message, eventually, message, wait_for, websocket};

/// What a backend does with each connection.
pub(crate) type Script =
    Arc<dyn Fn(Peer) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A listening backend; dropping it closes the listener and every connection.
pub(crate) struct Backend {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Arc<Seen>>>>,
    task: AbortHandle,
}

/// What one connection has brought so far.
pub(crate) struct Seen {
    bytes: Mutex<Vec<u8>>,
    /// Bytes of a pattern that were checked and not kept; `None`: all are kept.
    checked: Mutex<Option<usize>>,
    end: Mutex<Option<End>>,
    /// Whether the recorder reads; a stalled one leaves bytes in the kernel.
    reading: AtomicBool,
    resumed: Notify,
    closing: Notify,
    stream: Weak<TcpStream>,
}

/// One accepted connection, as a script or a test holds it.
#[derive(Clone)]
pub(crate) struct Peer {
    stream: Arc<TcpStream>,
    seen: Arc<Seen>,
    taken: Arc<AtomicUsize>,
}

/// A script from an async function of a peer.
pub(crate) fn script<F, R>(run: F) -> Script
where
    F: Fn(Peer) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |peer| Box::pin(run(peer)))
}

/// A script that answers each complete request, and closes where either side asked to.
pub(crate) fn answering(answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Script {
    let answer = Arc::new(answer);
    script(move |peer| {
        let answer = Arc::clone(&answer);
        async move {
            while let Some(request) = peer.request().await {
                let reply = answer(&request);
                let closes = message::find(&reply, b"Connection: close").is_some();
                peer.send(reply).await;
                if closes || request.header("connection") == Some("close") {
                    return;
                }
            }
        }
    })
}

impl Backend {
    /// Runs `script` for each connection.
    pub(crate) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, script)
    }

    /// The same on a socket that already listens.
    pub(crate) fn on(listener: TcpListener, script: Script) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(accept(listener, Arc::clone(&seen), script)).abort_handle();
        Self { address, seen, task }
    }

    /// Answers every request with `text`.
    pub(crate) async fn replying(text: &'static str) -> Self {
        Self::start(answering(move |_| message::ok(text))).await
    }

    /// Answers every request by a function of it.
    pub(crate) async fn answering(
        answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self::start(answering(answer)).await
    }

    /// Accepts and does nothing until the test does it by [`Backend::peer`].
    pub(crate) async fn manual() -> Self {
        Self::start(script(|_| std::future::pending())).await
    }

    /// Connection number `index`, once it is there.
    pub(crate) async fn peer(&self, index: usize) -> Peer {
        let seen = wait_for(&format!("connection {index} at the backend"), || {
            self.seen.lock().unwrap().get(index).cloned()
        })
        .await;
        let stream = seen.stream.upgrade().expect("the script has closed this connection");
        Peer { stream, seen, taken: Arc::default() }
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Every byte of connection number `index`.
    pub(crate) fn bytes(&self, index: usize) -> Vec<u8> {
        self.seen.lock().unwrap()[index].bytes.lock().unwrap().clone()
    }

    /// Every byte of all connections, in order of accept.
    pub(crate) fn received(&self) -> Vec<u8> {
        (0..self.connections()).flat_map(|index| self.bytes(index)).collect()
    }

    /// How the proxy ended connection number `index`; `None`: it is open.
    pub(crate) fn end(&self, index: usize) -> Option<End> {
        *self.seen.lock().unwrap()[index].end.lock().unwrap()
    }

    /// Every complete request, connection by connection.
    pub(crate) fn requests(&self) -> Vec<Message> {
        let mut requests = Vec::new();
        for index in 0..self.connections() {
            let bytes = self.bytes(index);
            let mut at = 0;
            while let Some((request, taken)) = Message::read(&bytes[at..]) {
                requests.push(request);
                at += taken;
            }
        }
        requests
    }

    /// The request whose target is `target`, once it is there.
    pub(crate) async fn request(&self, target: &str) -> Message {
        wait_for(&format!("a request for {target} at the backend"), || {
            self.requests().into_iter().find(|request| request.target() == target)
        })
        .await
    }

    /// Waits for the request whose target is `target`, and gives its connection to answer on.
    pub(crate) async fn asked(&self, target: &str) -> Peer {
        let needle = format!(" {target} HTTP/1.1\r\n");
        let holds = |index: &usize| message::find(&self.bytes(*index), needle.as_bytes()).is_some();
        let what = format!("a request for {target} at the backend");
        let index = wait_for(&what, || (0..self.connections()).find(holds)).await;
        self.peer(index).await
    }

    /// Whether these bytes reached any connection.
    pub(crate) fn saw(&self, needle: impl AsRef<[u8]>) -> bool {
        message::find(&self.received(), needle.as_ref()).is_some()
    }

    /// Waits until the proxy has ended connection number `index`.
    pub(crate) async fn ended(&self, index: usize) -> End {
        wait_for(&format!("the end of connection {index} at the backend"), || {
            (index < self.connections()).then(|| self.end(index)).flatten()
        })
        .await
    }

    /// Panics if anything has come.
    pub(crate) fn assert_untouched(&self) {
        let bytes = self.received();
        assert!(bytes.is_empty(), "the backend got {:?}", String::from_utf8_lossy(&bytes));
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    /// Sends all of it; a connection that the proxy has closed is no error here, since what the
    /// client got is what counts.
    pub(crate) async fn send(&self, bytes: impl AsRef<[u8]>) {
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            match self.write(rest).await {
                Ok(count) => rest = &rest[count..],
                // A script that sends on and on must let the recorder see the end.
                Err(_) => return tokio::task::yield_now().await,
            }
        }
    }

    /// Sends some of it.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Sends the pattern until the socket takes no more for `quiet`, up to `limit` bytes; gives
    /// their number.
    pub(crate) async fn fill(&self, limit: usize, quiet: Duration) -> usize {
        let mut sent = 0;
        while sent < limit {
            let bytes = websocket::pattern(sent, (limit - sent).min(websocket::PIECE));
            match tokio::time::timeout(quiet, self.write(bytes)).await {
                Ok(Ok(count)) => sent += count,
                Ok(Err(error)) => panic!("the proxy closed while it should stall: {error}"),
                Err(_) => return sent,
            }
        }
        sent
    }

    /// The next complete request; `None` where the connection ended before.
    pub(crate) async fn request(&self) -> Option<Message> {
        self.next(Message::read).await
    }

    /// The next head; what follows it counts as not taken yet.
    pub(crate) async fn head(&self) -> Option<Message> {
        self.next(Message::head).await
    }

    /// Bytes after what [`Peer::head`] and [`Peer::request`] took.
    pub(crate) fn rest(&self) -> Vec<u8> {
        self.seen.bytes.lock().unwrap()[self.taken.load(Ordering::SeqCst)..].to_vec()
    }

    /// Waits until the rest is exactly this.
    pub(crate) async fn wait_for_rest(&self, expected: &[u8]) {
        let what = format!("{:?} at the backend", String::from_utf8_lossy(expected));
        eventually(&what, || self.rest().len() >= expected.len()).await;
        assert_eq!(String::from_utf8_lossy(&self.rest()), String::from_utf8_lossy(expected));
    }

    /// From now on what comes is compared with the pattern and not kept.
    pub(crate) fn check_pattern(&self) {
        *self.seen.checked.lock().unwrap() = Some(0);
    }

    /// How many bytes of the pattern have come since [`Peer::check_pattern`].
    pub(crate) fn checked(&self) -> usize {
        self.seen.checked.lock().unwrap().unwrap_or_default()
    }

    /// Waits for `count` bytes more and takes them; false where the connection ended before.
    pub(crate) async fn skip(&self, count: usize) -> bool {
        while self.rest().len() < count {
            if self.is_ended() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.taken.fetch_add(count, Ordering::SeqCst);
        true
    }

    /// Half-closes: FIN, while reading goes on.
    pub(crate) fn finish(&self) {
        // An error means that the connection is gone already.
        let _ = SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write);
    }

    /// Closes in order.
    pub(crate) fn close(self) {
        self.finish();
        self.seen.closing.notify_one();
    }

    /// Closes by RST.
    pub(crate) fn reset(self) {
        SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO)).unwrap();
        self.seen.closing.notify_one();
    }

    /// Waits until the proxy ends the connection; without a deadline, as scripts wait for it.
    pub(crate) async fn ended(&self) -> End {
        loop {
            if let Some(end) = *self.seen.end.lock().unwrap() {
                return end;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Whether the proxy has ended the connection.
    pub(crate) fn is_ended(&self) -> bool {
        self.seen.end.lock().unwrap().is_some()
    }

    /// Stops reading until [`Peer::resume`]: bytes stay in the kernel and then back up.
    pub(crate) fn stall(&self) {
        self.seen.reading.store(false, Ordering::SeqCst);
    }

    /// Reads on.
    pub(crate) fn resume(&self) {
        self.seen.reading.store(true, Ordering::SeqCst);
        self.seen.resumed.notify_one();
    }

    async fn next(&self, read: impl Fn(&[u8]) -> Option<(Message, usize)>) -> Option<Message> {
        loop {
            // The end first: bytes that came before it are then all there.
            let ended = self.seen.end.lock().unwrap().is_some();
            let at = self.taken.load(Ordering::SeqCst);
            if let Some((message, taken)) = read(&self.seen.bytes.lock().unwrap()[at..]) {
                self.taken.store(at + taken, Ordering::SeqCst);
                return Some(message);
            }
            if ended {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn accept(listener: TcpListener, seen: Arc<Mutex<Vec<Arc<Seen>>>>, script: Script) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = Arc::new(stream);
        let record = Arc::new(Seen {
            bytes: Mutex::default(),
            checked: Mutex::default(),
            end: Mutex::default(),
            reading: AtomicBool::new(true),
            resumed: Notify::new(),
            closing: Notify::new(),
            stream: Arc::downgrade(&stream),
        });
        seen.lock().unwrap().push(Arc::clone(&record));
        let peer = Peer { stream, seen: record, taken: Arc::default() };
        connections.spawn(converse(peer, Arc::clone(&script)));
    }
}

/// Runs the script and the recorder until the script is done or the test closes the connection.
async fn converse(peer: Peer, script: Script) {
    let (stream, seen) = (Arc::clone(&peer.stream), Arc::clone(&peer.seen));
    let recorder = async {
        let end = record(&stream, &seen).await;
        *seen.end.lock().unwrap() = Some(end);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = script(peer) => {}
        () = recorder => {}
        () = seen.closing.notified() => {}
    }
}

impl Seen {
    fn take(&self, bytes: &[u8]) {
        match &mut *self.checked.lock().unwrap() {
            Some(checked) => {
                assert!(websocket::pattern(*checked, bytes.len()) == bytes, "after {checked}");
                *checked += bytes.len();
            }
            None => self.bytes.lock().unwrap().extend_from_slice(bytes),
        }
    }
}

async fn record(stream: &TcpStream, seen: &Seen) -> End {
    let mut buffer = vec![0; 65536];
    loop {
        while !seen.reading.load(Ordering::SeqCst) {
            seen.resumed.notified().await;
        }
        if let Err(error) = stream.readable().await {
            return End::from(&error);
        }
        if !seen.reading.load(Ordering::SeqCst) {
            continue;
        }
        match stream.try_read(&mut buffer) {
            Ok(0) => return End::Fin,
            Ok(count) => seen.take(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return End::from(&error),
        }
    }
}
