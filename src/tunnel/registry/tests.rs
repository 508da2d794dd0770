use proptest::prelude::*;

use super::*;

const CLIENT: &str = "192.0.2.1:4711";

fn enter(registry: &Arc<TunnelRegistry>, backend: u64) -> TunnelTicket {
    registry.enter(backend, CLIENT.parse().unwrap(), true)
}

fn enter_unframed(registry: &Arc<TunnelRegistry>, backend: u64) -> TunnelTicket {
    registry.enter(backend, CLIENT.parse().unwrap(), false)
}

fn order(ticket: &TunnelTicket) -> Option<TunnelCommand> {
    ticket.handle.command()
}

#[test]
fn a_registration_is_small() {
    assert!(
        size_of::<TunnelHandle>() <= 64
            && size_of::<TunnelSlot>() <= 16
            && size_of::<TunnelTicket>() <= 24
    );
}

#[test]
fn unframed_tunnels_are_closed_by_drains_but_not_by_rebalancing() {
    let registry = Arc::new(TunnelRegistry::default());
    let framed: Vec<TunnelTicket> = (0..10).map(|_| enter(&registry, 3)).collect();
    let unframed: Vec<TunnelTicket> = (0..30).map(|_| enter_unframed(&registry, 3)).collect();
    assert_eq!((registry.of(3), registry.staying(3), registry.closable(3)), (40, 40, 10));
    assert_eq!(registry.close(3, 25, CloseReason::Rebalanced), 10);
    assert!(framed.iter().all(|ticket| order(ticket).is_some()));
    assert!(unframed.iter().all(|ticket| order(ticket).is_none()));
    drop(framed);
    let _more: Vec<TunnelTicket> = (0..10).map(|_| enter(&registry, 3)).collect();
    assert_eq!(registry.close(3, 20, CloseReason::Drained), 20);
    let ordered = unframed.iter().filter(|ticket| order(ticket).is_some()).count();
    assert!((5..=20).contains(&ordered), "drawn from both: {ordered}");
    assert_eq!((registry.staying(3), registry.cut(3)), (20, 40));
    let framed = registry.list(3, 10).iter().filter(|tunnel| tunnel.framed).count();
    assert_eq!((framed, registry.list(3, 50).len()), (5, 40), "both kinds are listed");
    drop(unframed);
    assert_eq!((registry.of(3), registry.list(3, 50).len()), (10, 10));
}

#[test]
fn tunnels_are_drawn_at_random_and_none_twice() {
    let registry = Arc::new(TunnelRegistry::default());
    let tickets: Vec<TunnelTicket> = (0..100).map(|_| enter(&registry, 3)).collect();
    let _other = enter(&registry, 4);
    assert_eq!(registry.close(3, 30, CloseReason::Rebalanced), 30);
    assert_eq!((registry.of(3), registry.staying(3), registry.all_staying()), (100, 70, 71));
    let ordered = |reason| {
        let wanted = Some(TunnelCommand::Close(reason));
        tickets.iter().filter(|ticket| order(ticket) == wanted).count()
    };
    assert_eq!(ordered(CloseReason::Rebalanced), 30);
    let first = tickets.iter().take(30);
    assert!(first.filter(|t| order(t).is_some()).count() < 30, "not only the oldest");
    assert_eq!(registry.close(3, 100, CloseReason::Drained), 70);
    assert_eq!((ordered(CloseReason::Rebalanced), ordered(CloseReason::Drained)), (30, 70));
    assert_eq!(registry.close(3, 1, CloseReason::Drained), 0);
    assert_eq!(registry.close(5, 1, CloseReason::Drained), 0);
    drop(tickets);
    assert_eq!((registry.of(3), registry.len()), (0, 1));
}

#[test]
fn close_any_takes_a_share_of_each_backend() {
    let registry = Arc::new(TunnelRegistry::default());
    let _many: Vec<TunnelTicket> = (0..90).map(|_| enter(&registry, 1)).collect();
    let _few: Vec<TunnelTicket> = (0..10).map(|_| enter(&registry, 2)).collect();
    assert_eq!(registry.close_any(50, CloseReason::Drained), 50);
    assert!((44..=46).contains(&registry.staying(1)), "{}", registry.staying(1));
    assert_eq!(registry.close_any(usize::MAX / 2, CloseReason::Drained), 50);
    assert_eq!(registry.close_any(1, CloseReason::Drained), 0);
}

#[test]
fn a_cut_keeps_the_reason_of_an_earlier_close() {
    let registry = Arc::new(TunnelRegistry::default());
    let (closed, open) = (enter(&registry, 1), enter(&registry, 1));
    let id = registry.list(1, 9).iter().map(|tunnel| tunnel.id).min().unwrap();
    assert!(registry.close_one(id, CloseReason::Operator));
    assert_eq!(order(&closed), Some(TunnelCommand::Close(CloseReason::Operator)));
    assert_eq!(order(&open), None);
    assert_eq!(registry.cut_all(), 2);
    assert_eq!(order(&closed), Some(TunnelCommand::Cut(Some(CloseReason::Operator))));
    assert_eq!(order(&open), Some(TunnelCommand::Cut(None)));
    drop(closed);
    assert!(!registry.close_one(id, CloseReason::Operator));
}

