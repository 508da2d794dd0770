//! Picks against looking at every backend, fairness, and concurrent changes.

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

/// What a tournament should pick, by looking at every backend.
fn brute_force(tournament: &Tournament, tried: &[u32]) -> Option<u32> {
    (0..tournament.seats.len() as u32)
        .filter(|index| tournament.seat(*index).load.accepts_new() && !tried.contains(index))
        .reduce(|a, b| tournament.better(a, b))
}

fn is_settled(tournament: &Tournament) -> bool {
    (Shape::ROOT..tournament.shape.inner()).all(|node| {
        let (left, right) = (tournament.winner(2 * node), tournament.winner(2 * node + 1));
        tournament.winner(node) == tournament.better(left, right)
    })
}

fn hold(tournament: &Tournament, index: u32) {
    tournament.seat(index).load.add_session();
    tournament.load_changed(index);
}

fn release(tournament: &Tournament, index: u32) {
    tournament.seat(index).load.remove_session();
    tournament.load_changed(index);
}

fn counts(tournament: &Tournament, picks: usize) -> Vec<usize> {
    let mut counts = vec![0; tournament.seats.len()];
    for _ in 0..picks {
        counts[tournament.pick(&[]).unwrap() as usize] += 1;
    }
    counts
}

#[test]
fn equals_take_turns() {
    for backends in 1..20 {
        let tournament = Tournament::fewest(loads(&vec![1; backends]));
        let round: Vec<_> = (0..backends).map(|_| tournament.pick(&[])).collect();
        for _ in 0..3 {
            let again: Vec<_> = (0..backends).map(|_| tournament.pick(&[])).collect();
            assert_eq!(again, round);
        }
        assert_eq!(counts(&tournament, backends), vec![1; backends]);
    }
}

#[test]
fn every_round_gives_each_its_weight() {
    let weights = [5, 1, 1, 3];
    let tournament = Tournament::in_turn(loads(&weights));
    for _ in 0..1000 {
        assert_eq!(counts(&tournament, 10), [5, 1, 1, 3]);
    }
}

#[test]
fn turns_of_a_heavy_one_are_spread_over_the_round() {
    let tournament = Tournament::in_turn(loads(&[4, 1, 1, 1, 1]));
    let picks: Vec<_> = (0..80).filter_map(|_| tournament.pick(&[])).collect();
    let longest = picks.chunk_by(|a, b| a == b).map(<[u32]>::len).max();
    assert!(longest <= Some(2), "{picks:?}");
}

#[test]
fn turns_go_on_where_passes_wrap_around() {
    let tournament = Tournament::in_turn(loads(&[1, 2, 3]));
    let near_the_end = u64::MAX - 10 * super::STRIDE;
    tournament.clock.store(near_the_end, SeqCst);
    for seat in &tournament.seats {
        seat.mark.fetch_add(near_the_end, SeqCst);
    }
    tournament.rebuild();
    for _ in 0..100 {
        assert_eq!(counts(&tournament, 6), [1, 2, 3]);
    }
}

#[test]
fn one_that_comes_back_gets_no_turns_to_make_up_for_its_absence() {
    let weights = [1, 1, 1];
    let tournament = Tournament::in_turn(loads(&weights));
    tournament.seat(0).load.record_check(false, 1, 1);
    tournament.state_changed(0);
    assert_eq!(counts(&tournament, 1000), [0, 500, 500]);
    tournament.seat(0).load.record_check(true, 1, 1);
    tournament.state_changed(0);
    let after = counts(&tournament, 30);
    assert!(after.iter().all(|turns| turns.abs_diff(10) <= 1), "{after:?}");
}

#[test]
fn a_flapping_one_gets_no_more_than_its_turns() {
    let tournament = Tournament::in_turn(loads(&[1, 1]));
    let mut turns = [0; 2];
    for _ in 0..100 {
        for healthy in [false, true] {
            tournament.seat(0).load.record_check(healthy, 1, 1);
            tournament.state_changed(0);
        }
        turns[tournament.pick(&[]).unwrap() as usize] += 1;
    }
    assert!(turns[0] <= 51, "{turns:?}");
}

#[test]
fn sessions_follow_weights_through_churn() {
    let weights = [1, 2, 3, 10];
    let tournament = Tournament::fewest(loads(&weights));
    let mut held: Vec<u32> = Vec::new();
    for _ in 0..1600 {
        let index = tournament.pick(&[]).unwrap();
        hold(&tournament, index);
        held.push(index);
    }
    // Most of what one backend has goes, and as many come.
    let (gone, stay): (Vec<u32>, Vec<u32>) = held.into_iter().partition(|index| *index == 3);
    gone.iter().for_each(|index| release(&tournament, *index));
    assert_eq!((gone.len(), stay.len()), (1000, 600));
    for _ in 0..1000 {
        let index = tournament.pick(&[]).unwrap();
        assert_eq!(index, 3);
        hold(&tournament, index);
    }
    let sessions: Vec<u32> = tournament.seats.iter().map(|s| s.load.sessions()).collect();
    assert_eq!(sessions, [100, 200, 300, 1000]);
}

