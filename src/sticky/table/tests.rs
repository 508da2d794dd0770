//! Recording, finding, expiring and counting sessions, with a simulated clock.

mod handoff;
mod model;

use super::*;
use crate::config::{Address, Reuse, SessionsConfig};

const LIFE: Duration = Duration::from_secs(45);

fn table(max: usize) -> Arc<SessionTable> {
    SessionTable::new(&SessionsConfig { max, max_sid_bytes: 128 })
}

fn backend(pool: &str, name: &str) -> Arc<Backend> {
    let address = Address { host: "127.0.0.1".to_owned(), port: 3000 };
    Backend::new(
        pool,
        &config::BackendConfig { name: name.to_owned(), address, weight: 1, backup: false },
        &Reuse::default(),
    )
}

fn name(known: Option<KnownSession>) -> Option<String> {
    known.map(|known| known.backend.name().to_owned())
}

fn sweep_all(table: &SessionTable, now: Instant) -> usize {
    (0..ROUND).map(|_| table.sweep(now)).sum()
}

#[test]
fn session_is_found_on_its_backend_with_its_lifetime() {
    let (table, blue, now) = (table(10), backend("chat", "blue"), Instant::now());
    assert!(table.learn("abc", &blue, LIFE, now));
    let known = table.find("chat", "abc", now).unwrap();
    assert_eq!((known.backend.serial(), known.lifetime), (blue.serial(), LIFE));
    assert_eq!(name(table.find("chat", "abd", now)), None);
    assert_eq!((table.len(), blue.sessions()), (1, 1));
}

#[test]
fn pools_do_not_see_each_others_sessions() {
    let (table, now) = (table(10), Instant::now());
    let (chat, game) = (backend("chat", "a"), backend("game", "b"));
    table.learn("same", &chat, LIFE, now);
    assert_eq!(name(table.find("game", "same", now)), None);
    table.learn("same", &game, LIFE, now);
    assert_eq!(name(table.find("chat", "same", now)).as_deref(), Some("a"));
    assert_eq!(name(table.find("game", "same", now)).as_deref(), Some("b"));
    table.forget("chat", "same");
    assert_eq!(name(table.find("game", "same", now)).as_deref(), Some("b"));
    // Concatenations of pool and sid do not collide.
    assert_eq!(name(table.find("gam", "esame", now)), None);
}

#[test]
fn each_use_extends_the_lifetime() {
    let (table, blue, start) = (table(10), backend("chat", "blue"), Instant::now());
    table.learn("abc", &blue, LIFE, start);
    assert!(table.find("chat", "abc", start + LIFE).is_some());
    assert_eq!(sweep_all(&table, start + LIFE * 2), 0);
    assert!(table.find("chat", "abc", start + LIFE * 3).is_none());
    assert_eq!((table.len(), blue.sessions()), (0, 0));
}

#[test]
fn sweep_removes_and_uncounts_expired_sessions() {
    let (table, blue, start) = (table(50_000), backend("chat", "blue"), Instant::now());
    for n in 0..50_000 {
        let life = if n % 2 == 0 { LIFE } else { LIFE * 2 };
        table.learn(&n.to_string(), &blue, life, start);
    }
    let full = table.bytes();
    assert_eq!(sweep_all(&table, start + LIFE), 0);
    assert_eq!(sweep_all(&table, start + LIFE + Duration::from_millis(2)), 25_000);
    assert_eq!((table.len(), blue.sessions()), (25_000, 25_000));
    assert!(table.find("chat", "1", start + LIFE).is_some());
    assert_eq!(sweep_all(&table, start + LIFE * 9), 25_000);
    assert_eq!((table.len(), blue.sessions()), (0, 0));
    assert!(table.bytes() < full / 4, "{} of {full} bytes are kept", table.bytes());
}

#[test]
fn moved_session_counts_on_its_new_backend_only() {
    let (table, now) = (table(10), Instant::now());
    let (blue, green) = (backend("chat", "blue"), backend("chat", "green"));
    table.learn("abc", &blue, LIFE, now);
    table.learn("abc", &green, LIFE, now);
    table.learn("abc", &green, LIFE, now);
    assert_eq!(name(table.find("chat", "abc", now)).as_deref(), Some("green"));
    assert_eq!((table.len(), blue.sessions(), green.sessions()), (1, 0, 1));
}

