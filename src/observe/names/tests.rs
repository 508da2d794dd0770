use std::collections::HashSet;

use super::*;

fn every_termination() -> Vec<Termination> {
    let mut all = vec![
        Termination::Complete,
        Termination::Answered,
        Termination::Idle,
        Termination::Drained,
        Termination::Panicked,
        Termination::Rebalanced,
        Termination::Aged,
        Termination::HalfClosed,
        Termination::BackendDown,
        Termination::Expired,
        Termination::Revoked,
    ];
    for side in [Side::Client, Side::Backend, Side::Proxy] {
        all.push(Termination::Closed(side));
        for phase in PHASE_ORDER {
            for kind in KIND_ORDER {
                all.push(Termination::Failed(side, phase, kind));
            }
        }
    }
    all
}

#[test]
fn each_termination_has_a_unique_label() {
    let all = every_termination();
    assert_eq!(all.len(), TERMINATIONS);
    assert_eq!(LABELS.len(), TERMINATIONS);
    let indices: HashSet<_> = all.iter().map(termination_index).collect();
    assert_eq!(indices, (0..TERMINATIONS).collect());
    let labels: HashSet<_> = all.iter().map(termination).collect();
    assert_eq!(labels.len(), TERMINATIONS);
    let plain = |label: &&str| label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    assert!(labels.iter().all(plain));
}

#[test]
fn labels_describe_the_termination() {
    let of = |t: Termination| termination(&t);
    assert_eq!(of(Termination::Complete), "complete");
    assert_eq!(of(Termination::Answered), "answered");
    assert_eq!(of(Termination::Idle), "idle");
    assert_eq!(of(Termination::Drained), "drained");
    assert_eq!(of(Termination::Panicked), "panicked");
    assert_eq!(of(Termination::Rebalanced), "rebalanced");
    assert_eq!(of(Termination::Aged), "aged");
    assert_eq!(of(Termination::HalfClosed), "half_closed");
    assert_eq!(of(Termination::BackendDown), "backend_down");
    assert_eq!(of(Termination::Expired), "expired");
    assert_eq!(of(Termination::Revoked), "revoked");
    for who in [Side::Client, Side::Backend, Side::Proxy] {
        assert_eq!(of(Termination::Closed(who)), format!("{}_closed", side(who)));
        for when in PHASE_ORDER {
            for what in KIND_ORDER {
                let expected = format!("{}_{}_{}", side(who), phase(when), kind(what));
                assert_eq!(of(Termination::Failed(who, when, what)), expected);
            }
        }
    }
}

#[test]
fn the_reason_is_not_part_of_the_label() {
    let with = |reason| {
        let failed =
            Termination::Failed(Side::Client, Phase::Request, FailureKind::BadRequest(reason));
        termination(&failed)
    };
    assert_eq!(with("two Host headers"), with("no Host header"));
    assert_eq!(with("x"), "client_request_bad_request");
}

#[test]
fn all_values_of_chosen_by_are_listed_in_order() {
    for (n, by) in ChosenBy::ALL.into_iter().enumerate() {
        assert_eq!(by as usize, n);
    }
    let labels: HashSet<_> = ChosenBy::ALL.into_iter().map(ChosenBy::label).collect();
    assert_eq!(labels.len(), ChosenBy::ALL.len());
}
