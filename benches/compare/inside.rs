//! Figures that no load from outside can measure: the choice among many backends, and a million session ids.
//!
//! Moorline's parts are timed in a separate process, without sockets. HAProxy's stick table is filled
//! through its administration socket. The other proxies have no such interface.

use std::{
    hint::black_box,
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use moorline::{
    config::{self, Address, Balance, Reuse, SessionsConfig},
    sticky,
    upstream::{Backend, Pool},
};
use serde::{Deserialize, Serialize};

use crate::{
    peer::{Family, Peer},
    process,
    results::{Better, Results, Spread, grouped},
    turns::Turns,
};

/// Flag that makes this program time the proxy's parts and print the result.
pub(crate) const FLAG: &str = "--inside";

const TITLE: &str = "7. Picking a backend, knowing a session";
const METHOD: &str = "In process, without any socket: the time of one choice by each policy and the memory of a backend \
     with its part of the pool; then a table of a million session ids of 20 characters. A choice cannot \
     be timed from outside, so the others have no figure; HAProxy's stick table is filled through its \
     administration socket, which shows its size but not the time.";

const SESSIONS: usize = 1_000_000;
const LIFE: Duration = Duration::from_secs(45);
/// Backends to choose among.
const SIZES: [u16; 4] = [10, 100, 1_000, 10_000];
/// Choices in a batch, and batches.
const PICKS: u32 = 500;
const BATCHES: usize = 101;
/// Number of clients, if their addresses repeat.
const CLIENTS: u32 = 4096;
/// Backends in all pools together, for one measurement of memory.
const BACKENDS: usize = 40_000;
/// Commands in a line: HAProxy's buffer has 16 KiB.
const COMMANDS: usize = 150;

const POLICIES: [(&str, Balance); 4] = [
    ("least-sessions", Balance::LeastSessions),
    ("round-robin", Balance::RoundRobin),
    ("p2c", Balance::P2c),
    ("source-hash", Balance::SourceHash),
];

/// A row and its value.
#[derive(Serialize, Deserialize)]
struct Timed {
    title: String,
    value: f64,
}

/// Measures one round.
pub(crate) fn take(turns: &Turns<'_>, results: &mut Results) -> anyhow::Result<()> {
    if !turns.wanted(TITLE, "") {
        return Ok(());
    }
    let table = results.table(TITLE, METHOD, &turns.columns());
    for (column, peer) in turns.peers.iter().enumerate() {
        eprintln!("{TITLE}: {}", peer.title);
        match peer.family {
            Family::Moorline if column == 0 => {
                for Timed { title, value } in ours(turns)? {
                    table.add(&title, Better::Less, column, value);
                }
            }
            Family::Haproxy => {
                let each = stick_table(turns, peer).context("HAProxy's stick table")?;
                table.add(&bytes_title(), Better::Less, column, each);
            }
            Family::Moorline | Family::Nginx | Family::Caddy => {
                table.cannot(&bytes_title(), Better::Less, column, "has no such table");
            }
            Family::Envoy => {}
        }
    }
    // Only Moorline has these figures.
    for row in &mut table.rows {
        for (cell, peer) in row.cells.iter_mut().zip(turns.peers).skip(1) {
            if peer.family != Family::Envoy && cell.values.is_empty() && cell.cannot.is_none() {
                cell.cannot = Some("no figure".to_owned());
            }
        }
    }
    Ok(())
}

fn bytes_title() -> String {
    "a million sids: bytes each".to_owned()
}

/// Measures in a new process, so that earlier allocations do not count.
fn ours(turns: &Turns<'_>) -> anyhow::Result<Vec<Timed>> {
    let program = std::env::current_exe()?;
    let mut command = turns.cores.command(&program.to_string_lossy(), 1);
    let output = command.args(["--bench", FLAG]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Prints the figures that [`ours`] reads.
pub(crate) fn print() -> anyhow::Result<()> {
    let mut all = Vec::new();
    for (policy, balance) in POLICIES {
        for backends in SIZES {
            let title = format!("{policy} among {}: ns", grouped(backends.into()));
            let mut random = fastrand::Rng::with_seed(7);
            let value = pick(balance, backends, || random.u32(..CLIENTS));
            all.push(Timed { title, value });
        }
    }
    for backends in SIZES {
        let title = format!("source-hash among {}, a new address: ns", grouped(backends.into()));
        let mut number = 0;
        let next = || {
            number += 1;
            number
        };
        all.push(Timed { title, value: pick(Balance::SourceHash, backends, next) });
    }
    for backends in SIZES {
        let title = format!("a pool of {}: bytes for each backend", grouped(backends.into()));
        all.push(Timed { title, value: pool_bytes(backends)? });
    }
    all.extend(sids()?);
    println!("{}", serde_json::to_string(&all)?);
    Ok(())
}

/// Nanoseconds of a choice: the median of many batches, so that an interrupted batch does not matter.
fn pick(balance: Balance, backends: u16, mut address: impl FnMut() -> u32) -> f64 {
    let pool = pool(balance, backends);
    let mut batch = || {
        let start = Instant::now();
        for _ in 0..PICKS {
            black_box(pool.pick(&address().to_be_bytes(), &[]));
        }
        start.elapsed().as_nanos() as f64 / f64::from(PICKS)
    };
    // The first choice builds what later ones use.
    batch();
    let batches: Vec<f64> = (0..BATCHES).map(|_| batch()).collect();
    Spread::of(&batches).map_or(f64::NAN, |spread| spread.median)
}

/// Bytes of each backend of a pool with `backends` backends, with its share of the pool.
fn pool_bytes(backends: u16) -> anyhow::Result<f64> {
    let before = process::memory(std::process::id())?;
    let pools = BACKENDS / usize::from(backends);
    let held: Vec<_> = (0..pools).map(|_| pool(Balance::LeastSessions, backends)).collect();
    let after = process::memory(std::process::id())?;
    // The next pool could reuse freed memory, and would then seem smaller.
    std::mem::forget(held);
    Ok(after.saturating_sub(before) as f64 / BACKENDS as f64)
}

fn pool(balance: Balance, backends: u16) -> Arc<Pool> {
    let mut config = config::PoolConfig::new("bench", Vec::new());
    config.balance = balance;
    Pool::new(config, (0..backends).map(|n| backend("bench", n)).collect())
}

fn backend(pool: &str, number: u16) -> Arc<Backend> {
    let address = Address { host: "127.0.0.1".to_owned(), port: 1024 + number };
    let name = address.to_string();
    Backend::new(
        pool,
        &config::BackendConfig { name, address, weight: 1, backup: false },
        &Reuse::default(),
    )
}

/// A million session ids: nanoseconds to learn and to find one, bytes each.
fn sids() -> anyhow::Result<Vec<Timed>> {
    let backends: Vec<_> = (0..10).map(|n| backend("chat", n)).collect();
    let sids: Vec<String> = (0..SESSIONS).map(sid).collect();
    let before = process::memory(std::process::id())?;
    let start = Instant::now();
    let table = sticky::SessionTable::new(&SessionsConfig { max: SESSIONS, max_sid_bytes: 128 });
    for (n, sid) in sids.iter().enumerate() {
        table.learn(sid, &backends[n % backends.len()], LIFE, start);
    }
    let learned = start.elapsed();
    let bytes = process::memory(std::process::id())? - before;
    let mut random = fastrand::Rng::with_seed(7);
    let wanted: Vec<&String> = (0..SESSIONS).map(|_| &sids[random.usize(..SESSIONS)]).collect();
    let start_of_search = Instant::now();
    let found = wanted.iter().filter(|sid| table.find("chat", sid, start).is_some()).count();
    let searched = start_of_search.elapsed();
    ensure!(found == SESSIONS, "{found} of {SESSIONS} found");
    let each = |whole: f64| whole / SESSIONS as f64;
    let timed = |what: &str, value| Timed { title: format!("a million sids: {what}"), value };
    Ok(vec![
        timed("ns to learn one", each(learned.as_nanos() as f64)),
        timed("ns to find one", each(searched.as_nanos() as f64)),
        Timed { title: bytes_title(), value: each(bytes as f64) },
    ])
}

/// A session id with the length of Engine.IO's.
fn sid(number: usize) -> String {
    format!("{number:016x}AAAA")
}

/// Bytes of each entry in HAProxy's stick table.
fn stick_table(turns: &Turns<'_>, haproxy: &Peer) -> anyhow::Result<f64> {
    let template = include_str!("peers/haproxy-table.cfg");
    let proxy = haproxy.start_with(turns.cores, turns.origin, template)?;
    let before = proxy.memory()?;
    let socket = proxy.directory().join("admin.sock");
    let mut numbers = 0..SESSIONS;
    loop {
        let sids = numbers.by_ref().take(COMMANDS).map(sid);
        let commands: Vec<String> =
            sids.map(|sid| format!("set table sessions key {sid} data.server_id 1")).collect();
        if commands.is_empty() {
            break;
        }
        let answer = ask(&socket, &commands.join(";"))?;
        ensure!(answer.trim().is_empty(), "HAProxy answers: {}", answer.trim());
    }
    let answer = ask(&socket, "show table")?;
    ensure!(answer.contains(&format!("used:{SESSIONS}")), "HAProxy answers: {}", answer.trim());
    Ok((proxy.memory()? - before) as f64 / SESSIONS as f64)
}

/// Sends a line to an administration socket and returns the answer.
fn ask(socket: &Path, line: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket).context("the administration socket")?;
    stream.write_all(line.as_bytes())?;
    stream.write_all(b"\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
