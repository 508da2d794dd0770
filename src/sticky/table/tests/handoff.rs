//! Reading sessions out of the table, and restoring them in another.

use std::collections::HashMap;

use super::*;

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
fn table_is_read_and_restored_in_slices() {
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
    // The limit applies.
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
