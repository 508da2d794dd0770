//! Tests the table with a simulated clock and against a simple model.

use std::{collections::HashMap, sync::Barrier, thread};

use proptest::prelude::*;

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
        &config::BackendConfig { name: name.to_owned(), address, weight: 1 },
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
fn only_sids_within_bounds_are_recorded() {
    let (table, blue, now) = (table(10), backend("chat", "blue"), Instant::now());
    assert!(!table.learn("", &blue, LIFE, now));
    assert!(!table.learn(&"x".repeat(129), &blue, LIFE, now));
    for length in [1, 21, 22, 23, 36, 128] {
        let sid = "ö".repeat(length)[..length & !1].to_owned() + "y";
        let sid = &sid[..sid.len().min(128)];
        assert!(table.learn(sid, &blue, LIFE, now));
        assert!(table.find("chat", sid, now).is_some(), "{length}");
    }
    table.resize(&SessionsConfig { max: 10, max_sid_bytes: 4 });
    assert!(!table.learn("12345", &blue, LIFE, now));
    table.resize(&SessionsConfig { max: 0, max_sid_bytes: 128 });
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
fn tiny_table_keeps_its_bound() {
    let (table, blue, now) = (table(3), backend("chat", "blue"), Instant::now());
    for n in 0..100 {
        assert!(table.learn(&n.to_string(), &blue, LIFE, now));
        assert!(table.find("chat", &n.to_string(), now).is_some(), "the newest must be present");
        assert!(table.len() <= 3);
    }
    assert_eq!((table.len(), blue.sessions()), (3, 3));
    table.resize(&SessionsConfig { max: 1, max_sid_bytes: 128 });
    assert_eq!((table.len(), blue.sessions()), (1, 1));
}

#[test]
fn sessions_of_a_backend_can_be_forgotten() {
    let (table, now) = (table(10_000), Instant::now());
    let (blue, green) = (backend("chat", "blue"), backend("chat", "green"));
    for n in 0..5000 {
        table.learn(&n.to_string(), if n % 5 == 0 { &green } else { &blue }, LIFE, now);
    }
    assert_eq!(table.forget_backend(&blue), 4000);
    assert_eq!(table.forget_backend(&blue), 0);
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
fn tunnel_counts_whatever_happens_to_its_entry() {
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
    table.resize(&SessionsConfig { max: 1, max_sid_bytes: 128 });
    assert!(table.find("chat", "held", now).is_some());
    assert!(table.find("chat", &twin, now).is_none());
    assert_eq!(blue.sessions(), 1);
    drop(held);
}

#[test]
fn concurrent_threads_agree_on_the_count() {
    let (table, blue, now) = (table(50), backend("chat", "blue"), Instant::now());
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for seed in 0..4 {
            let (table, blue, start) = (&table, &blue, &start);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut tunnels = Vec::new();
                start.wait();
                for _ in 0..20_000 {
                    let sid = random.u8(..80).to_string();
                    match random.u8(..6) {
                        0 => drop(table.learn(&sid, blue, LIFE, now)),
                        1 => drop(table.find("chat", &sid, now)),
                        2 => tunnels.extend(table.hold("chat", &sid, now)),
                        3 if !tunnels.is_empty() => {
                            drop(tunnels.swap_remove(random.usize(..tunnels.len())));
                        }
                        4 => table.forget("chat", &sid),
                        _ => drop(table.sweep(now)),
                    }
                }
            });
        }
    });
    assert!(table.len() <= 50);
    // All tunnels have ended, so only entries count, each at most once.
    assert!(blue.sessions() <= table.len());
    let found = (0..80).filter(|n: &u8| table.find("chat", &n.to_string(), now).is_some()).count();
    assert_eq!((found, found), (table.len(), blue.sessions()));
    assert_eq!(table.forget_backend(&blue), found);
    assert_eq!((table.len(), blue.sessions()), (0, 0));
}

/// Expected state of one session's entry.
#[derive(Default)]
struct Model {
    /// Backend, expiry in seconds, counted; the lifetime is always 10 s.
    entry: Option<(usize, u64, bool)>,
    tunnels: Vec<SessionHold>,
}

#[derive(Clone, Debug)]
enum TableStep {
    Learn(u8, usize),
    Find(u8),
    Hold(u8),
    End(u8),
    Forget(u8),
    ForgetBackend(usize),
    Wait(u64),
    Sweep,
}

