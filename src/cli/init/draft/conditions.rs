//! Conditions of a route beyond host and path in a draft.

use super::text::key;

/// Conditions of a route, which a request has to meet all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct MatchDraft(Vec<DraftCondition>);

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DraftCondition {
    /// Key of `match`.
    kind: &'static str,
    /// Name of a field, parameter or cookie; empty: the kind needs none.
    name: String,
    /// The TOML value.
    value: String,
}

impl MatchDraft {
    /// Adds a condition. False if one of this kind and name is there already: `match` cannot require both.
    pub(in super::super) fn add(&mut self, kind: &'static str, name: &str, value: String) -> bool {
        let is_known = |known: &DraftCondition| {
            let case = kind == "header" && known.name.eq_ignore_ascii_case(name);
            known.kind == kind && (case || known.name == name)
        };
        if self.0.iter().any(is_known) {
            return false;
        }
        self.0.push(DraftCondition { kind, name: name.to_owned(), value });
        true
    }

    /// Whether there is no condition.
    pub(in super::super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there are conditions, and all are of this kind.
    pub(in super::super) fn is_only(&self, kind: &str) -> bool {
        !self.0.is_empty() && self.0.iter().all(|condition| condition.kind == kind)
    }

    /// Whether a condition of this kind compares values.
    pub(in super::super) fn compares(&self, kind: &str) -> bool {
        let is_value = |value: &str| !matches!(value, "true" | "false");
        self.0.iter().any(|condition| condition.kind == kind && is_value(&condition.value))
    }

    /// The TOML value of `match`.
    pub(super) fn text(&self) -> String {
        let mut keys: Vec<(&str, Vec<String>)> = Vec::new();
        for DraftCondition { kind, name, value } in &self.0 {
            if name.is_empty() {
                keys.push((kind, vec![value.clone()]));
                continue;
            }
            let named = format!("{} = {value}", key(name));
            match keys.iter_mut().find(|(known, _)| known == kind) {
                Some((_, values)) => values.push(named),
                None => keys.push((kind, vec![named])),
            }
        }
        let written = keys.into_iter().map(|(kind, values)| match kind {
            "header" | "query" | "cookie" => format!("{kind} = {{ {} }}", values.join(", ")),
            _ => format!("{kind} = {}", values.concat()),
        });
        format!("{{ {} }}", written.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::MatchDraft;

    #[test]
    fn conditions_are_one_table() {
        let mut draft = MatchDraft::default();
        assert!(draft.is_empty() && !draft.is_only("client"));
        assert!(draft.add("header", "X-Beta", "\"1\"".to_owned()));
        assert!(!draft.add("header", "x-beta", "true".to_owned()));
        assert!(draft.add("cookie", "a", "true".to_owned()));
        assert!(draft.add("cookie", "A b", "false".to_owned()));
        assert!(draft.add("method", "", "[\"POST\"]".to_owned()));
        assert!(!draft.add("method", "", "[\"GET\"]".to_owned()));
        let expected = r#"{ header = { X-Beta = "1" }, cookie = { a = true, "A b" = false }, method = ["POST"] }"#;
        assert_eq!(draft.text(), expected);
        assert!(draft.compares("header") && !draft.compares("cookie"));
    }
}
