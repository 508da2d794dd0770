//! Instructions of the pure functions, counted by Callgrind. The count is the same on a busy and on an idle
//! machine, so a difference of one per cent is a change of the code.
//!
//! Run by `benches/instructions/run`, which needs Valgrind, and also counts requests through the whole proxy. Inputs
//! are created before the count begins.

#![expect(missing_docs, reason = "the modules that the macros make have none")]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use gungraun::{library_benchmark, library_benchmark_group, main};
use moorline::{
    config::{self, Address, Balance, Reuse, SessionsConfig, SharedKeys},
    sticky::{
        SessionTable,
        cookie::{self, CookieIds, CookieKeys, CookieMatch},
        engine_io::{self, open_frame, open_packet},
    },
    tunnel::frame::FrameTracker,
    upstream::{Backend, Pool},
};

const LIFE: Duration = Duration::from_secs(45);
const SID: &str = "lv_VI97HAXpY6yYWAAAB";

/// A recorded reply of a real server.
macro_rules! recorded {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/fixtures/engine_io/", $name, ".body")).as_slice()
    };
}

#[library_benchmark]
#[bench::protocol_4(recorded!("v4-polling"))]
#[bench::protocol_3(recorded!("v2-polling"))]
#[bench::protocol_3_binary(recorded!("v1-polling"))]
#[bench::jsonp(recorded!("v4-jsonp"))]
#[bench::none(recorded!("v4-unknown-sid-get"))]
fn open(body: &[u8]) -> Option<engine_io::OpenPacket> {
    black_box(open_packet(black_box(body)))
}

#[library_benchmark]
#[bench::protocol_4(recorded!("v4-frame"))]
fn frame(payload: &[u8]) -> Option<engine_io::OpenPacket> {
    black_box(open_frame(black_box(payload)))
}

#[library_benchmark]
#[bench::poll("EIO=4&transport=polling&t=PlkBg2a&sid=lv_VI97HAXpY6yYWAAAB")]
#[bench::foreign("page=3&sort=name")]
fn query(text: &str) -> bool {
    black_box(engine_io::query(black_box(text)).is_some())
}

/// A table with `sessions` sessions and [`SID`].
fn table(sessions: usize) -> (Arc<SessionTable>, Arc<Backend>, Instant) {
    let table = SessionTable::new(&SessionsConfig { max: 1_000_000, max_sid_bytes: 128 });
    let (backend, now) = (backend(0), Instant::now());
    for n in 0..sessions {
        table.learn(&format!("{n:016x}AAAA"), &backend, LIFE, now);
    }
    table.learn(SID, &backend, LIFE, now);
    (table, backend, now)
}

#[library_benchmark]
#[bench::among_1000(table(1000))]
fn find(
    (table, backend, now): (Arc<SessionTable>, Arc<Backend>, Instant),
) -> (bool, Arc<SessionTable>) {
    let found = table.find(backend.pool(), black_box(SID), now).is_some();
    // Returned values are dropped after the count.
    (black_box(found), table)
}

#[library_benchmark]
#[bench::among_1000(table(1000))]
fn learn((table, backend, now): (Arc<SessionTable>, Arc<Backend>, Instant)) -> Arc<SessionTable> {
    table.learn(black_box("PJ8nVZ2w3qXk0yYWAAAC"), &backend, LIFE, now);
    black_box(table)
}

#[library_benchmark]
#[bench::among_1000(table(1000))]
fn hold((table, backend, now): (Arc<SessionTable>, Arc<Backend>, Instant)) -> Arc<SessionTable> {
    drop(black_box(table.hold(backend.pool(), black_box(SID), now)));
    table
}

fn ids() -> CookieIds {
    let keys = CookieKeys::new(&SharedKeys::Generated);
    let names: Vec<_> = (0..100).map(|n| format!("node-{n}")).collect();
    CookieIds::new(&keys, "chat", names.iter().map(String::as_str))
}

/// The `Cookie` field of a browser, with the affinity cookie among others.
fn browser() -> (String, CookieIds) {
    let ids = ids();
    let text = format!("_ga=GA1.2.1; theme=dark; moorline={}; lang=en", ids.value(42));
    (text, ids)
}

#[library_benchmark]
#[bench::of_100(browser())]
fn read_cookie((text, ids): (String, CookieIds)) -> (Option<CookieMatch>, String, CookieIds) {
    let fields = std::iter::once(text.as_bytes());
    let found = cookie::values(fields, "moorline").find_map(|value| ids.find(value));
    (black_box(found), text, ids)
}

/// The cookie with default settings.
fn setting() -> (config::Cookie, CookieIds) {
    (config::Cookie::of("chat"), ids())
}

#[library_benchmark]
#[bench::cross_site(setting())]
fn set_cookie((cookie, ids): (config::Cookie, CookieIds)) -> (String, config::Cookie, CookieIds) {
    let context = cookie::CookieContext { tls: true, cross_site: true };
    (black_box(cookie::set_cookie(&cookie, ids.value(42), context)), cookie, ids)
}

fn backend(number: u16) -> Arc<Backend> {
    let address = Address { host: "127.0.0.1".to_owned(), port: 1024 + number };
    let name = address.to_string();
    Backend::new("chat", &config::BackendConfig { name, address, weight: 1 }, &Reuse::default())
}

fn pool(balance: Balance, backends: u16) -> Arc<Pool> {
    let mut config = config::PoolConfig::new("chat", Vec::new());
    config.balance = balance;
    Pool::new(config, (0..backends).map(backend).collect())
}

#[library_benchmark]
#[bench::least_sessions_10(pool(Balance::LeastSessions, 10))]
#[bench::least_sessions_1000(pool(Balance::LeastSessions, 1000))]
#[bench::round_robin_10(pool(Balance::RoundRobin, 10))]
#[bench::round_robin_1000(pool(Balance::RoundRobin, 1000))]
#[bench::p2c_10(pool(Balance::P2c, 10))]
#[bench::p2c_1000(pool(Balance::P2c, 1000))]
#[bench::source_hash_10(pool(Balance::SourceHash, 10))]
#[bench::source_hash_1000(pool(Balance::SourceHash, 1000))]
fn pick(pool: Arc<Pool>) -> (Option<Arc<Backend>>, Arc<Pool>) {
    (black_box(pool.pick(black_box(&[192, 0, 2, 7]), &[])), pool)
}

/// Masked frames with a payload of 64 bytes.
fn frames(count: usize) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | 64, 7, 7, 7, 7];
    frame.resize(frame.len() + 64, b'm');
    frame.repeat(count)
}

#[library_benchmark]
#[bench::one(frames(1))]
#[bench::hundred(frames(100))]
fn follow(bytes: Vec<u8>) -> (bool, Vec<u8>) {
    let mut tracker = FrameTracker::new();
    tracker.pass(black_box(&bytes));
    (black_box(tracker.at_boundary()), bytes)
}

library_benchmark_group!(name = engine_io_packets, benchmarks = [open, frame, query]);
library_benchmark_group!(name = sid_table, benchmarks = [find, learn, hold]);
library_benchmark_group!(name = cookies, benchmarks = [read_cookie, set_cookie]);
library_benchmark_group!(name = balance, benchmarks = [pick]);
library_benchmark_group!(name = frame_tracker, benchmarks = [follow]);

main!(library_benchmark_groups = engine_io_packets, sid_table, cookies, balance, frame_tracker);
