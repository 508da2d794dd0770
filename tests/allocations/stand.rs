//! A proxy in this process, a client and a backend. Client and backend use buffers of a fixed size, and so allocate
//! nothing for a request.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use moorline::{
    app::App,
    config::{AdminSocket, check},
    handoff::LaunchError,
    net::inherited::InheritedSockets,
    runtimes,
};

use super::places;

/// A GET outside any session.
pub(crate) const GET: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n";
/// A poll of the session.
pub(crate) const POLL: &[u8] =
    b"GET /socket.io/?EIO=4&transport=polling&t=PlkBg2a&sid=lv_VI97HAXpY6yYWAAAB HTTP/1.1\r\n\
    Host: a.example\r\nUser-Agent: test\r\nAccept: */*\r\nCookie: theme=dark\r\n\r\n";
/// A POST of the session.
pub(crate) const POST: &[u8] = b"POST /socket.io/?EIO=4&transport=polling&t=PlkBg2b&sid=lv_VI97HAXpY6yYWAAAB HTTP/1.1\r\n\
    Host: a.example\r\nUser-Agent: test\r\nAccept: */*\r\nContent-Type: text/plain;charset=UTF-8\r\n\
    Content-Length: 11\r\n\r\n42[\"hello\"]";
const HANDSHAKE: &[u8] =
    b"GET /socket.io/?EIO=4&transport=polling&t=PlkBg2Z HTTP/1.1\r\nHost: a.example\r\n\r\n";

const HELLO: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
const OPEN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Length: 96\r\n\r\n\
    0{\"sid\":\"lv_VI97HAXpY6yYWAAAB\",\"upgrades\":[\"websocket\"],\"pingInterval\":25000,\"pingTimeout\":20000}";
const PING: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Length: 1\r\n\r\n2";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nok";

/// How long the backend holds a poll: the proxy is idle before the reply comes.
const HOLD: Duration = Duration::from_millis(1);
/// Requests before the count begins.
const WARM_UP: usize = 50;
/// Counted requests.
const REQUESTS: usize = 200;
/// Allocations meanwhile that are not due to requests.
const OTHERS: u64 = 20;
const BUFFER: usize = 4096;

/// Maximum number of allocations for one request of each kind.
pub(crate) struct Limits {
    pub(crate) request: u64,
    pub(crate) poll: u64,
    pub(crate) post: u64,
}

/// Only one count at a time, because it includes all threads.
static COUNT: Mutex<()> = Mutex::new(());

/// Counts the allocations for `request`, and fails with their places if there are more than `limit` for each request.
///
/// With the environment variable `MOORLINE_ALLOCATIONS`, prints the places in any case.
pub(crate) fn check(request: &[u8], limit: u64) {
    let _alone = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
    let stand = Stand::new();
    let mut client = TcpStream::connect(stand.proxy).unwrap();
    client.set_nodelay(true).unwrap();
    exchange(&mut client, HANDSHAKE);
    repeat(&mut client, request, WARM_UP);
    let connections = stand.connections.load(Ordering::Acquire);

    let profiler = dhat::Profiler::builder().testing().build();
    repeat(&mut client, request, REQUESTS);
    let allocations = dhat::HeapStats::get().total_blocks;
    drop(profiler);

    // Some allocations are not due to requests.
    let each = allocations.saturating_sub(OTHERS).div_ceil(REQUESTS as u64);
    println!("{allocations} allocations for {REQUESTS} requests");
    if each > limit || std::env::var_os("MOORLINE_ALLOCATIONS").is_some() {
        let places = places::record(|| repeat(&mut client, request, REQUESTS), REQUESTS as u64);
        println!("{places}");
        assert!(each <= limit, "a request takes {each} allocations, more than {limit}:\n{places}");
    }
    assert_eq!(
        stand.connections.load(Ordering::Acquire),
        connections,
        "connections to the backend must be kept"
    );
}

fn repeat(client: &mut TcpStream, request: &[u8], times: usize) {
    for _ in 0..times {
        exchange(client, request);
    }
}

/// Sends a request and reads its reply.
fn exchange(client: &mut TcpStream, request: &[u8]) {
    client.write_all(request).unwrap();
    let mut buffer = [0; BUFFER];
    let read = message(client, &mut buffer, 0).unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 200 "), "{}", buffer[..read].escape_ascii());
}

/// Reads a message into `buffer`, which holds `read` bytes already. Returns its length; `None` at the end of the stream.
fn message(stream: &mut TcpStream, buffer: &mut [u8; BUFFER], mut read: usize) -> Option<usize> {
    loop {
        if let Some(length) = length(&buffer[..read]) {
            assert!(read <= length, "a message has {read} bytes, more than {length}");
            if read == length {
                return Some(length);
            }
        }
        match stream.read(&mut buffer[read..]) {
            Ok(0) | Err(_) => return None,
            Ok(more) => read += more,
        }
    }
}

/// Length of a message, as soon as its head is complete.
fn length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let mut lines = bytes[..head].split(|&byte| byte == b'\n');
    let body = lines.find_map(|line| {
        let (name, value) = line.split_at_checked("content-length:".len())?;
        let is_length = name.eq_ignore_ascii_case(b"content-length:");
        is_length.then(|| std::str::from_utf8(value).unwrap().trim().parse::<usize>().unwrap())
    });
    Some(head + body.unwrap_or(0))
}

/// A proxy and its backend. Both run until the test process ends.
struct Stand {
    proxy: SocketAddr,
    /// Number of connections that the backend has accepted.
    connections: Arc<AtomicUsize>,
}

impl Stand {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::clone(&connections);
        thread::spawn(move || {
            for stream in listener.incoming() {
                accepted.fetch_add(1, Ordering::AcqRel);
                thread::spawn(|| serve(stream.unwrap()));
            }
        });
        Self { proxy: start(backend), connections }
    }
}

/// Starts a proxy in this process.
fn start(backend: SocketAddr) -> SocketAddr {
    let text = format!(
        "access_log = \"off\"\n\
         listeners.web = {{ bind = \"127.0.0.1:0\", protocol = \"http\" }}\n\
         routes = [{{ path = \"/\", pool = \"nodes\" }}]\n\
         pools.nodes.backends = [\"{backend}\"]\n"
    );
    let mut config = check::text(&text, Path::new("/moorline.toml")).unwrap();
    config.admin.socket = AdminSocket::Off;
    let control = runtimes::control().unwrap();
    let (runtime, workers) = runtimes::workers().unwrap();
    let running = control.block_on(async {
        let app = App::bind(config, InheritedSockets::default(), workers).await.unwrap();
        app.start(None, Err(LaunchError::NotSupported("this process is a test")))
    });
    let address = running.addresses()[0].1;
    std::mem::forget((control, runtime, running));
    address
}

/// Replies to requests as a node would.
fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; BUFFER];
    while let Some(read) = message(&mut stream, &mut buffer, 0) {
        let request = &buffer[..read];
        let has = |text: &[u8]| request.windows(text.len()).any(|bytes| bytes == text);
        let reply = if request.starts_with(b"POST ") {
            OK
        } else if has(b"&sid=") {
            thread::sleep(HOLD);
            PING
        } else if has(b"transport=polling") {
            OPEN
        } else {
            HELLO
        };
        if stream.write_all(reply).is_err() {
            break;
        }
    }
}