#[test]
fn a_pick_finds_the_living_before_their_change_was_told() {
    let tournament = Tournament::fewest(loads(&[1, 1, 1]));
    let first = brute_force(&tournament, &[]).unwrap();
    tournament.seat(first).load.record_check(false, 1, 1);
    let picked = tournament.pick(&[]).unwrap();
    assert_ne!(picked, first);
}

#[derive(Clone, Debug)]
enum TournamentStep {
    Pick(Vec<Index>),
    Release(Index),
    Mark(Index, bool),
    Live(Index, bool),
    Weigh(Index, u32),
}

fn step() -> impl Strategy<Value = TournamentStep> {
    let index = any::<Index>;
    prop_oneof![
        4 => prop::collection::vec(index(), 0..4).prop_map(TournamentStep::Pick),
        2 => index().prop_map(TournamentStep::Release),
        1 => (index(), any::<bool>()).prop_map(|(i, healthy)| TournamentStep::Mark(i, healthy)),
        1 => (index(), any::<bool>()).prop_map(|(i, serving)| TournamentStep::Live(i, serving)),
        1 => (index(), 1..20u32).prop_map(|(i, weight)| TournamentStep::Weigh(i, weight)),
    ]
}

fn take(tournament: &Tournament, step: TournamentStep, held: &mut Vec<u32>) {
    let count = tournament.seats.len();
    let changed = |index: Index, change: &dyn Fn(&Load)| {
        let index = index.index(count) as u32;
        change(&tournament.seat(index).load);
        tournament.state_changed(index);
    };
    match step {
        TournamentStep::Pick(tried) => {
            let tried: Vec<u32> = tried.iter().map(|i| i.index(count) as u32).collect();
            let expected = brute_force(tournament, &tried);
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
        TournamentStep::Mark(index, healthy) => changed(index, &|load| {
            load.record_check(healthy, 1, 1);
        }),
        TournamentStep::Live(index, serving) => changed(index, &|load| {
            load.set_lifecycle(if serving { Lifecycle::Serving } else { Lifecycle::Draining });
        }),
        TournamentStep::Weigh(index, weight) => changed(index, &|load| {
            load.set_weight(weight);
        }),
    }
}

proptest! {
    #[test]
    fn picks_what_looking_at_all_would(
        weights in prop::collection::vec(1..20u32, 1..30),
        steps in prop::collection::vec(step(), 1..150),
        in_turn in any::<bool>(),
    ) {
        let loads = loads(&weights);
        let tournament =
            if in_turn { Tournament::in_turn(loads) } else { Tournament::fewest(loads) };
        let mut held = Vec::new();
        for step in steps {
            take(&tournament, step, &mut held);
            prop_assert!(is_settled(&tournament));
        }
    }
}

/// Many short rounds: a lost update shows only where it was the last one.
#[test]
fn every_node_is_right_once_concurrent_changes_are_over() {
    for (in_turn, backends) in [(false, 2), (false, 16), (false, 37), (true, 3), (true, 37)] {
        let loads = loads(&vec![1; backends]);
        let tournament =
            if in_turn { Tournament::in_turn(loads) } else { Tournament::fewest(loads) };
        let (barrier, settled) = (Barrier::new(4), AtomicBool::new(true));
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let (tournament, barrier, settled) = (&tournament, &barrier, &settled);
                scope.spawn(move || {
                    for round in 0..300 {
                        barrier.wait();
                        churn(tournament, thread + round);
                        barrier.wait();
                        settled.fetch_and(is_settled(tournament), SeqCst);
                    }
                });
            }
        });
        assert!(settled.into_inner());
        let winner = tournament.winner(Shape::ROOT);
        assert_eq!(brute_force(&tournament, &[]).unwrap_or(winner), winner);
        assert!(tournament.seats.iter().all(|seat| seat.load.sessions() == 0));
    }
}

/// Takes and releases a few sessions, and one backend's health flaps.
fn churn(tournament: &Tournament, seed: u32) {
    let index = seed % tournament.seats.len() as u32;
    let mut held = Vec::new();
    for round in 0..6 {
        if let Some(index) = tournament.pick(&[]) {
            hold(tournament, index);
            held.push(index);
        }
        if round % 3 == 0 {
            tournament.seat(index).load.record_check(!(seed + round).is_multiple_of(2), 1, 1);
            tournament.state_changed(index);
        }
    }
    held.into_iter().for_each(|index| release(tournament, index));
}
