//! The goals of the rows: the most that a figure of ours may be, alone or as a part of the peers'.

use crate::results::{Row, Table, number};

/// The most that a figure of ours may be.
pub(crate) struct Goal {
    /// Start of the table's title.
    table: &'static str,
    /// The row's title.
    row: &'static str,
    limit: f64,
    of: Base,
}

/// What a figure of ours is divided by.
#[derive(Clone, Copy)]
enum Base {
    /// Nothing: the limit is in the row's unit.
    Nothing,
    /// The best peer's figure of the same round.
    BestPeer,
    /// This peer's figure of the same round.
    Peer(&'static str),
}

const GOALS: [Goal; 20] = [
    best("1.", "plain: CPU µs per request", 1.0),
    best("1.", "TLS: CPU µs per request", 0.95),
    best("2.", "TLS, 4 KiB: CPU µs per message", 0.95),
    Goal { table: "4.", row: "TLS, 8,000: KiB each", limit: 0.4, of: Base::Peer("HAProxy") },
    best("5.", "upgrade, plain: CPU µs per connection", 0.9),
    best("5.", "upgrade, TLS: CPU µs per connection", 0.9),
    best("6.", "plain: CPU µs per session", 0.85),
    best("6.", "TLS: CPU µs per session", 0.85),
    best("9.", "passed by name, handshake: CPU µs per handshake", 1.0),
    most("10.", "plain, 1,000: KiB each", 3.0),
    most("10.", "plain, 4,000: KiB each", 3.0),
    most("10.", "plain, 4,000: % of the growth kept after all left", 20.0),
    most("10.", "TLS, 1,000: KiB each", 12.0),
    most("10.", "TLS, 4,000: KiB each", 12.0),
    most("10.", "TLS, 4,000: % of the growth kept after all left", 20.0),
    most("11.", "plain, 4,000: KiB each", 1.5),
    most("11.", "TLS, 4,000: KiB each", 9.0),
    most("13.", "plain: 2 workers ÷ 1", 1.05),
    Goal {
        table: "14.",
        row: "cache hit: CPU µs per request",
        limit: 0.6,
        of: Base::Peer("nginx"),
    },
    most("13.", "TLS: 2 workers ÷ 1", 1.05),
];

const fn best(table: &'static str, row: &'static str, limit: f64) -> Goal {
    Goal { table, row, limit, of: Base::BestPeer }
}

const fn most(table: &'static str, row: &'static str, limit: f64) -> Goal {
    Goal { table, row, limit, of: Base::Nothing }
}

/// The goal of a row, if it has one.
pub(crate) fn of(table: &Table, row: &Row) -> Option<&'static Goal> {
    GOALS.iter().find(|goal| table.title.starts_with(goal.table) && goal.row == row.title)
}

impl Goal {
    /// The goal, the figure beside it, and whether the goal is met: "≤ 1.00 of the best: 1.66, **missed**".
    pub(crate) fn verdict(&self, table: &Table, row: &Row) -> String {
        let base = match self.of {
            Base::Nothing => String::new(),
            Base::BestPeer => " of the best".to_owned(),
            Base::Peer(peer) => format!(" of {peer}"),
        };
        let goal = format!("≤ {}{base}", number(self.limit));
        match self.figure(table, row) {
            None => goal,
            Some(figure) if figure <= self.limit => format!("{goal}: {}, met", number(figure)),
            Some(figure) => format!("{goal}: {}, **missed**", number(figure)),
        }
    }

    fn figure(&self, table: &Table, row: &Row) -> Option<f64> {
        let spread = match self.of {
            Base::Nothing => row.cells.first()?.spread(),
            Base::BestPeer => row.ratio_to_least(&table.peers("")),
            Base::Peer(peer) => row.ratio(*table.peers(peer).first()?),
        };
        Some(spread?.median)
    }
}
