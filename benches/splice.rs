//! Compares copying with `splice(2)` in a tunnel between plain sockets: CPU time of the proxy's process
//! for each GiB and for each message, in turns within one run.
//!
//! ```text
//! cargo bench --bench splice [-- [--netns [--whole]] [--only WORD]]
//! ```
//!
//! With `--netns` (needs root) client, proxy and origin each have a network namespace. On the links
//! between them the sender merges segments, as a network card does. With `--whole` each packet of 1,500
//! bytes passes the whole stack separately. Over the loopback a segment also has up to 64 KiB, and never
//! waits.
//!
//! This program runs as three processes: the proxy has one thread and one core, origin and load share
//! the other core.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use moorline::{
    net::stream::{BackendStream, ClientStream, tune},
    tunnel::{self, TunnelEndpoint, TunnelObserver, TunnelOptions, TunnelRegistry, TunnelSummary},
};

/// Runs of each mode, in turns.
const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_millis(1000);
const MODES: [&str; 2] = ["copy", "splice"];

/// Name, concurrent streams, and bytes of a message and its echo; 0: the origin sends without end.
const LOADS: [(&str, usize, usize); 7] = [
    ("bulk, 1 stream", 1, 0),
    ("bulk, 16 streams", 16, 0),
    ("bulk, 64 streams", 64, 0),
    ("messages of 64 B, 16 streams", 16, 64),
    ("messages of 4 KiB, 16 streams", 16, 4 << 10),
    ("messages of 32 KiB, 16 streams", 16, 32 << 10),
    ("messages of 256 KiB, 4 streams", 4, 256 << 10),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["--proxy", mode, listen, origin] => proxy(mode, listen, origin),
        ["--origin", listen] => origin(listen),
        ["--load", to, streams, size] => load(to, number(streams), number(size)),
        // `cargo test` runs the benches of a package too, but without this flag.
        _ if !words.contains(&"--bench") => println!("nothing to test"),
        _ => {
            let only = words.iter().skip_while(|word| **word != "--only").nth(1).copied();
            let place = match (words.contains(&"--netns"), words.contains(&"--whole")) {
                (true, whole) => Place::apart(whole),
                (false, _) => Place::loopback(),
            };
            compare(&place, only);
        }
    }
}

fn number(word: &str) -> usize {
    word.parse().expect("a number")
}

/// Measures all loads, the modes in turns.
fn compare(place: &Place, only: Option<&str>) {
    println!("{:32} {:>10} {:>10} {:>8}", place.title, MODES[0], MODES[1], "ratio");
    for (title, streams, size) in LOADS {
        if only.is_some_and(|word| !title.contains(word)) {
            continue;
        }
        let mut spent = MODES.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (spent, mode) in spent.iter_mut().zip(MODES) {
                spent.push(place.measure(mode, streams, size));
            }
        }
        let [copy, splice] = spent.map(median);
        // The values are nanoseconds for each byte or message.
        let (scale, unit) =
            if size == 0 { (f64::from(1 << 30) / 1e9, "s/GiB") } else { (1e-3, "µs each") };
        println!(
            "{title:32} {:10.3} {:10.3} {:8.2}  {unit}",
            copy * scale,
            splice * scale,
            splice / copy
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The network of client, proxy and origin.
struct Place {
    title: &'static str,
    /// Names of the namespaces of client, proxy and origin, and addresses of proxy and origin.
    namespaces: Option<[String; 3]>,
    proxy: &'static str,
    origin: &'static str,
}

impl Place {
    fn loopback() -> Self {
        Self { title: "loopback", namespaces: None, proxy: "127.0.0.1", origin: "127.0.0.1" }
    }

    /// Three namespaces in a row, deleted on drop.
    fn apart(whole: bool) -> Self {
        let names = ["client", "proxy", "origin"].map(|end| format!("splice-{end}"));
        let [client, proxy, origin] = &names;
        let place = Self {
            title: if whole { "namespaces, each packet whole" } else { "namespaces" },
            namespaces: Some(names.clone()),
            proxy: "192.0.2.1",
            origin: "198.51.100.1",
        };
        for name in &names {
            ip(&format!("netns add {name}"));
        }
        for (far, end, near, there) in [
            (client, "192.0.2.2/24", "192.0.2.1/24", "to-client"),
            (origin, "198.51.100.1/24", "198.51.100.2/24", "to-origin"),
        ] {
            ip(&format!("-n {proxy} link add {there} type veth peer name link netns {far}"));
            if whole {
                ip(&format!("-n {proxy} link set dev {there} gso_max_segs 1"));
                ip(&format!("-n {far} link set dev link gso_max_segs 1"));
            }
            ip(&format!("-n {far} address add {end} dev link"));
            ip(&format!("-n {proxy} address add {near} dev {there}"));
            ip(&format!("-n {far} link set dev link up"));
            ip(&format!("-n {proxy} link set dev {there} up"));
        }
        place
    }

    /// Returns the proxy's CPU time in nanoseconds for each byte of bulk, or for each message.
    fn measure(&self, mode: &str, streams: usize, size: usize) -> f64 {
        let origin = self.start(2, 0, &["--origin", &format!("{}:0", self.origin)]);
        let listen = format!("{}:0", self.proxy);
        let proxy = self.start(1, 1, &["--proxy", mode, &listen, &origin.said]);
        let streams = streams.to_string();
        let mut load = self.start(0, 0, &["--load", &proxy.said, &streams, &size.to_string()]);
        thread::sleep(WARM_UP);
        let (count, cpu) = (load.count(), proxy.cpu());
        thread::sleep(MEASURED);
        let (count, cpu) = (load.count() - count, proxy.cpu() - cpu);
        assert!(count > 0, "nothing moved");
        cpu as f64 / count as f64
    }

    /// Starts a role of this program; its first line is its address.
    fn start(&self, at: usize, core: usize, args: &[&str]) -> Role {
        let program = std::env::current_exe().expect("this program");
        let mut command = match &self.namespaces {
            Some(names) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &names[at], "taskset"]);
                command
            }
            None => Command::new("taskset"),
        };
        command.args(["-c", &core.to_string()]).arg(program).args(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a role");
        let (asks, says) = (child.stdin.take(), child.stdout.take());
        let (asks, says) = (asks.expect("its input"), BufReader::new(says.expect("its output")));
        let mut role = Role { child, asks, says, said: String::new() };
        role.said = role.line();
        role
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in self.namespaces.iter().flatten() {
            ip(&format!("netns del {name}"));
        }
    }
}

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).status().expect("ip");
    assert!(done.success(), "ip {words}");
}

