//! What no load from outside can tell: the choice among many backends, and a million session ids.
//!
//! Ours is timed in a process of its own, without sockets; HAProxy's stick table is filled through
//! its administration socket. The others have nothing that could be asked.

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
    peer::{Family, Peer, Proxy},
    process,
    results::{Better, Results, Spread, grouped},
    turns::Turns,
};

/// Makes this program time the proxy's own parts, and print them.
pub(crate) const FLAG: &str = "--inside";

const TITLE: &str = "7. Picking a backend, knowing a session";
const METHOD: &str = "In process, without any socket: the time of one choice by each policy and the memory of a backend \
     with its part of the pool; then a table of a million session ids of 20 characters. A choice cannot \
     be timed from outside, so the others have no figure; HAProxy's stick table is filled through its \
     administration socket, which tells its size and hides the time.";

const SESSIONS: usize = 1_000_000;
const LIFE: Duration = Duration::from_secs(45);
/// Backends to choose among.
const SIZES: [u16; 4] = [10, 100, 1_000, 10_000];
/// Choices in a batch, and batches.
const PICKS: u32 = 500;
const BATCHES: usize = 101;
/// Different clients, where they come again.
const CLIENTS: u32 = 4096;
/// Backends over all pools whose memory is measured at once.
const BACKENDS: usize = 40_000;
/// Commands in a line that HAProxy takes: its buffer has 16 KiB.
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

/// One round of it.
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
        }
    }
    // What only we have a figure for, the others have none for.
    for row in &mut table.rows {
        for cell in row.cells.iter_mut().skip(1) {
            if cell.values.is_empty() && cell.cannot.is_none() {
                cell.cannot = Some("no figure".to_owned());
            }
        }
    }
    Ok(())
}

fn bytes_title() -> String {
    "a million sids: bytes each".to_owned()
}

/// In a fresh process, whose memory has no past.
fn ours(turns: &Turns<'_>) -> anyhow::Result<Vec<Timed>> {
    let program = std::env::current_exe()?;
    let mut command = turns.cores.command(&program.to_string_lossy());
    let told = command.args(["--bench", FLAG]).output()?;
    ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    Ok(serde_json::from_slice(&told.stdout)?)
}

/// Prints what [`ours`] reads.
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

/// Nanoseconds of a choice: the median of many batches, so that one that was interrupted is no matter.
fn pick(balance: Balance, backends: u16, mut address: impl FnMut() -> u32) -> f64 {
    let pool = pool(balance, backends);
    let mut batch = || {
        let start = Instant::now();
        for _ in 0..PICKS {
            black_box(pool.pick(&address().to_be_bytes(), &[]));
        }
        start.elapsed().as_nanos() as f64 / f64::from(PICKS)
    };
    // What is made at the first choice is made once.
    batch();
    let batches: Vec<f64> = (0..BATCHES).map(|_| batch()).collect();
    Spread::of(&batches).map_or(f64::NAN, |spread| spread.median)
}

/// What each backend of a pool of so many takes, with its part of the pool.
fn pool_bytes(backends: u16) -> anyhow::Result<f64> {
    let before = process::memory(std::process::id())?;
    let pools = BACKENDS / usize::from(backends);
    let held: Vec<_> = (0..pools).map(|_| pool(Balance::LeastSessions, backends)).collect();
    let after = process::memory(std::process::id())?;
    // What is let go of may be used again by the next, which would then seem to take less.
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
    Backend::new(pool, &config::Backend { name, address, weight: 1 }, &Reuse::default())
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

/// As long as Engine.IO's own.
fn sid(number: usize) -> String {
    format!("{number:016x}AAAA")
}

/// Bytes of each entry in HAProxy's stick table.
fn stick_table(turns: &Turns<'_>, haproxy: &Peer) -> anyhow::Result<f64> {
    let template = include_str!("peers/haproxy-table.cfg");
    let proxy = haproxy.start_with(turns.cores, turns.origin, template)?;
    let before = memory(&proxy)?;
    let socket = proxy.directory().join("admin.sock");
    let mut numbers = 0..SESSIONS;
    loop {
        let sids = numbers.by_ref().take(COMMANDS).map(sid);
        let commands: Vec<String> =
            sids.map(|sid| format!("set table sessions key {sid} data.server_id 1")).collect();
        if commands.is_empty() {
            break;
        }
        let told = ask(&socket, &commands.join(";"))?;
        ensure!(told.trim().is_empty(), "it says: {}", told.trim());
    }
    let told = ask(&socket, "show table")?;
    ensure!(told.contains(&format!("used:{SESSIONS}")), "it says: {}", told.trim());
    Ok((memory(&proxy)? - before) as f64 / SESSIONS as f64)
}

fn memory(proxy: &Proxy) -> anyhow::Result<u64> {
    proxy.workers.iter().map(|&worker| process::memory(worker)).sum()
}

/// One line to an administration socket, and the answer.
fn ask(socket: &Path, line: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket).context("the administration socket")?;
    stream.write_all(line.as_bytes())?;
    stream.write_all(b"\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut told = String::new();
    stream.read_to_string(&mut told)?;
    Ok(told)
}
