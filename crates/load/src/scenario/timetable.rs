//! The timetable of a chaos run: `10s hang 2 for 5s`.

use std::str::FromStr;

use super::{ChaosEvent, Harm, values::Span};

/// What a line may look like, for messages.
const FORMS: &str = "'5s kill 1', '5s kill 1 back 3s', '10s hang 2 for 5s' or '20s reset 0'";

impl FromStr for ChaosEvent {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let words: Vec<_> = typed.split_whitespace().collect();
        let [at, deed, node, rest @ ..] = &words[..] else {
            return Err(format!("invalid event {typed:?}: write it as {FORMS}"));
        };
        let span = |word: &str| word.parse::<Span>().map(|span| span.0);
        let harm = match (*deed, rest) {
            ("kill", []) => Harm::Kill { back_after: None },
            ("kill", ["back", after]) => Harm::Kill { back_after: Some(span(after)?) },
            ("hang", ["for", how_long]) => Harm::Hang(span(how_long)?),
            ("reset", []) => Harm::Reset,
            _ => return Err(format!("invalid event {typed:?}: write it as {FORMS}")),
        };
        let node = node.parse().map_err(|_| {
            format!("invalid node {node} in {typed:?}: use the number of a node, from 0")
        })?;
        Ok(Self { at: span(at)?, node, harm })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_form() {
        let seconds = Duration::from_secs;
        for (typed, at, node, harm) in [
            ("5s kill 1", 5, 1, Harm::Kill { back_after: None }),
            ("5s  kill 1 back 3s", 5, 1, Harm::Kill { back_after: Some(seconds(3)) }),
            ("10s hang 2 for 5s", 10, 2, Harm::Hang(seconds(5))),
            ("0 reset 0", 0, 0, Harm::Reset),
        ] {
            assert_eq!(typed.parse(), Ok(ChaosEvent { at: seconds(at), node, harm }), "{typed}");
        }
    }

    #[test]
    fn what_is_no_event() {
        for typed in
            ["", "5s", "5s kill", "5s kill x", "5s hang 1", "5s reset 1 for 2s", "x kill 1"]
        {
            assert!(typed.parse::<ChaosEvent>().is_err(), "{typed}");
        }
    }
}