/// A running role, killed on drop.
struct Role {
    child: Child,
    asks: ChildStdin,
    says: BufReader<ChildStdout>,
    said: String,
}

impl Role {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    fn count(&mut self) -> u64 {
        self.asks.write_all(b"\n").expect("a question");
        self.line().parse().expect("a count")
    }

    /// CPU time in nanoseconds; the process has one thread.
    fn cpu(&self) -> u64 {
        let path = format!("/proc/{}/schedstat", self.child.id());
        let text = std::fs::read_to_string(path).expect("schedstat");
        text.split(' ').next().and_then(|word| word.parse().ok()).expect("a time")
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct NoObserver;

impl TunnelObserver for NoObserver {
    fn end(self, _: TunnelSummary, _: Option<&std::io::Error>) {}
}

/// Runs the proxy: a tunnel to the origin for each connection.
fn proxy(mode: &str, listen: &str, origin: &str) {
    if mode == "copy" {
        tunnel::splice::forbid();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let registry = Arc::new(TunnelRegistry::default());
        let listener = tokio::net::TcpListener::bind(listen).await.expect("a listener");
        println!("{}", listener.local_addr().expect("an address"));
        loop {
            let (client, peer) = listener.accept().await.expect("a client");
            let backend = tokio::net::TcpStream::connect(origin).await.expect("the origin");
            tune(&client);
            tune(&backend);
            let client =
                TunnelEndpoint { stream: ClientStream::Plain(client), early: Bytes::new() };
            let backend =
                TunnelEndpoint { stream: BackendStream::Plain(backend), early: Bytes::new() };
            let terms =
                TunnelOptions { idle: Some(Duration::from_secs(3600)), ..TunnelOptions::default() };
            let ticket = registry.enter(1, peer, false);
            tokio::spawn(tunnel::run(client, backend, NoObserver, ticket, terms));
        }
    });
}

/// Runs the origin: sends without end or echoes messages, as the first eight bytes of a stream say.
fn origin(listen: &str) {
    let listener = TcpListener::bind(listen).expect("a listener");
    println!("{}", listener.local_addr().expect("an address"));
    for stream in listener.incoming() {
        // An error means that the client has left.
        thread::spawn(move || serve(stream?));
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut size = [0; 8];
    stream.read_exact(&mut size)?;
    let size = usize::from_be_bytes(size);
    let mut buffer = vec![0; if size == 0 { 128 << 10 } else { size }];
    loop {
        if size > 0 {
            stream.read_exact(&mut buffer)?;
        }
        stream.write_all(&buffer)?;
    }
}

/// Runs the load: counts bytes or answers, and prints the count for each line of input.
fn load(to: &str, streams: usize, size: usize) {
    let to: SocketAddr = to.parse().expect("an address");
    let count = Arc::new(AtomicU64::new(0));
    for _ in 0..streams {
        let mut stream = TcpStream::connect(to).expect("the proxy");
        stream.set_nodelay(true).expect("no delay");
        stream.write_all(&size.to_be_bytes()).expect("a size");
        let count = Arc::clone(&count);
        thread::spawn(move || drive(stream, size, &count));
    }
    println!("ready");
    for _ in io::stdin().lines() {
        println!("{}", count.load(Relaxed));
    }
}

fn drive(mut stream: TcpStream, size: usize, count: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; if size == 0 { 256 << 10 } else { size }];
    loop {
        if size == 0 {
            count.fetch_add(stream.read(&mut buffer)? as u64, Relaxed);
        } else {
            stream.write_all(&buffer)?;
            stream.read_exact(&mut buffer)?;
            count.fetch_add(1, Relaxed);
        }
    }
}