#[test]
fn only_sids_within_the_limits_are_recorded() {
    let (table, blue, now) = (table(10), backend("chat", "blue"), Instant::now());
    assert!(!table.learn("", &blue, LIFE, now));
    assert!(!table.learn(&"x".repeat(129), &blue, LIFE, now));
    for length in [1, 21, 22, 23, 36, 128] {
        let sid = "ö".repeat(length)[..length & !1].to_owned() + "y";
        let sid = &sid[..sid.len().min(128)];
        assert!(table.learn(sid, &blue, LIFE, now));
        assert!(table.find("chat", sid, now).is_some(), "{length}");
    }
    finish(table.resize(&SessionsConfig { max: 10, max_sid_bytes: 4 }));
    assert!(!table.learn("12345", &blue, LIFE, now));
    finish(table.resize(&SessionsConfig { max: 0, max_sid_bytes: 128 }));
    assert!(!table.learn("1", &blue, LIFE, now));
    assert_eq!((table.len(), blue.sessions()), (0, 0));
}

#[test]
fn full_table_stays_full_and_keeps_sessions_in_use() {
    let (table, blue, start) = (table(10_000), backend("chat", "blue"), Instant::now());
    for n in 0..10_000 {
        table.learn(&format!("old{n}"), &blue, LIFE, start);
    }
    let used = start + LIFE / 2;
    for n in 0..2000 {
        assert!(table.find("chat", &format!("old{n}"), used).is_some());
    }
    for n in 0..2000 {
        assert!(table.learn(&format!("new{n}"), &blue, LIFE, used));
    }
    assert_eq!((table.len(), blue.sessions()), (10_000, 10_000));
    let kept = |kind| {
        (0..2000).filter(|n| table.find("chat", &format!("{kind}{n}"), used).is_some()).count()
    };
    // Even at the end six of ten entries are idle: eight entries in use are drawn once in 1500 times.
    assert!(kept("old") > 1990, "only {} of 2000 sessions in use are kept", kept("old"));
    assert!(kept("new") > 1990, "only {} of 2000 new sessions are kept", kept("new"));
}

#[test]
fn small_table_keeps_its_limit() {
    let (table, blue, now) = (table(3), backend("chat", "blue"), Instant::now());
    for n in 0..100 {
        assert!(table.learn(&n.to_string(), &blue, LIFE, now));
        assert!(table.find("chat", &n.to_string(), now).is_some(), "the newest must be present");
        assert!(table.len() <= 3);
    }
    assert_eq!((table.len(), blue.sessions()), (3, 3));
    finish(table.resize(&SessionsConfig { max: 1, max_sid_bytes: 128 }));
    assert_eq!((table.len(), blue.sessions()), (1, 1));
}

#[test]
fn other_tasks_run_while_a_large_table_shrinks() {
    let (table, blue, now) = (table(10_000), backend("chat", "blue"), Instant::now());
    for n in 0..10_000 {
        table.learn(&n.to_string(), &blue, LIFE, now);
    }
    let limits = SessionsConfig { max: 10, max_sid_bytes: 128 };
    let mut resize = std::pin::pin!(table.resize(&limits));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut left = table.len();
    while resize.as_mut().poll(&mut context).is_pending() {
        assert!((1..=2000).contains(&(left - table.len())), "{left} to {}", table.len());
        left = table.len();
    }
    assert_eq!((table.len(), blue.sessions()), (10, 10));
}

#[test]
fn sessions_of_a_backend_can_be_forgotten() {
    let (table, now) = (table(10_000), Instant::now());
    let (blue, green) = (backend("chat", "blue"), backend("chat", "green"));
    for n in 0..5000 {
        table.learn(&n.to_string(), if n % 5 == 0 { &green } else { &blue }, LIFE, now);
    }
    assert_eq!(finish(table.forget_backend(&blue)), 4000);
    assert_eq!(finish(table.forget_backend(&blue)), 0);
    assert_eq!((table.len(), blue.sessions(), green.sessions()), (1000, 0, 1000));
    assert_eq!(name(table.find("chat", "5", now)).as_deref(), Some("green"));
    assert_eq!(name(table.find("chat", "6", now)), None);
}

