//! The time to choose a backend, by policy and number of backends.
//!
//! `pick` is the choice alone. `session` also holds and releases the session, as if one client
//! arrives and another leaves. `down` is a choice while no backend is healthy.

use std::{hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use moorline::{
    config::{self, Address, Balance, Reuse},
    upstream::{Backend, Pool},
};

const POLICIES: [(&str, Balance); 4] = [
    ("least-sessions", Balance::LeastSessions),
    ("round-robin", Balance::RoundRobin),
    ("p2c", Balance::P2c),
    ("source-hash", Balance::SourceHash),
];
const SIZES: [u16; 4] = [10, 100, 1_000, 10_000];

fn pool(balance: Balance, backends: u16) -> Arc<Pool> {
    let mut config = config::PoolConfig::new("bench", Vec::new());
    config.balance = balance;
    let backend = |i: u16| {
        let address = Address { host: "127.0.0.1".to_owned(), port: 1024 + i };
        let name = address.to_string();
        let config =
            config::BackendConfig { name, address, weight: 1 + u32::from(i % 4), backup: false };
        Backend::new("bench", &config, &Reuse::default())
    };
    Pool::new(config, (0..backends).map(backend).collect())
}

/// Client addresses in a random order, a few thousand different ones.
fn sources() -> impl FnMut() -> [u8; 4] {
    let mut state = 1u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 20).to_be_bytes()
    }
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    for (name, balance) in POLICIES {
        for size in SIZES {
            let (pool, mut source) = (pool(balance, size), sources());
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| black_box(pool.pick(&source(), &[])));
            });
        }
    }
}

fn session(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    for (name, balance) in POLICIES {
        for size in SIZES {
            let (pool, mut source) = (pool(balance, size), sources());
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| pool.pick(&source(), &[]).map(|backend| backend.hold()));
            });
        }
    }
}

fn down(c: &mut Criterion) {
    let mut group = c.benchmark_group("down");
    for (name, balance) in POLICIES {
        let (pool, mut source) = (pool(balance, 10_000), sources());
        for backend in pool.backends() {
            backend.record_check(false, 1, 1);
        }
        group.bench_function(BenchmarkId::new(name, 10_000), |b| {
            b.iter(|| black_box(pool.pick(&source(), &[])));
        });
    }
}

criterion_group!(benches, pick, session, down);
criterion_main!(benches);
