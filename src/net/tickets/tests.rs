//! Sealing and opening tickets, rotation of keys, and damaged tickets.

use proptest::prelude::*;

use super::*;

const NOWHERE: TicketContext = TicketContext(None);

fn made() -> KeyRing {
    KeyRing::new(&SharedKeys::Generated, &[]).unwrap()
}

fn given(names: &[u8]) -> SharedKeys {
    SharedKeys::Configured(names.iter().map(|name| vec![*name; 32]).collect())
}

fn seal(keys: &KeyRing, state: &[u8]) -> Vec<u8> {
    keys.seal(state, NOWHERE, TicketTime::now()).unwrap()
}

fn after(now: TicketTime, time: Duration) -> TicketTime {
    TicketTime { ticks: now.ticks + time, date: now.date + time.as_secs() }
}

fn open(keys: &KeyRing, ticket: &[u8]) -> Option<Vec<u8>> {
    keys.open(ticket, NOWHERE, TicketTime::now())
}

#[test]
fn ticket_opens_with_the_key_that_sealed_it() {
    let ours = made();
    let ticket = seal(&ours, b"state");
    assert_eq!(open(&ours, &ticket).unwrap(), b"state");
    assert_ne!(seal(&ours, b"state"), ticket);
    let keys = serde_json::to_string(&ours.export()).unwrap();
    let keys: Vec<TicketKey> = serde_json::from_str(&keys).unwrap();
    let successor = KeyRing::new(&SharedKeys::Generated, &keys).unwrap();
    assert_eq!(open(&successor, &ticket).unwrap(), b"state");
    assert_eq!(open(&ours, &seal(&successor, b"later")).unwrap(), b"later");
    assert_eq!(open(&made(), &ticket), None);
    let keys = Arc::new(ours);
    let ticketer = Ticketer::new(Arc::clone(&keys), NOWHERE);
    assert_eq!(ticketer.decrypt(&ticket).unwrap(), b"state");
    assert_eq!(open(&keys, &ticketer.encrypt(b"more").unwrap()).unwrap(), b"more");
}

#[test]
fn ticket_opens_in_its_context_only() {
    let keys = Arc::new(made());
    let contexts = [NOWHERE, TicketContext(Some([0; 32])), TicketContext(Some([1; 32]))];
    for made_in in contexts {
        let ticket = Ticketer::new(Arc::clone(&keys), made_in).encrypt(b"state").unwrap();
        for context in contexts {
            let opened = Ticketer::new(Arc::clone(&keys), context).decrypt(&ticket);
            assert_eq!(opened.is_some(), context == made_in, "{made_in:?} in {context:?}");
        }
    }
}

#[test]
fn configured_keys_agree_between_processes_and_rotate_on_exchange() {
    let keys = KeyRing::new(&given(&[1]), &made().export()).unwrap();
    let first = seal(&keys, b"first");
    assert_eq!(open(&KeyRing::new(&given(&[1]), &[]).unwrap(), &first).unwrap(), b"first");
    let later = after(TicketTime::now(), 10 * ACCEPT);
    let again = keys.seal(b"again", NOWHERE, later).unwrap();
    assert_eq!(again[..NAME], first[..NAME], "the key was not replaced");
    assert_eq!(keys.open(&again, NOWHERE, later).unwrap(), b"again");
    assert_eq!(keys.open(&first, NOWHERE, later), None, "tickets expire with configured keys too");
    assert!(keys.export().is_empty(), "the next process reads the same configuration");

    keys.exchange(&given(&[2, 1])).unwrap();
    let second = seal(&keys, b"second");
    assert_ne!(second[..NAME], first[..NAME]);
    assert_eq!(open(&keys, &first).unwrap(), b"first");
    keys.exchange(&given(&[2])).unwrap();
    assert_eq!(open(&keys, &first), None);
    assert_eq!(open(&keys, &second).unwrap(), b"second");

    keys.exchange(&SharedKeys::Generated).unwrap();
    assert_eq!(open(&keys, &second), None);
    let own = seal(&keys, b"own");
    keys.exchange(&SharedKeys::Generated).unwrap();
    assert_eq!(open(&keys, &own).unwrap(), b"own", "generated keys stay");
}

#[test]
fn tickets_expire_by_date_and_clocks_may_differ() {
    for terms in [SharedKeys::Generated, given(&[1])] {
        let keys = KeyRing::new(&terms, &[]).unwrap();
        let now = TicketTime::now();
        let ticket = keys.seal(b"state", NOWHERE, now).unwrap();
        let opens = |date| keys.open(&ticket, NOWHERE, TicketTime { date, ..now }).is_some();
        assert!(opens(now.date + ACCEPT.as_secs() - 1) && !opens(now.date + ACCEPT.as_secs()));
        assert!(opens(now.date - 3600) && opens(0), "the issuer's clock is ahead");
    }
}

#[test]
fn generated_keys_rotate_and_stay_accepted_for_a_while() {
    let keys = made();
    let start = TicketTime::now();
    let seal = |state: &[u8], now| keys.seal(state, NOWHERE, now).unwrap();
    let open = |ticket: &[u8], now| keys.open(ticket, NOWHERE, now);
    let first = seal(b"first", start);
    let later = after(start, ROLL + Duration::from_secs(1));
    let second = seal(b"second", later);
    assert_ne!(second[..NAME], first[..NAME], "the key must have been rotated");
    assert_eq!(seal(b"third", later)[..NAME], second[..NAME]);
    assert_eq!(keys.export().len(), 2);
    assert_eq!(open(&first, later).unwrap(), b"first");
    assert_eq!(open(&second, later).unwrap(), b"second");
    let last = after(start, ACCEPT + Duration::from_secs(1));
    assert_eq!(open(&first, last), None);
    assert_eq!(open(&second, last).unwrap(), b"second");
    // A successor process accepts both.
    let successor = KeyRing::new(&SharedKeys::Generated, &keys.export()).unwrap();
    assert_eq!(successor.open(&first, NOWHERE, start).unwrap(), b"first");
    assert_eq!(successor.open(&second, NOWHERE, start).unwrap(), b"second");
}

#[test]
fn debug_output_contains_no_key() {
    let keys = made();
    let key = &keys.export()[0];
    let text = format!("{keys:?} {key:?}");
    assert!(!text.contains(&format!("{:?}", key.secret)), "{text}");
}

proptest! {
    #[test]
    fn altered_or_random_tickets_do_not_open(
        state in proptest::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        bit in 0..8u32,
        noise in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let keys = made();
        let mut ticket = seal(&keys, &state);
        prop_assert_eq!(open(&keys, &ticket).unwrap(), state);
        prop_assert_eq!(open(&keys, &noise), None);
        for end in 0..ticket.len() {
            prop_assert_eq!(open(&keys, &ticket[..end]), None);
        }
        let place = at.index(ticket.len());
        ticket[place] ^= 1 << bit;
        prop_assert_eq!(open(&keys, &ticket), None);
    }
}
