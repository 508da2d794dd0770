//! Picks compared with a linear search, fairness, and concurrent changes.

use std::sync::{
    Arc, Barrier,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use proptest::{prelude::*, sample::Index};

use super::{Shape, Tournament};
use crate::upstream::load::{Lifecycle, Load};

fn loads(weights: &[u32]) -> Vec<Arc<Load>> {
    weights.iter().map(|&weight| Arc::new(Load::new(weight))).collect()
}

/// What a tournament should pick, by a linear search.
fn linear_search(tournament: &Tournament, tried: &[u32]) -> Option<u32> {
    (0..tournament.leaves.len() as u32)
        .filter(|index| tournament.leaf(*index).load.accepts_new() && !tried.contains(index))
        .reduce(|a, b| tournament.better(a, b))
}

fn is_consistent(tournament: &Tournament) -> bool {
    (Shape::ROOT..tournament.shape.inner()).all(|node| {
        let (left, right) = (tournament.winner(2 * node), tournament.winner(2 * node + 1));
        tournament.winner(node) == tournament.better(left, right)
    })
}

fn hold(tournament: &Tournament, index: u32) {
    tournament.leaf(index).load.add_session();
    tournament.load_changed(index);
}

fn release(tournament: &Tournament, index: u32) {
    tournament.leaf(index).load.remove_session();
    tournament.load_changed(index);
}

fn counts(tournament: &Tournament, picks: usize) -> Vec<usize> {
    let mut counts = vec![0; tournament.leaves.len()];
    for _ in 0..picks {
        counts[tournament.pick(&[]).unwrap() as usize] += 1;
    }
    counts
}

#[test]
fn equal_backends_are_picked_in_turn() {
    for backends in 1..20 {
        let tournament = Tournament::least_sessions(loads(&vec![1; backends]));
        let round: Vec<_> = (0..backends).map(|_| tournament.pick(&[])).collect();
        for _ in 0..3 {
            let again: Vec<_> = (0..backends).map(|_| tournament.pick(&[])).collect();
            assert_eq!(again, round);
        }
        assert_eq!(counts(&tournament, backends), vec![1; backends]);
    }
}

#[test]
fn every_round_gives_each_backend_its_weight() {
    let weights = [5, 1, 1, 3];
    let tournament = Tournament::round_robin(loads(&weights));
    for _ in 0..1000 {
        assert_eq!(counts(&tournament, 10), [5, 1, 1, 3]);
    }
}

#[test]
fn turns_of_a_heavy_backend_are_spread_over_the_round() {
    let tournament = Tournament::round_robin(loads(&[4, 1, 1, 1, 1]));
    let picks: Vec<_> = (0..80).filter_map(|_| tournament.pick(&[])).collect();
    let longest = picks.chunk_by(|a, b| a == b).map(<[u32]>::len).max();
    assert!(longest <= Some(2), "{picks:?}");
}

#[test]
fn turns_continue_when_passes_wrap_around() {
    let tournament = Tournament::round_robin(loads(&[1, 2, 3]));
    let near_the_end = u64::MAX - 10 * super::STRIDE;
    tournament.clock.store(near_the_end, SeqCst);
    for leaf in &tournament.leaves {
        leaf.order.fetch_add(near_the_end, SeqCst);
    }
    tournament.rebuild();
    for _ in 0..100 {
        assert_eq!(counts(&tournament, 6), [1, 2, 3]);
    }
}

#[test]
fn a_recovered_backend_gets_no_extra_turns_for_its_downtime() {
    let weights = [1, 1, 1];
    let tournament = Tournament::round_robin(loads(&weights));
    tournament.leaf(0).load.record_check(false, 1, 1);
    tournament.state_changed(0);
    assert_eq!(counts(&tournament, 1000), [0, 500, 500]);
    tournament.leaf(0).load.record_check(true, 1, 1);
    tournament.state_changed(0);
    let after = counts(&tournament, 30);
    assert!(after.iter().all(|turns| turns.abs_diff(10) <= 1), "{after:?}");
}

#[test]
fn a_flapping_backend_gets_no_more_than_its_turns() {
    let tournament = Tournament::round_robin(loads(&[1, 1]));
    let mut turns = [0; 2];
    for _ in 0..100 {
        for healthy in [false, true] {
            tournament.leaf(0).load.record_check(healthy, 1, 1);
            tournament.state_changed(0);
        }
        turns[tournament.pick(&[]).unwrap() as usize] += 1;
    }
    assert!(turns[0] <= 51, "{turns:?}");
}

#[test]
fn sessions_follow_weights_through_churn() {
    let weights = [1, 2, 3, 10];
    let tournament = Tournament::least_sessions(loads(&weights));
    let mut held: Vec<u32> = Vec::new();
    for _ in 0..1600 {
        let index = tournament.pick(&[]).unwrap();
        hold(&tournament, index);
        held.push(index);
    }
    // All sessions of one backend end, and as many new ones begin.
    let (gone, stay): (Vec<u32>, Vec<u32>) = held.into_iter().partition(|index| *index == 3);
    gone.iter().for_each(|index| release(&tournament, *index));
    assert_eq!((gone.len(), stay.len()), (1000, 600));
    for _ in 0..1000 {
        let index = tournament.pick(&[]).unwrap();
        assert_eq!(index, 3);
        hold(&tournament, index);
    }
    let sessions: Vec<u32> = tournament.leaves.iter().map(|s| s.load.sessions()).collect();
    assert_eq!(sessions, [100, 200, 300, 1000]);
}

#[test]
fn a_pick_skips_a_failed_backend_before_the_selector_is_notified() {
    let tournament = Tournament::least_sessions(loads(&[1, 1, 1]));
    let first = linear_search(&tournament, &[]).unwrap();
    tournament.leaf(first).load.record_check(false, 1, 1);
    let picked = tournament.pick(&[]).unwrap();
    assert_ne!(picked, first);
}

#[derive(Clone, Debug)]
enum TournamentStep {
    Pick(Vec<Index>),
    Release(Index),
    Check(Index, bool),
    Lifecycle(Index, bool),
    Weight(Index, u32),
}

fn step() -> impl Strategy<Value = TournamentStep> {
    let index = any::<Index>;
    prop_oneof![
        4 => prop::collection::vec(index(), 0..4).prop_map(TournamentStep::Pick),
        2 => index().prop_map(TournamentStep::Release),
        1 => (index(), any::<bool>()).prop_map(|(i, healthy)| TournamentStep::Check(i, healthy)),
        1 => (index(), any::<bool>()).prop_map(|(i, serving)| TournamentStep::Lifecycle(i, serving)),
        1 => (index(), 1..20u32).prop_map(|(i, weight)| TournamentStep::Weight(i, weight)),
    ]
}

fn take(tournament: &Tournament, step: TournamentStep, held: &mut Vec<u32>) {
    let count = tournament.leaves.len();
    let changed = |index: Index, change: &dyn Fn(&Load)| {
        let index = index.index(count) as u32;
        change(&tournament.leaf(index).load);
        tournament.state_changed(index);
    };
    match step {
        TournamentStep::Pick(tried) => {
            let tried: Vec<u32> = tried.iter().map(|i| i.index(count) as u32).collect();
            let expected = linear_search(tournament, &tried);
            assert_eq!(tournament.pick(&tried), expected);
            if let Some(index) = expected {
                hold(tournament, index);
                held.push(index);
            }
        }
        TournamentStep::Release(_) if held.is_empty() => {}
        TournamentStep::Release(index) => {
            release(tournament, held.swap_remove(index.index(held.len())));
        }
        TournamentStep::Check(index, healthy) => changed(index, &|load| {
            load.record_check(healthy, 1, 1);
        }),
        TournamentStep::Lifecycle(index, serving) => changed(index, &|load| {
            load.set_lifecycle(if serving { Lifecycle::Serving } else { Lifecycle::Draining });
        }),
        TournamentStep::Weight(index, weight) => changed(index, &|load| {
            load.set_weight(weight);
        }),
    }
}

proptest! {
    #[test]
    fn picks_equal_a_linear_search(
        weights in prop::collection::vec(1..20u32, 1..30),
        steps in prop::collection::vec(step(), 1..150),
        round_robin in any::<bool>(),
    ) {
        let loads = loads(&weights);
        let tournament =
            if round_robin { Tournament::round_robin(loads) } else { Tournament::least_sessions(loads) };
        let mut held = Vec::new();
        for step in steps {
            take(&tournament, step, &mut held);
            prop_assert!(is_consistent(&tournament));
        }
    }
}

/// Many short rounds, because a lost update is visible only if it was the last one.
#[test]
fn every_node_is_correct_after_concurrent_changes() {
    for (round_robin, backends) in [(false, 2), (false, 16), (false, 37), (true, 3), (true, 37)] {
        let loads = loads(&vec![1; backends]);
        let tournament = if round_robin {
            Tournament::round_robin(loads)
        } else {
            Tournament::least_sessions(loads)
        };
        let (barrier, consistent) = (Barrier::new(4), AtomicBool::new(true));
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let (tournament, barrier, consistent) = (&tournament, &barrier, &consistent);
                scope.spawn(move || {
                    for round in 0..300 {
                        barrier.wait();
                        churn(tournament, thread + round);
                        barrier.wait();
                        consistent.fetch_and(is_consistent(tournament), SeqCst);
                    }
                });
            }
        });
        assert!(consistent.into_inner());
        let winner = tournament.winner(Shape::ROOT);
        assert_eq!(linear_search(&tournament, &[]).unwrap_or(winner), winner);
        assert!(tournament.leaves.iter().all(|leaf| leaf.load.sessions() == 0));
    }
}

/// Begins and ends a few sessions, and changes the health of one backend.
fn churn(tournament: &Tournament, seed: u32) {
    let index = seed % tournament.leaves.len() as u32;
    let mut held = Vec::new();
    for round in 0..6 {
        if let Some(index) = tournament.pick(&[]) {
            hold(tournament, index);
            held.push(index);
        }
        if round % 3 == 0 {
            tournament.leaf(index).load.record_check(!(seed + round).is_multiple_of(2), 1, 1);
            tournament.state_changed(index);
        }
    }
    held.into_iter().for_each(|index| release(tournament, index));
}
