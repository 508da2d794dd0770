//! Tests of methods, fields, parameters and cookies: conditions of `match`.

use super::super::draft::{array, quoted};

/// A condition of `match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MatchTest {
    /// Key of `match`.
    pub(super) kind: &'static str,
    /// Name of a field, parameter or cookie; empty: the kind needs none.
    pub(super) name: String,
    /// What is required of it.
    pub(super) value: MatchValue,
}

/// What a condition requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MatchValue {
    /// There is one, or there is none.
    Present(bool),
    /// One of these values.
    Values(Vec<String>),
    /// A value that begins with this.
    Prefix(String),
    /// A value that matches this pattern as a whole.
    Regex(String),
}

impl MatchTest {
    /// The TOML value; `None`: the opposite has none.
    pub(super) fn toml(&self, negated: bool) -> Option<String> {
        match &self.value {
            MatchValue::Present(present) => Some((*present != negated).to_string()),
            _ if negated => None,
            MatchValue::Values(values) => Some(match &values[..] {
                [value] => quoted(value),
                values => array(values),
            }),
            MatchValue::Prefix(start) => Some(format!("{{ prefix = {} }}", quoted(start))),
            MatchValue::Regex(pattern) => Some(format!("{{ regex = {} }}", quoted(pattern))),
        }
    }

    /// A test that is true if one of two is; `None`: no condition is.
    pub(super) fn or(self, other: Self) -> Option<Self> {
        match (self.value, other.value) {
            (MatchValue::Values(one), MatchValue::Values(two))
                if (self.kind, &self.name) == (other.kind, &other.name) =>
            {
                Some(Self { value: MatchValue::Values([one, two].concat()), ..other })
            }
            _ => None,
        }
    }
}

/// The predefined ACLs of methods.
pub(super) fn predefined(name: &str) -> Option<MatchTest> {
    let method = name.strip_prefix("METH_")?;
    let methods = match method {
        // As HAProxy documents it.
        "GET" => vec!["GET", "HEAD"],
        "CONNECT" | "DELETE" | "HEAD" | "OPTIONS" | "POST" | "PUT" | "TRACE" => vec![method],
        _ => return None,
    };
    Some(methods_of(methods.into_iter().map(str::to_owned).collect()))
}

/// The condition of a criterion such as `hdr(X-Beta)`, with the method of its comparison. `None`: `match` has no equivalent.
pub(super) fn condition(
    criterion: &str,
    method: &str,
    values: &[String],
    any_case: bool,
) -> Option<MatchTest> {
    if matches!(criterion, "method" | "req.method") {
        let valid = matches!(method, "" | "str") && !values.is_empty();
        return valid.then(|| methods_of(values.iter().map(|v| v.to_ascii_uppercase()).collect()));
    }
    let (fetch, rest) = criterion.split_once('(')?;
    let (name, converter) = rest.split_once(')')?;
    let any_case = match converter {
        "" => any_case,
        ",lower" | ",upper" => true,
        _ => return None,
    };
    let (fetch, method) = match fetch.rsplit_once('_') {
        Some((base, suffix)) if suffix != "param" => (base, suffix),
        _ => (fetch, method),
    };
    let kind = match fetch.strip_prefix("req.").unwrap_or(fetch) {
        "hdr" | "fhdr" => "header",
        "url_param" | "urlp" => "query",
        "cook" => "cookie",
        _ => return None,
    };
    let valid = !name.is_empty() && moorline_http::is_token(name.as_bytes());
    let value = valid.then(|| value(method, values, any_case))??;
    Some(MatchTest { kind, name: name.to_owned(), value })
}

fn methods_of(methods: Vec<String>) -> MatchTest {
    MatchTest { kind: "method", name: String::new(), value: MatchValue::Values(methods) }
}

fn value(method: &str, values: &[String], any_case: bool) -> Option<MatchValue> {
    let words: Vec<&str> = values.iter().map(String::as_str).collect();
    match (method, &words[..]) {
        ("found", []) | ("cnt", ["gt", "0"] | ["ge", "1"]) => Some(MatchValue::Present(true)),
        ("cnt", ["eq", "0"] | ["lt", "1"]) => Some(MatchValue::Present(false)),
        ("found" | "cnt", _) | (_, []) => None,
        ("" | "str", _) if !any_case => Some(MatchValue::Values(values.to_vec())),
        ("beg", [start]) if !any_case => Some(MatchValue::Prefix((*start).to_owned())),
        _ => {
            let parts: Option<Vec<String>> =
                words.iter().map(|word| pattern(method, word)).collect();
            let parts = parts?.join("|");
            let whole = match (any_case, words.len()) {
                (true, _) => format!("(?i:{parts})"),
                (false, 1) => parts,
                (false, _) => format!("(?:{parts})"),
            };
            regex::Regex::new(&whole).is_ok().then_some(MatchValue::Regex(whole))
        }
    }
}

