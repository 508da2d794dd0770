//! The checks at the end of a run.

use std::{fmt::Write as _, time::Duration};

use serde::{Deserialize, Serialize};

use super::formatting;
use crate::{
    scenario::Limits,
    stats::{Counters, ErrorKind, Record},
};

/// Whether a run has passed its checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Whether all checks passed; `null` if there were none.
    pub(crate) passed: Option<bool>,
    /// One entry per limit of the scenario.
    pub(crate) checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Check {
    /// Flag without dashes: `max-p99`. `connects` and `answers` apply to every run and are listed only if
    /// they fail.
    pub(crate) limit: String,
    /// Limit: microseconds for `max-p99`, otherwise a number of events.
    pub(crate) allowed: u64,
    /// Measured value in the same unit; `null` if there was nothing to measure.
    pub(crate) measured: Option<u64>,
    /// Whether the check passed.
    pub(crate) passed: bool,
    /// Description: "p99 of messages was 81 ms, more than the 50 ms allowed".
    pub(crate) sentence: String,
}

impl Verdict {
    /// Returns one sentence per failed check.
    pub(crate) fn failures(&self) -> Vec<&str> {
        let failed = self.checks.iter().filter(|check| !check.passed);
        failed.map(|check| check.sentence.as_str()).collect()
    }
}

/// Checks the limits of a run. A run always fails if no client connected, or if `expect` is set and no
/// message was answered: the other checks mean nothing then.
pub(crate) fn judge(limits: &Limits, expect: bool, record: &Record) -> Verdict {
    let errors = |kind: ErrorKind| record.errors[kind as usize];
    let totals = &record.totals;
    let checks: Vec<_> = [
        check_connects(record),
        check_answers(expect, record),
        limits.max_p99.map(|allowed| check_p99(allowed, record)),
        limits
            .max_errors
            .map(|max| check_count("max-errors", ["error", "errors"], totals.errors, max, record)),
        limits.max_code1.map(|max| {
            let names = ["code 1 reply", "code 1 replies"];
            check_count("max-code1", names, errors(ErrorKind::Code1), max, record)
        }),
        limits.max_disconnects.map(|max| check_disconnects(max, record)),
        limits.max_misrouted.map(|max| check_misrouted(max, record)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let passed = (!checks.is_empty()).then(|| checks.iter().all(|check| check.passed));
    Verdict { passed, checks }
}

/// `None` if a client has connected, or none has tried.
fn check_connects(record: &Record) -> Option<Check> {
    let Counters { connects, errors, .. } = record.totals;
    (connects == 0 && errors > 0).then(|| Check {
        limit: "connects".into(),
        allowed: 1,
        measured: Some(0),
        passed: false,
        sentence: "no client connected".to_owned(),
    })
}

/// `None` if messages were answered, or no answer is expected.
fn check_answers(expect: bool, record: &Record) -> Option<Check> {
    let Counters { sent, answered, .. } = record.totals;
    (expect && sent > 0 && answered == 0).then(|| Check {
        limit: "answers".into(),
        allowed: 1,
        measured: Some(0),
        passed: false,
        sentence: format!(
            "none of {} was answered: give an event that the server answers (--event), and how it does \
             (--answer)",
            formatting::counted(sent, "message", "messages")
        ),
    })
}

fn check_disconnects(max: u64, record: &Record) -> Check {
    let names = ["disconnect", "disconnects"];
    let totals = &record.totals;
    let mut check = check_count("max-disconnects", names, totals.disconnects, max, record);
    if totals.undrained > 0 {
        let left = formatting::counted(totals.undrained, "client was", "clients were");
        let _ = write!(
            check.sentence,
            "; {left} still connected to a node at the end of its drain: give it more time (--drain) than the \
             proxy takes to move its clients"
        );
    }
    check
}

fn check_misrouted(max: u64, record: &Record) -> Check {
    let names = ["misrouted answer", "misrouted answers"];
    let mut check = check_count("max-misrouted", names, record.totals.misrouted, max, record);
    if check.passed && record.totals.named == 0 {
        check.passed = false;
        check.measured = None;
        check.sentence = "no node sent its name, so misrouted answers cannot be checked".to_owned();
    }
    check
}

fn check_p99(allowed: Duration, record: &Record) -> Check {
    let messages = record.latencies.message.histogram();
    let measured = (!messages.is_empty()).then(|| messages.value_at_quantile(0.99));
    let allowed_us = u64::try_from(allowed.as_micros()).unwrap_or(u64::MAX);
    let max = formatting::micros(allowed_us);
    // Messages without an answer count with their waiting time: otherwise a slower server would have fewer,
    // and so better, latencies.
    let mut all = record.latencies.message.clone();
    all.add(&record.latencies.unanswered);
    let lower_bound = all.histogram().value_at_quantile(0.99);
    let overdue = measured.is_some_and(|p99| p99 <= allowed_us) && lower_bound > allowed_us;
    let measured = if overdue { Some(lower_bound) } else { measured };
    let sentence = match measured {
        Some(_) if overdue => {
            let (was, max) = distinguishable(lower_bound, allowed_us);
            let unanswered = record.totals.unanswered;
            let unanswered = formatting::counted(unanswered, "message", "messages");
            format!(
                "p99 of messages was at least {was}, with {unanswered} that had no answer at the end, \
                 more than the {max} allowed"
            )
        }
        None => format!("no message was answered, so the p99 limit of {max} cannot be checked"),
        Some(p99) if p99 > allowed_us => {
            let (was, max) = distinguishable(p99, allowed_us);
            format!("p99 of messages was {was}, more than the {max} allowed")
        }
        Some(p99) => {
            format!("p99 of messages was {}, at most {max} allowed", formatting::micros(p99))
        }
    };
    let passed = measured.is_some_and(|p99| p99 <= allowed_us);
    Check { limit: "max-p99".into(), allowed: allowed_us, measured, passed, sentence }
}

/// A count of zero means nothing if no client connected or no message was answered, so this fails too.
fn check_count(limit: &str, [one, many]: [&str; 2], was: u64, max: u64, record: &Record) -> Check {
    let totals = &record.totals;
    let answered = totals.answered > 0 || totals.unanswered == 0;
    let reached = totals.connects > 0 && answered;
    let there = if was == 1 { "there was" } else { "there were" };
    let counted = match was {
        0 => format!("no {many}"),
        _ => formatting::counted(was, one, many),
    };
    let sentence = match (was > max, max) {
        (false, _) if !answered => format!(
            "none of {} was answered, so {many} cannot be checked",
            formatting::counted(totals.unanswered, "message", "messages")
        ),
        (false, _) if !reached => format!("no client connected, so {many} cannot be checked"),
        (true, 0) => format!("{there} {counted}, none is allowed"),
        (true, _) => format!("{there} {counted}, more than the {} allowed", formatting::count(max)),
        (false, 0) => format!("{there} {counted}"),
        (false, _) => format!("{there} {counted}, at most {} allowed", formatting::count(max)),
    };
    let passed = reached && was <= max;
    let measured = reached.then_some(was).or((was > 0).then_some(was));
    Check { limit: limit.into(), allowed: max, measured, passed, sentence }
}

/// Formats two different values so that rounding does not make them equal.
fn distinguishable(was: u64, max: u64) -> (String, String) {
    let (rounded, allowed) = (formatting::micros(was), formatting::micros(max));
    if rounded != allowed {
        return (rounded, allowed);
    }
    (format!("{} µs", formatting::count(was)), format!("{} µs", formatting::count(max)))
}