fn step() -> impl Strategy<Value = TableStep> {
    let sid = 0u8..4;
    prop_oneof![
        (sid.clone(), 0usize..2).prop_map(|(sid, on)| TableStep::Learn(sid, on)),
        sid.clone().prop_map(TableStep::Find),
        sid.clone().prop_map(TableStep::Hold),
        sid.clone().prop_map(TableStep::End),
        sid.prop_map(TableStep::Forget),
        (0usize..2).prop_map(TableStep::ForgetBackend),
        (0u64..12).prop_map(TableStep::Wait),
        Just(TableStep::Sweep),
    ]
}

proptest! {
    /// All tunnels of a session are on one backend: before a session is learned elsewhere or forgotten, its tunnels
    /// are closed.
    #[test]
    fn table_agrees_with_the_model(steps in proptest::collection::vec(step(), 1..80)) {
        let (table, start) = (table(1000), Instant::now());
        let backends = [backend("chat", "blue"), backend("chat", "green")];
        let mut models: HashMap<u8, Model> = HashMap::new();
        let mut clock = 0;
        for step in steps {
            let now = start + Duration::from_secs(clock);
            let alive = |model: &Model| {
                model.entry.filter(|it| !model.tunnels.is_empty() || it.1 >= clock)
            };
            match step {
                TableStep::Learn(sid, on) => {
                    let model = models.entry(sid).or_default();
                    if model.entry.is_some_and(|it| it.0 != on) {
                        model.tunnels.clear();
                    }
                    prop_assert!(table.learn(&sid.to_string(), &backends[on], Duration::from_secs(10), now));
                    model.entry = Some((on, clock + 10, true));
                }
                TableStep::Find(sid) => {
                    let model = models.entry(sid).or_default();
                    model.entry = alive(model).map(|it| (it.0, clock + 10, true));
                    let found = table.find("chat", &sid.to_string(), now);
                    prop_assert_eq!(
                        found.map(|known| known.backend.serial()),
                        model.entry.map(|it| backends[it.0].serial())
                    );
                }
                TableStep::Hold(sid) => {
                    let model = models.entry(sid).or_default();
                    model.entry = alive(model).map(|it| (it.0, clock + 10, true));
                    let held = table.hold("chat", &sid.to_string(), now);
                    prop_assert_eq!(held.is_some(), model.entry.is_some());
                    model.tunnels.extend(held);
                }
                TableStep::End(sid) => {
                    let model = models.entry(sid).or_default();
                    // A sweep that removes nothing advances the table's clock.
                    model.entry = alive(model);
                    table.sweep(now);
                    if model.tunnels.pop().is_some() && model.tunnels.is_empty() {
                        model.entry = model.entry.map(|it| (it.0, clock + 10, false));
                    }
                }
                TableStep::Forget(sid) => {
                    table.sweep(now);
                    models.insert(sid, Model::default());
                    table.forget("chat", &sid.to_string());
                }
                TableStep::ForgetBackend(on) => {
                    models.retain(|_, model| model.entry.is_none_or(|it| it.0 != on));
                    table.forget_backend(&backends[on]);
                }
                TableStep::Wait(seconds) => clock += seconds,
                TableStep::Sweep => drop(sweep_all(&table, now)),
            }
            // Expired entries are removed only by a use or a full sweep: bring both sides into line.
            let now = start + Duration::from_secs(clock);
            sweep_all(&table, now);
            for model in models.values_mut() {
                model.entry = model.entry.filter(|it| !model.tunnels.is_empty() || it.1 >= clock);
            }
            let entries = models.values().filter_map(|model| model.entry);
            prop_assert_eq!(table.len(), entries.clone().count());
            for (at, backend) in backends.iter().enumerate() {
                let counted = entries.clone().filter(|it| it.0 == at && it.2).count();
                prop_assert_eq!(backend.sessions(), counted);
            }
        }
    }
}

/// Returns everything in the table, by sid.
fn read(table: &SessionTable, now: Instant) -> HashMap<Box<str>, Learned> {
    let mut cursor = Cursor::default();
    let mut all = HashMap::new();
    while let Some(slice) = table.slice(&mut cursor, now) {
        assert!(slice.len() <= 256, "{}", slice.len());
        all.extend(slice.into_iter().map(|learned| (learned.sid.clone(), learned)));
    }
    all
}

