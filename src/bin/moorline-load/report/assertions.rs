//! What must hold at the end, and whether it did.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::words;
use crate::{
    scenario::Limits,
    stats::{ErrorKind, Record},
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
    /// Its flag without dashes: `max-p99`.
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

/// Compares a run with its limits.
pub(crate) fn judge(limits: &Limits, record: &Record) -> Verdict {
    let errors = |kind: ErrorKind| record.errors[kind as usize];
    let totals = &record.totals;
    let checks: Vec<_> = [
        limits.max_p99.map(|allowed| check_p99(allowed, record)),
        limits.max_errors.map(|most| {
            check_count("max-errors", ["error", "errors"], totals.errors, most, record)
        }),
        limits.max_code1.map(|most| {
            let names = ["code 1 reply", "code 1 replies"];
            check_count("max-code1", names, errors(ErrorKind::Code1), most, record)
        }),
        limits.max_disconnects.map(|most| {
            let names = ["disconnect", "disconnects"];
            check_count("max-disconnects", names, totals.disconnects, most, record)
        }),
        limits.max_misrouted.map(|most| {
            let names = ["misrouted answer", "misrouted answers"];
            check_count("max-misrouted", names, totals.misrouted, most, record)
        }),
    ]
    .into_iter()
    .flatten()
    .collect();
    let passed = (!checks.is_empty()).then(|| checks.iter().all(|check| check.held));
    Verdict { passed, checks }
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
