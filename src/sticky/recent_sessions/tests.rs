use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use proptest::prelude::*;

use super::*;

const WINDOW: Duration = Duration::from_secs(120);

fn client(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

#[test]
fn client_key_depends_on_pool_address_and_user_agent() {
    let memory = RecentSessions::new();
    let key = memory.key("chat", client(1), b"node");
    assert_eq!(memory.key("chat", client(1), b"node"), key);
    let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
    assert_eq!(memory.key("chat", mapped, b"node"), key);
    for other in [
        memory.key("game", client(1), b"node"),
        memory.key("chat", client(2), b"node"),
        memory.key("chat", client(1), b"nodf"),
        RecentSessions::new().key("chat", client(1), b"node"),
    ] {
        assert_ne!(other, key);
    }
}

#[test]
fn each_return_consumes_one_ending() {
    let (memory, now) = (RecentSessions::new(), Instant::now());
    let key = memory.key("chat", client(1), b"");
    assert_eq!(memory.recall(key, WINDOW, now), Recalled::Unknown);
    memory.record(key, 7, now);
    memory.record(key, 7, now);
    for _ in 0..2 {
        assert_eq!(memory.recall(key, WINDOW, now), Recalled::On(7));
        drop(memory.consume(key, 7, WINDOW, now).unwrap());
        assert_eq!(memory.recall(key, WINDOW, now), Recalled::On(7), "the return failed");
        memory.consume(key, 7, WINDOW, now).unwrap().succeeded();
    }
    assert!(memory.consume(key, 7, WINDOW, now).is_none());
    assert_eq!(memory.recall(key, WINDOW, now), Recalled::Unknown);
}

#[test]
fn endings_on_two_backends_at_about_one_time_are_ambiguous() {
    let (memory, start) = (RecentSessions::new(), Instant::now());
    let key = memory.key("chat", client(1), b"");
    memory.record(key, 7, start);
    let later = start + TOGETHER;
    memory.record(key, 8, later);
    for at in [later, start + WINDOW] {
        assert_eq!(memory.recall(key, WINDOW, at), Recalled::Ambiguous);
    }
    let after = start + WINDOW + Duration::from_millis(1);
    assert_eq!(memory.recall(key, WINDOW, after), Recalled::On(8));
    assert_eq!(memory.recall(key, WINDOW, start + WINDOW * 2), Recalled::Unknown);
}

#[test]
fn unused_ending_does_not_hide_a_newer_one() {
    let (memory, start) = (RecentSessions::new(), Instant::now());
    let key = memory.key("chat", client(1), b"");
    memory.record(key, 7, start);
    for n in 1..5 {
        let now = start + 2 * TOGETHER * n;
        memory.record(key, 8, now);
        assert_eq!(memory.recall(key, WINDOW, now), Recalled::On(8));
        memory.consume(key, 8, WINDOW, now).unwrap().succeeded();
        assert_eq!(memory.recall(key, WINDOW, now), Recalled::On(7));
    }
}

#[test]
fn latest_ending_is_consumed_first() {
    let (memory, start) = (RecentSessions::new(), Instant::now());
    let key = memory.key("chat", client(1), b"");
    let later = start + WINDOW / 2;
    memory.record(key, 7, start);
    memory.record(key, 7, later);
    memory.consume(key, 7, WINDOW, later).unwrap().succeeded();
    let after = start + WINDOW + Duration::from_millis(1);
    assert_eq!(memory.recall(key, WINDOW, after), Recalled::Unknown);
}

#[test]
fn store_is_bounded_and_overwrites_the_oldest() {
    let (memory, now) = (RecentSessions::new(), Instant::now());
    let first = memory.key("chat", client(1), b"first");
    memory.record(first, 1, now);
    let mut last = first;
    for n in 0..200_000u32 {
        last = memory.key("chat", client(1), &n.to_le_bytes());
        memory.record(last, 2, now);
    }
    let kept = memory.export(now).endings.len();
    assert_eq!(kept, SHARDS * PER_SHARD);
    assert_eq!(memory.recall(first, WINDOW, now), Recalled::Unknown);
    assert_eq!(memory.recall(last, WINDOW, now), Recalled::On(2));
}

#[test]
fn another_process_imports_endings_and_receives_later_ones() {
    let (old, new, now) = (RecentSessions::new(), RecentSessions::new(), Instant::now());
    let key = old.key("chat", client(1), b"node");
    old.record(key, 7, now);
    let later = now + Duration::from_secs(60);
    let export = serde_json::to_string(&old.export(later)).unwrap();
    assert!(new.import(serde_json::from_str(&export).unwrap(), later));
    assert_eq!(new.key("chat", client(1), b"node"), key);
    assert_eq!(new.recall(key, WINDOW, later), Recalled::On(7));
    assert_eq!(new.recall(key, WINDOW, later + WINDOW), Recalled::Unknown, "the ending is too old");

    let (successor, reported) = (Arc::clone(&new), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&reported);
    old.set_listener(move |ending| {
        count.fetch_add(1, SeqCst);
        successor.learn(ending, Instant::now());
    });
    let other = old.key("chat", client(2), b"node");
    old.record(other, 8, Instant::now());
    assert_eq!(reported.load(SeqCst), 1);
    assert_eq!(new.recall(other, WINDOW, Instant::now()), Recalled::On(8));
    let none = RecentSessionsExport { secret: vec![1; 3], endings: Vec::new() };
    assert!(!new.import(none, now));
}

proptest! {
    /// Compares with a plain list of endings.
    #[test]
    fn recall_agrees_with_a_list(
        steps in prop::collection::vec((0..3u8, 0..3u64, 0..50u64, any::<bool>()), 1..100),
    ) {
        let (memory, start) = (RecentSessions::new(), Instant::now());
        let mut model: Vec<(u8, u64, u64)> = Vec::new();
        let mut clock = 0;
        for (client_index, backend, pause, ends) in steps {
            clock += pause;
            let now = start + Duration::from_secs(clock);
            let key = memory.key("chat", client(client_index), b"");
            if ends {
                memory.record(key, backend, now);
                model.push((client_index, backend, clock));
                continue;
            }
            let of_late = |it: &&(u8, u64, u64)| it.0 == client_index && clock - it.2 <= 120;
            // The latest one; of several at one time, the one recorded last.
            let last = model.iter().filter(of_late).max_by_key(|it| it.2).copied();
            let expected = match last {
                None => Recalled::Unknown,
                Some((_, on, at))
                    if model
                        .iter()
                        .filter(of_late)
                        .any(|it| it.1 != on && at - it.2 <= TOGETHER.as_secs()) =>
                {
                    Recalled::Ambiguous
                }
                Some((_, on, _)) => Recalled::On(on),
            };
            prop_assert_eq!(memory.recall(key, WINDOW, now), expected);
            if let Recalled::On(backend) = expected {
                memory.consume(key, backend, WINDOW, now).unwrap().succeeded();
                let is_it = |(_, it): &(usize, &(u8, u64, u64))| of_late(it) && it.1 == backend;
                let last = model.iter().enumerate().filter(is_it).max_by_key(|(_, it)| it.2);
                let (at, _) = last.unwrap();
                model.remove(at);
            }
        }
    }
}