#[test]
fn held_session_counts_once_and_cannot_expire() {
    let (table, blue, start) = (table(10), backend("chat", "blue"), Instant::now());
    assert!(table.hold("chat", "abc", start).is_none());
    table.learn("abc", &blue, LIFE, start);
    let first = table.hold("chat", "abc", start).unwrap();
    let second = table.hold("chat", "abc", start).unwrap();
    let late = start + LIFE * 100;
    assert_eq!(sweep_all(&table, late), 0);
    assert_eq!(blue.sessions(), 1);
    drop(first);
    assert_eq!(sweep_all(&table, late), 0);
    assert_eq!(blue.sessions(), 1);
    drop(second);
    assert_eq!((table.len(), blue.sessions()), (1, 0), "recorded but not counted");
    assert_eq!(sweep_all(&table, late + LIFE), 0, "for one lifetime");
    assert_eq!(sweep_all(&table, late + LIFE * 2), 1);
}

#[test]
fn poll_after_the_last_tunnel_counts_the_session_again() {
    let (table, blue, now) = (table(10), backend("chat", "blue"), Instant::now());
    table.learn("abc", &blue, LIFE, now);
    drop(table.hold("chat", "abc", now).unwrap());
    assert_eq!(blue.sessions(), 0);
    assert!(table.find("chat", "abc", now).is_some());
    assert_eq!(blue.sessions(), 1);
    drop(table.hold("chat", "abc", now).unwrap());
    assert_eq!(blue.sessions(), 0);
    let again = table.hold("chat", "abc", now).unwrap();
    assert!(table.find("chat", "abc", now).is_some());
    assert_eq!(blue.sessions(), 1);
    drop(again);
    assert_eq!(blue.sessions(), 0);
}

#[test]
fn tunnel_counts_after_its_entry_was_removed() {
    let (table, now) = (table(10), Instant::now());
    let (blue, green) = (backend("chat", "blue"), backend("chat", "green"));
    table.learn("abc", &blue, LIFE, now);
    let tunnel = table.hold("chat", "abc", now).unwrap();
    table.forget("chat", "abc");
    assert_eq!((table.len(), blue.sessions()), (0, 1));
    table.learn("abc", &green, LIFE, now);
    drop(tunnel);
    assert_eq!((table.len(), blue.sessions(), green.sessions()), (1, 0, 1));
}

#[test]
fn held_entry_is_discarded_last() {
    let (table, blue, now) = (table(2), backend("chat", "blue"), Instant::now());
    table.learn("held", &blue, LIFE, now);
    let held = table.hold("chat", "held", now).unwrap();
    // Two entries of one shard; without the hold, the held entry would be nearer its expiry.
    let twin = (0..)
        .map(|n| format!("free{n}"))
        .find(|sid| table.location("chat", sid).shard == table.location("chat", "held").shard);
    let twin = twin.unwrap();
    table.learn(&twin, &blue, LIFE * 2, now);
    finish(table.resize(&SessionsConfig { max: 1, max_sid_bytes: 128 }));
    assert!(table.find("chat", "held", now).is_some());
    assert!(table.find("chat", &twin, now).is_none());
    assert_eq!(blue.sessions(), 1);
    drop(held);
}

#[test]
fn closed_session_does_not_count_until_it_is_used_again() {
    let (table, blue, now) = (table(10), backend("chat", "blue"), Instant::now());
    table.learn("abc", &blue, LIFE, now);
    table.close("chat", "abc");
    table.close("chat", "unknown");
    assert_eq!((blue.sessions(), table.len()), (0, 1));
    table.find("chat", "abc", now);
    assert_eq!(blue.sessions(), 1);
    // A tunnel counts the session while it is open.
    let hold = table.hold("chat", "abc", now);
    table.close("chat", "abc");
    assert_eq!(blue.sessions(), 1);
    drop(hold);
    assert_eq!(blue.sessions(), 0);
}
