//! The time that affinity adds to a request: to read an open packet of each framing and an unknown-sid
//! error, to find and learn a session in a table of a million, to read and set a cookie. Prints the table's
//! memory for each session.

use std::{
    fs,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use moorline::{
    config::{self, Reuse, SessionsConfig, SharedKeys},
    sticky::{
        SessionTable,
        cookie::{self, CookieIds, CookieKeys},
        engine_io::{is_unknown_sid, open_frame, open_packet, query},
    },
    upstream::Backend,
};

const SESSIONS: usize = 1_000_000;
const LIFE: Duration = Duration::from_secs(45);

fn backend(name: String) -> Arc<Backend> {
    let address = config::Address { host: "127.0.0.1".to_owned(), port: 3000 };
    Backend::new(
        "chat",
        &config::BackendConfig { name, address, weight: 1, backup: false },
        &Reuse::default(),
    )
}

/// A session id with the length of Engine.IO's.
fn sid(n: usize) -> String {
    format!("{n:016x}AAAA")
}

/// Memory of this process, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// A recorded reply of a real server.
fn recorded(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/engine_io");
    fs::read(format!("{folder}/{name}.body")).expect("the fixture is there")
}

fn engine_io(c: &mut Criterion) {
    let mut group = c.benchmark_group("open packet");
    for (framing, file) in [
        ("protocol 4", "v4-polling"),
        ("protocol 3", "v2-polling"),
        ("protocol 3 binary", "v1-polling"),
        ("jsonp", "v2-jsonp"),
    ] {
        let body = recorded(file);
        assert!(open_packet(&body).is_some());
        group.bench_function(framing, |b| b.iter(|| open_packet(black_box(&body))));
    }
    let frame = recorded("v4-frame");
    assert!(open_frame(&frame).is_some());
    group.bench_function("first frame of a socket", |b| b.iter(|| open_frame(black_box(&frame))));
    group.finish();
    let refusal = recorded("v4-unknown-sid-get");
    assert!(is_unknown_sid(Some("application/json"), &refusal));
    c.bench_function("refusal of an unknown sid", |b| {
        b.iter(|| is_unknown_sid(Some("application/json"), black_box(&refusal)));
    });
    let text = "EIO=4&transport=polling&t=PlkBg2a&sid=lv_VI97HAXpY6yYWAAAB";
    c.bench_function("query of a poll", |b| b.iter(|| query(black_box(text)).is_some()));
}

fn table(c: &mut Criterion) {
    let backends: Vec<_> = (0..10).map(|n| backend(format!("node-{n}"))).collect();
    let sids: Vec<_> = (0..SESSIONS).map(sid).collect();
    let before = resident();
    let start = Instant::now();
    let table = SessionTable::new(&SessionsConfig { max: SESSIONS, max_sid_bytes: 128 });
    for (n, sid) in sids.iter().enumerate() {
        table.learn(sid, &backends[n % backends.len()], LIFE, start);
    }
    let filled = start.elapsed();
    println!(
        "{} sessions learned in {filled:?}: {} bytes each by count, {} by the process's memory",
        table.len(),
        table.bytes() / table.len(),
        (resident() - before) / table.len(),
    );

    let mut random = fastrand::Rng::with_seed(7);
    let mut group = c.benchmark_group("table of a million");
    group.bench_function("find", |b| {
        b.iter_batched_ref(
            || sids[random.usize(..SESSIONS)].clone(),
            |sid| table.find("chat", sid, start).is_some(),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("find none", |b| {
        b.iter(|| table.find("chat", black_box("lv_VI97HAXpY6yYWAAAB"), start).is_some());
    });
    group.bench_function("hold and release", |b| {
        b.iter_batched_ref(
            || sids[random.usize(..SESSIONS)].clone(),
            |sid| drop(table.hold("chat", sid, start)),
            BatchSize::SmallInput,
        );
    });
    let mut next = SESSIONS;
    group.bench_function("learn into a full one", |b| {
        b.iter_batched_ref(
            || {
                next += 1;
                sid(next)
            },
            |sid| table.learn(sid, &backends[0], LIFE, start),
            BatchSize::SmallInput,
        );
    });
    group.sample_size(20);
    group.bench_function("sweep a quarter", |b| b.iter(|| table.sweep(start)));
    group.finish();
}

fn cookies(c: &mut Criterion) {
    let keys = CookieKeys::new(&SharedKeys::Generated);
    let names: Vec<_> = (0..100).map(|n| format!("node-{n}")).collect();
    let ids = CookieIds::new(&keys, "chat", names.iter().map(String::as_str));
    let text = format!("_ga=GA1.2.1; theme=dark; moorline={}; lang=en", ids.value(42));
    c.bench_function("cookie to backend, of 100", |b| {
        b.iter(|| {
            let fields = std::iter::once(black_box(text.as_bytes()));
            cookie::values(fields, "moorline").find_map(|value| ids.find(value))
        });
    });
    let (setting, context) =
        (config::Cookie::of("chat"), cookie::CookieContext { tls: true, cross_site: true });
    c.bench_function("cookie to set", |b| {
        b.iter(|| cookie::set_cookie(black_box(&setting), ids.value(42), context));
    });
    c.bench_function("ids of 100 backends, as after a reload", |b| {
        b.iter(|| CookieIds::new(&keys, "chat", black_box(&names).iter().map(String::as_str)));
    });
}

criterion_group!(benches, engine_io, table, cookies);
criterion_main!(benches);
