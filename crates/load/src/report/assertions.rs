//! What must hold at the end, and whether it did.

use std::{fmt::Write as _, time::Duration};

use serde::{Deserialize, Serialize};

use super::words;
use crate::{
    scenario::Limits,
    stats::{Counters, ErrorKind, Record},
};

/// Whether the run was as the limits want it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Whether all limits held; `null` where none was set.
    pub(crate) passed: Option<bool>,
    /// Each limit that was set.
    pub(crate) checks: Vec<Check>,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Check {
    /// Its flag without dashes: `max-p99`; `connects` and `answers` hold for every run, and are listed when
    /// they do not.
    pub(crate) limit: String,
    /// The allowed value: microseconds for `max-p99`, else a number of events.
    pub(crate) allowed: u64,
    /// What was measured, in the same unit; `null` where nothing was.
    pub(crate) measured: Option<u64>,
    /// Whether it held.
    pub(crate) held: bool,
    /// For people: "p99 of messages was 81 ms, more than the 50 ms allowed".
    pub(crate) sentence: String,
}

impl Verdict {
    /// What fails, a sentence each; empty where nothing does.
    pub(crate) fn failures(&self) -> Vec<&str> {
        let failed = self.checks.iter().filter(|check| !check.held);
        failed.map(|check| check.sentence.as_str()).collect()
    }
}

/// Compares a run with its limits. A run whose clients never got connected, or were never answered although
/// they `expect` answers, has shown nothing: it fails whatever its limits.
pub(crate) fn judge(limits: &Limits, expect: bool, record: &Record) -> Verdict {
    let errors = |kind: ErrorKind| record.errors[kind as usize];
    let totals = &record.totals;
    let checks: Vec<_> = [
        check_connects(record),
        check_answers(expect, record),
        limits.max_p99.map(|allowed| check_p99(allowed, record)),
        limits.max_errors.map(|most| {
            check_count("max-errors", ["error", "errors"], totals.errors, most, record)
        }),
        limits.max_code1.map(|most| {
            let names = ["code 1 reply", "code 1 replies"];
            check_count("max-code1", names, errors(ErrorKind::Code1), most, record)
        }),
        limits.max_disconnects.map(|most| check_disconnects(most, record)),
        limits.max_misrouted.map(|most| check_misrouted(most, record)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let passed = (!checks.is_empty()).then(|| checks.iter().all(|check| check.held));
    Verdict { passed, checks }
}

/// `None`: there were connections, or no client had come yet.
fn check_connects(record: &Record) -> Option<Check> {
    let Counters { connects, errors, .. } = record.totals;
    (connects == 0 && errors > 0).then(|| Check {
        limit: "connects".into(),
        allowed: 1,
        measured: Some(0),
        held: false,
        sentence: "no client got connected".to_owned(),
    })
}

/// `None`: answers came, or none was to come.
fn check_answers(expect: bool, record: &Record) -> Option<Check> {
    let Counters { sent, answered, .. } = record.totals;
    (expect && sent > 0 && answered == 0).then(|| Check {
        limit: "answers".into(),
        allowed: 1,
        measured: Some(0),
        held: false,
        sentence: format!(
            "none of {} was answered: name an event that the server answers (--event), and how it does \
             (--answer)",
            words::counted(sent, "message", "messages")
        ),
    })
}

fn check_disconnects(most: u64, record: &Record) -> Check {
    let names = ["disconnect", "disconnects"];
    let totals = &record.totals;
    let mut check = check_count("max-disconnects", names, totals.disconnects, most, record);
    if totals.undrained > 0 {
        let left = words::counted(totals.undrained, "client was", "clients were");
        let _ = write!(
            check.sentence,
            "; {left} still on a node at the end of its drain: give it more time (--drain) than the proxy \
             takes to move its clients"
        );
    }
    check
}

fn check_misrouted(most: u64, record: &Record) -> Check {
    let names = ["misrouted answer", "misrouted answers"];
    let mut check = check_count("max-misrouted", names, record.totals.misrouted, most, record);
    if check.held && record.totals.named == 0 {
        check.held = false;
        check.measured = None;
        check.sentence = "no node told its name, so misrouted answers cannot be judged".to_owned();
    }
    check
}

fn check_p99(allowed: Duration, record: &Record) -> Check {
    let messages = record.latencies.message.histogram();
    let measured = (!messages.is_empty()).then(|| messages.value_at_quantile(0.99));
    let allowed_us = u64::try_from(allowed.as_micros()).unwrap_or(u64::MAX);
    let most = words::micros(allowed_us);
    // Who still waited at the end has waited at least so long: without them, the slower a server, the
    // fewer of its answers would count.
    let mut all = record.latencies.message.clone();
    all.add(&record.latencies.unanswered);
    let least = all.histogram().value_at_quantile(0.99);
    let overdue = measured.is_some_and(|p99| p99 <= allowed_us) && least > allowed_us;
    let measured = if overdue { Some(least) } else { measured };
    let sentence = match measured {
        Some(_) if overdue => {
            let (was, most) = told_apart(least, allowed_us);
            let unanswered = record.totals.unanswered;
            let unanswered = words::counted(unanswered, "message", "messages");
            format!(
                "p99 of messages was at least {was}, with {unanswered} that had no answer at the end, \
                 more than the {most} allowed"
            )
        }
        None => format!("no message was answered, so its p99 cannot be at most {most}"),
        Some(p99) if p99 > allowed_us => {
            let (was, most) = told_apart(p99, allowed_us);
            format!("p99 of messages was {was}, more than the {most} allowed")
        }
        Some(p99) => format!("p99 of messages was {}, at most {most} allowed", words::micros(p99)),
    };
    let held = measured.is_some_and(|p99| p99 <= allowed_us);
    Check { limit: "max-p99".into(), allowed: allowed_us, measured, held, sentence }
}

/// A count of zero says nothing where nobody ever got connected, or was ever answered, so that is a
/// failure too.
fn check_count(limit: &str, [one, many]: [&str; 2], was: u64, most: u64, record: &Record) -> Check {
    let totals = &record.totals;
    let heard = totals.answered > 0 || totals.unanswered == 0;
    let reached = totals.connects > 0 && heard;
    let there = if was == 1 { "there was" } else { "there were" };
    let counted = match was {
        0 => format!("no {many}"),
        _ => words::counted(was, one, many),
    };
    let sentence = match (was > most, most) {
        (false, _) if !heard => format!(
            "none of {} was answered, so {many} cannot be judged",
            words::counted(totals.unanswered, "message", "messages")
        ),
        (false, _) if !reached => format!("no client got connected, so {many} cannot be judged"),
        (true, 0) => format!("{there} {counted}, none is allowed"),
        (true, _) => format!("{there} {counted}, more than the {} allowed", words::count(most)),
        (false, 0) => format!("{there} {counted}"),
        (false, _) => format!("{there} {counted}, at most {} allowed", words::count(most)),
    };
    let held = reached && was <= most;
    let measured = reached.then_some(was).or((was > 0).then_some(was));
    Check { limit: limit.into(), allowed: most, measured, held, sentence }
}

/// Rounding must not make the two the same.
fn told_apart(was: u64, most: u64) -> (String, String) {
    let (rounded, allowed) = (words::micros(was), words::micros(most));
    if rounded != allowed {
        return (rounded, allowed);
    }
    (format!("{} µs", words::count(was)), format!("{} µs", words::count(most)))
}