#[test]
fn table_is_handed_on_slice_by_slice() {
    let (old, blue, start) = (table(200_000), backend("chat", "blue"), Instant::now());
    for n in 0..100_000 {
        old.learn(&format!("session-number-{n}"), &blue, LIFE, start);
    }
    old.learn("short", &blue, LIFE / 2, start);
    old.learn("held", &blue, LIFE, start);
    let _hold = old.hold("chat", "held", start).unwrap();
    let later = start + LIFE / 3;
    let all = read(&old, later);
    assert_eq!(all.len(), 100_002);
    let left = |sid: &str| all[sid].left.as_millis();
    let third = LIFE.as_millis() / 3;
    assert_eq!(left("session-number-7"), LIFE.as_millis() - third);
    assert_eq!(left("short"), LIFE.as_millis() / 2 - third);
    assert_eq!(left("held"), LIFE.as_millis());
    assert_eq!(read(&old, start + LIFE / 2 + Duration::from_millis(2)).len(), 100_001);
    let (new, green) = (table(200_000), backend("chat", "blue"));
    for learned in all.values() {
        assert!(new.restore(&Learned { backend: Arc::clone(&green), ..learned.clone() }, later));
    }
    assert_eq!((new.len(), green.sessions()), (100_002, 100_002));
    assert!(new.find("chat", "session-number-7", later).is_some());
    // The remaining lifetime is preserved, and a use extends it fully.
    assert!(new.find("chat", "session-number-8", start + LIFE).is_some());
    assert!(new.find("chat", "short", start + LIFE / 2 + Duration::from_millis(2)).is_none());
    assert!(new.find("chat", "session-number-8", start + LIFE * 2).is_some());
    assert!(new.find("chat", "session-number-9", start + LIFE * 2).is_none());
}

#[test]
fn known_sessions_are_not_overwritten_by_restored_ones() {
    let (table, now) = (table(10), Instant::now());
    let (blue, green) = (backend("chat", "blue"), backend("chat", "green"));
    table.learn("abc", &blue, LIFE, now);
    let learned = |sid: &str, left| Learned {
        sid: sid.into(),
        backend: Arc::clone(&green),
        lifetime: LIFE,
        left,
        client: None,
    };
    assert!(table.restore(&learned("abc", LIFE), now));
    assert_eq!(name(table.find("chat", "abc", now)).as_deref(), Some("blue"));
    // Expired sessions are overwritten.
    let later = now + LIFE * 2;
    assert!(table.restore(&learned("abc", LIFE), later));
    assert_eq!(name(table.find("chat", "abc", later)).as_deref(), Some("green"));
    assert_eq!((table.len(), blue.sessions(), green.sessions()), (1, 0, 1));
    assert!(!table.restore(&learned("", LIFE), now));
    assert!(!table.restore(&learned(&"x".repeat(129), LIFE), now));
    // The bound applies.
    for n in 0..50 {
        table.restore(&learned(&n.to_string(), LIFE), later);
    }
    assert_eq!(table.len(), 10);
}

#[test]
fn client_that_opened_a_session_is_recorded_with_it() {
    let (table, blue, now) = (table(10), backend("chat", "blue"), Instant::now());
    let client = Some(ClientKey::from_bits(7));
    table.learn_from(Opener { key: client, address: None }, "abc", &blue, LIFE, now);
    table.learn("none", &blue, LIFE, now);
    let known = |table: &SessionTable, sid| table.find("chat", sid, now).unwrap().client;
    assert_eq!((known(&table, "abc"), known(&table, "none")), (client, None));
    // A renewal without a client keeps the known client.
    table.learn("abc", &blue, LIFE, now);
    assert_eq!(known(&table, "abc"), client);
    let next = self::table(10);
    for learned in read(&table, now).values() {
        next.restore(learned, now);
    }
    assert_eq!((known(&next, "abc"), known(&next, "none")), (client, None));
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

#[test]
fn tap_receives_learned_sessions_until_it_is_closed() {
    let (table, blue, now) = (table(10), backend("chat", "blue"), Instant::now());
    table.learn("before", &blue, LIFE, now);
    let mut tap = table.tap();
    table.learn("after", &blue, LIFE, now);
    table.learn("after", &blue, LIFE, now);
    let (sid, backend) = ("restored".into(), Arc::clone(&blue));
    let restored = Learned { sid, backend, lifetime: LIFE, left: LIFE, client: None };
    table.restore(&restored, now);
    let received: Vec<_> = std::iter::from_fn(|| tap.try_recv().ok()).map(|l| l.sid).collect();
    assert_eq!(received, ["after".into(), "restored".into()]);
    drop(tap);
    table.learn("later", &blue, LIFE, now);
    assert!(table.tap.load().is_none());
}
