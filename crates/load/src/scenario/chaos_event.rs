//! Parses the events of a chaos run: `10s hang 2 for 5s`.

use std::str::FromStr;

use super::{
    ChaosEvent, NodeFault,
    values::{DurationArg, ValueError},
};

impl FromStr for ChaosEvent {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let words: Vec<_> = typed.split_whitespace().collect();
        let [at, deed, node, rest @ ..] = &words[..] else {
            return Err(ValueError::Event(typed.to_owned()));
        };
        let span = |word: &str| word.parse::<DurationArg>().map(|span| span.0);
        let fault = match (*deed, rest) {
            ("kill", []) => NodeFault::Kill { back_after: None },
            ("kill", ["back", after]) => NodeFault::Kill { back_after: Some(span(after)?) },
            ("hang", ["for", how_long]) => NodeFault::Hang(span(how_long)?),
            ("reset", []) => NodeFault::Reset,
            _ => return Err(ValueError::Event(typed.to_owned())),
        };
        let node = node
            .parse()
            .map_err(|_| ValueError::Node { event: typed.to_owned(), node: (*node).to_owned() })?;
        Ok(Self { at: span(at)?, node, fault })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn all_forms_are_parsed() {
        let seconds = Duration::from_secs;
        for (typed, at, node, fault) in [
            ("5s kill 1", 5, 1, NodeFault::Kill { back_after: None }),
            ("5s  kill 1 back 3s", 5, 1, NodeFault::Kill { back_after: Some(seconds(3)) }),
            ("10s hang 2 for 5s", 10, 2, NodeFault::Hang(seconds(5))),
            ("0 reset 0", 0, 0, NodeFault::Reset),
        ] {
            assert_eq!(typed.parse(), Ok(ChaosEvent { at: seconds(at), node, fault }), "{typed}");
        }
    }

    #[test]
    fn invalid_events_are_rejected() {
        for typed in
            ["", "5s", "5s kill", "5s kill x", "5s hang 1", "5s reset 1 for 2s", "x kill 1"]
        {
            assert!(typed.parse::<ChaosEvent>().is_err(), "{typed}");
        }
    }
}