#[tokio::test(start_paused = true)]
async fn tunnels_are_listed_with_client_and_age() {
    let registry = Arc::new(TunnelRegistry::default());
    let _tickets: Vec<TunnelTicket> = (0..5).map(|_| enter(&registry, 1)).collect();
    tokio::time::advance(Duration::from_secs(7)).await;
    let listed = registry.list(1, 3);
    assert_eq!((listed.len(), registry.list(2, 3).len()), (3, 0));
    for tunnel in listed {
        assert_eq!((tunnel.backend, tunnel.client), (1, CLIENT.parse().unwrap()));
        assert_eq!(tunnel.age.as_secs_f64().round() as u64, 7);
        assert_eq!(tunnel.id.to_string().parse(), Ok(tunnel.id));
    }
    for text in ["", "t", "x1", "t+1", "t11111111111111111"] {
        assert_eq!(text.parse::<TunnelId>(), Err(()), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn old_tunnels_are_closed_over_the_last_tenth_of_their_limit() {
    let registry = Arc::new(TunnelRegistry::default());
    let _old: Vec<TunnelTicket> = (0..1000).map(|_| enter(&registry, 1)).collect();
    let _spared = enter(&registry, 1 + SHARDS as u64);
    let limit = AgeLimit { limit: Duration::from_secs(100), since: Instant::now() };
    let limit = |backend| (backend == 1).then_some(limit);
    let close = || registry.close_aged(1, limit);
    tokio::time::advance(Duration::from_secs(89)).await;
    let _young = enter(&registry, 1);
    assert_eq!((close(), registry.close_aged(2, limit)), (0, 0));
    let mut total = 0;
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(1)).await;
        let closed = close();
        assert!(total == 0 || (50..150).contains(&closed), "{closed}");
        total += closed;
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(total + close(), 1000);
    assert_eq!(registry.staying(1), 1, "the young tunnel");
}

#[tokio::test(start_paused = true)]
async fn a_new_limit_closes_no_tunnel_at_once() {
    let registry = Arc::new(TunnelRegistry::default());
    let _old: Vec<TunnelTicket> = (0..1000).map(|_| enter(&registry, 1)).collect();
    tokio::time::advance(Duration::from_secs(7 * 86_400)).await;
    let limit = AgeLimit { limit: Duration::from_secs(100), since: Instant::now() };
    let mut total = registry.close_aged(1, |_| Some(limit));
    assert_eq!(total, 0);
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(1)).await;
        let closed = registry.close_aged(1, |_| Some(limit));
        assert!((50..150).contains(&closed), "{closed}");
        total += closed;
    }
    assert_eq!(total, 1000);
}

#[test]
fn a_tunnel_that_is_closed_twice_is_cut() {
    let registry = Arc::new(TunnelRegistry::default());
    let (ticket, other) = (enter(&registry, 1), enter(&registry, 1));
    let id = registry.list(1, 9).iter().map(|tunnel| tunnel.id).min().unwrap();
    assert!(registry.close_one(id, CloseReason::Operator));
    assert_eq!(order(&ticket), Some(TunnelCommand::Close(CloseReason::Operator)));
    assert!(registry.close_one(id, CloseReason::Operator));
    assert_eq!(order(&ticket), Some(TunnelCommand::Cut(Some(CloseReason::Operator))));
    assert_eq!((order(&other), registry.staying(1)), (None, 1));
}

proptest! {
    #[test]
    fn each_registration_is_found_after_any_steps(
        steps in prop::collection::vec((0..4_u8, any::<prop::sample::Index>()), 1..200),
    ) {
        let registry = Arc::new(TunnelRegistry::default());
        let mut tickets: Vec<TunnelTicket> = Vec::new();
        for (step, index) in steps {
            match step {
                0 | 1 => tickets.push(enter(&registry, 1)),
                2 => {
                    registry.close(1, 1, CloseReason::Drained);
                }
                _ if tickets.is_empty() => {}
                _ => drop(tickets.swap_remove(index.index(tickets.len()))),
            }
            let free = tickets.iter().filter(|ticket| order(ticket).is_none()).count();
            prop_assert_eq!((registry.of(1), registry.staying(1)), (tickets.len(), free));
            let shard = registry.shard(1);
            let slots = shard.get(&1).map_or(&[][..], |member| &member.framed.entries);
            for (at, slot) in slots.iter().enumerate() {
                prop_assert_eq!(slot.handle.at.load(Ordering::Relaxed) as usize, at);
                prop_assert_eq!(slot.handle.command().is_none(), at < free);
            }
        }
    }
}