/// The pattern of the whole values that a method accepts.
fn pattern(method: &str, word: &str) -> Option<String> {
    let escaped = regex::escape(word);
    Some(match method {
        "" | "str" => escaped,
        "beg" => format!("{escaped}.*"),
        "end" => format!(".*{escaped}"),
        "sub" => format!(".*{escaped}.*"),
        "reg" => {
            let start = match word.strip_prefix('^') {
                Some(rest) => rest.to_owned(),
                None => format!(".*{word}"),
            };
            // An alternative would have its own start and end.
            let one = !word.contains('|');
            return one.then(|| match start.strip_suffix('$') {
                Some(rest) if !rest.ends_with('\\') => rest.to_owned(),
                _ => format!("{start}.*"),
            });
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(criterion: &str, method: &str, values: &str, any_case: bool) -> Option<String> {
        let values: Vec<String> = values.split_whitespace().map(str::to_owned).collect();
        let found = condition(criterion, method, &values, any_case)?;
        Some(format!("{} {} {}", found.kind, found.name, found.toml(false)?))
    }

    #[test]
    fn criteria_are_conditions_of_routes() {
        for (criterion, method, values, any_case, expected) in [
            ("method", "", "post PUT", false, "method  [\"POST\", \"PUT\"]"),
            ("hdr(X-Beta)", "", "1", false, "header X-Beta \"1\""),
            ("req.hdr(X-Beta)", "found", "", false, "header X-Beta true"),
            ("hdr_cnt(X-Beta)", "", "eq 0", false, "header X-Beta false"),
            (
                "hdr_sub(user-agent)",
                "",
                "curl/8.",
                false,
                "header user-agent { regex = \".*curl/8\\\\..*\" }",
            ),
            ("hdr(X-Beta)", "beg", "2.", false, "header X-Beta { prefix = \"2.\" }"),
            ("hdr(X-Beta)", "beg", "a b", true, "header X-Beta { regex = \"(?i:a.*|b.*)\" }"),
            ("hdr(X-Beta),lower", "", "a", false, "header X-Beta { regex = \"(?i:a)\" }"),
            (
                "req.fhdr(X-Beta)",
                "reg",
                "^v[0-9]+$",
                false,
                "header X-Beta { regex = \"v[0-9]+\" }",
            ),
            ("hdr_reg(X-Beta)", "", "v[0-9]", false, "header X-Beta { regex = \".*v[0-9].*\" }"),
            ("url_param(Beta)", "", "1 2", false, "query Beta [\"1\", \"2\"]"),
            ("urlp(beta)", "found", "", false, "query beta true"),
            ("req.cook(Group)", "", "b", false, "cookie Group \"b\""),
            ("cook_end(g)", "", "b", false, "cookie g { regex = \".*b\" }"),
        ] {
            assert_eq!(
                toml(criterion, method, values, any_case).as_deref(),
                Some(expected),
                "{criterion}"
            );
        }
        for (criterion, method, values) in [
            ("hdr(X-Beta)", "reg", "^(?!a)"),
            ("hdr(X-Beta)", "reg", "^a|b$"),
            ("hdr(X-Beta,1)", "", "a"),
            ("hdr(X-Beta),base64", "", "a"),
            ("hdr(X-Beta)", "", ""),
            ("hdr_cnt(X-Beta)", "", "gt 2"),
            ("hdr_len(X-Beta)", "", "5"),
            ("nbsrv(app)", "", "1"),
            ("query", "", "a"),
        ] {
            assert_eq!(toml(criterion, method, values, false), None, "{criterion} {method}");
        }
        assert_eq!(predefined("METH_GET").unwrap().toml(false).unwrap(), "[\"GET\", \"HEAD\"]");
        assert_eq!(
            (predefined("METH_POST").unwrap().toml(true), predefined("METH_X")),
            (None, None)
        );
    }
}
