//! Backends that record every byte they receive and run a script for each connection.
//!
//! A script is a function from a [`Peer`], one accepted connection, to a future. The connection is
//! closed when the future ends. Bytes are recorded even if the script does not read, unless the
//! test has called [`Peer::stall`].

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

/// Behavior of a backend on each connection.
pub(crate) type Script =
    Arc<dyn Fn(Peer) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A listening backend; dropping it closes the listener and every connection.
pub(crate) struct Backend {
    /// Address of the listener.
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Arc<Seen>>>>,
    task: AbortHandle,
}

/// Bytes and end of one connection.
pub(crate) struct Seen {
    bytes: Mutex<Vec<u8>>,
    /// Number of bytes compared with the pattern and not recorded. `None`: bytes are recorded.
    checked: Mutex<Option<usize>>,
    end: Mutex<Option<End>>,
    /// Whether the recorder reads. Otherwise bytes stay in the kernel.
    reading: AtomicBool,
    resumed: Notify,
    closing: Notify,
    stream: Weak<TcpStream>,
}

/// One accepted connection, for a script or a test.
#[derive(Clone)]
pub(crate) struct Peer {
    stream: Arc<TcpStream>,
    seen: Arc<Seen>,
    taken: Arc<AtomicUsize>,
}

/// Makes a script from an async function.
pub(crate) fn script<F, R>(run: F) -> Script
where
    F: Fn(Peer) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |peer| Box::pin(run(peer)))
}

/// A script that answers each complete request, and closes if the request or the reply has
/// `Connection: close`.
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

    /// Runs `script` for each connection of an existing listener.
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

    /// Answers every request with the result of `answer`.
    pub(crate) async fn answering(
        answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self::start(answering(answer)).await
    }

    /// Accepts connections and leaves them to the test, which gets them by [`Backend::peer`].
    pub(crate) async fn manual() -> Self {
        Self::start(script(|_| std::future::pending())).await
    }

    /// Waits for connection number `index`.
    pub(crate) async fn peer(&self, index: usize) -> Peer {
        let seen = wait_for(&format!("connection {index} at the backend"), || {
            self.seen.lock().unwrap().get(index).cloned()
        })
        .await;
        let stream = seen.stream.upgrade().expect("the script has closed this connection");
        Peer { stream, seen, taken: Arc::default() }
    }

    /// Number of connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// All bytes received on connection number `index`.
    pub(crate) fn bytes(&self, index: usize) -> Vec<u8> {
        self.seen.lock().unwrap()[index].bytes.lock().unwrap().clone()
    }

    /// All bytes received, connection by connection.
    pub(crate) fn received(&self) -> Vec<u8> {
        (0..self.connections()).flat_map(|index| self.bytes(index)).collect()
    }

    /// How the proxy ended connection number `index`. `None`: it is open.
    pub(crate) fn end(&self, index: usize) -> Option<End> {
        *self.seen.lock().unwrap()[index].end.lock().unwrap()
    }

    /// All complete requests, connection by connection.
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

    /// Waits for a request for `target` and returns it.
    pub(crate) async fn request(&self, target: &str) -> Message {
        wait_for(&format!("a request for {target} at the backend"), || {
            self.requests().into_iter().find(|request| request.target() == target)
        })
        .await
    }

    /// Waits for a request for `target` and returns its connection.
    pub(crate) async fn peer_for(&self, target: &str) -> Peer {
        let needle = format!(" {target} HTTP/1.1\r\n");
        let holds = |index: &usize| message::find(&self.bytes(*index), needle.as_bytes()).is_some();
        let what = format!("a request for {target} at the backend");
        let index = wait_for(&what, || (0..self.connections()).find(holds)).await;
        self.peer(index).await
    }

    /// Whether any connection received these bytes.
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

    /// Panics if the backend has received any byte.
    pub(crate) fn assert_untouched(&self) {
        let bytes = self.received();
        assert!(bytes.is_empty(), "the backend received {:?}", String::from_utf8_lossy(&bytes));
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    /// Sends all bytes. Ignores that the proxy has closed the connection: tests check what the client
    /// received.
    pub(crate) async fn send(&self, bytes: impl AsRef<[u8]>) {
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            match self.write(rest).await {
                Ok(count) => rest = &rest[count..],
                // A script that sends in a loop must let the recorder see the end.
                Err(_) => return tokio::task::yield_now().await,
            }
        }
    }

    /// Sends some of the bytes and returns their number.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Sends the pattern until the socket takes no byte for `quiet`, at most `limit` bytes. Returns the
    /// number of bytes.
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

    /// Waits for the next complete request. `None`: the connection ended before.
    pub(crate) async fn request(&self) -> Option<Message> {
        self.next(Message::read).await
    }

    /// Waits for the next message head. The bytes after it stay in [`Peer::rest`].
    pub(crate) async fn head(&self) -> Option<Message> {
        self.next(Message::head).await
    }

    /// Bytes that [`Peer::head`] and [`Peer::request`] have not taken.
    pub(crate) fn rest(&self) -> Vec<u8> {
        self.seen.bytes.lock().unwrap()[self.taken.load(Ordering::SeqCst)..].to_vec()
    }

    /// Waits until the bytes not yet taken are exactly these.
    pub(crate) async fn wait_for_rest(&self, expected: &[u8]) {
        let what = format!("{:?} at the backend", String::from_utf8_lossy(expected));
        eventually(&what, || self.rest().len() >= expected.len()).await;
        assert_eq!(String::from_utf8_lossy(&self.rest()), String::from_utf8_lossy(expected));
    }

    /// From now on, compares received bytes with the pattern and does not record them.
    pub(crate) fn check_pattern(&self) {
        *self.seen.checked.lock().unwrap() = Some(0);
    }

    /// Number of bytes compared with the pattern since [`Peer::check_pattern`].
    pub(crate) fn checked(&self) -> usize {
        self.seen.checked.lock().unwrap().unwrap_or_default()
    }

    /// Waits for `count` more bytes and takes them. `false`: the connection ended before.
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

    /// Half-closes: sends FIN and still reads.
    pub(crate) fn finish(&self) {
        // An error means that the connection is already closed.
        let _ = SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write);
    }

    /// Closes by FIN.
    pub(crate) fn close(self) {
        self.finish();
        self.seen.closing.notify_one();
    }

    /// Closes by RST.
    pub(crate) fn reset(self) {
        SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO)).unwrap();
        self.seen.closing.notify_one();
    }

    /// Waits until the proxy ends the connection. Has no deadline, because scripts wait for this.
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

    /// Stops reading until [`Peer::resume`], so that the socket buffers fill up.
    pub(crate) fn stall(&self) {
        self.seen.reading.store(false, Ordering::SeqCst);
    }

    /// Reads again.
    pub(crate) fn resume(&self) {
        self.seen.reading.store(true, Ordering::SeqCst);
        self.seen.resumed.notify_one();
    }

    async fn next(&self, read: impl Fn(&[u8]) -> Option<(Message, usize)>) -> Option<Message> {
        loop {
            // Read the end first: then all bytes before it have been recorded.
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
    // Closes every connection when this task is dropped.
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
        connections.spawn(run_script(peer, Arc::clone(&script)));
    }
}

/// Runs the script and the recorder until the script is done or the test closes the connection.
async fn run_script(peer: Peer, script: Script) {
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
