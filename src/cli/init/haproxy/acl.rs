//! Conditions: what ACLs require of a request.

use std::collections::HashMap;

use super::{
    super::{
        draft::{MatchDraft, array},
        nginx::regex_prefixes,
    },
    conditions::{self, MatchTest},
};

/// One test of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AclTest {
    /// The host is one of these, in the form of a route's `host`.
    Hosts(Vec<String>),
    /// The path begins with one of these.
    Paths(Vec<String>),
    /// The server name of TLS is one of these.
    Sni(Vec<String>),
    /// The connection is by TLS, or is not.
    Tls(bool),
    /// The request asks for a WebSocket.
    Upgrade,
    /// The client's address is in one of these networks.
    Sources(Vec<String>),
    /// A share of the requests, at random: the first number of the second.
    Random(u32, u32),
    /// The method, a field, a parameter or a cookie of the request.
    Match(MatchTest),
    /// The client has a password of this list of users.
    Users(String),
    /// True for every request.
    Always,
    /// A test that a route cannot express.
    Other,
}

/// Hosts, paths and other tests that one alternative of a condition requires together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AclMatch {
    /// Hosts; empty: every host.
    pub(super) hosts: Vec<String>,
    /// Path prefixes; empty: every path.
    pub(super) paths: Vec<String>,
    /// Server names; empty: every name.
    pub(super) sni: Vec<String>,
    /// Whether TLS is required.
    pub(super) tls: Option<bool>,
    /// Whether a WebSocket is required.
    pub(super) upgrade: bool,
    /// Other conditions.
    pub(super) conditions: MatchDraft,
}

/// Named ACLs, each with the tests of its lines. One of these is enough.
pub(super) type AclTable = HashMap<String, Vec<AclTest>>;

/// Returns the alternatives of a condition, such as `if a !b or { path_beg /x }`. `None`: a route cannot
/// express it. `unless` negates the condition.
pub(super) fn alternatives(words: &[String], named: &AclTable) -> Option<Vec<AclMatch>> {
    let (keyword, rest) = words.split_first()?;
    let negated = match keyword.as_str() {
        "if" => false,
        "unless" => true,
        _ => return None,
    };
    let mut all = Vec::new();
    let mut alternative = AclMatch::default();
    let mut terms = 0;
    let mut words = rest.iter();
    let mut not = negated;
    while let Some(word) = words.next() {
        let bare = word.trim_start_matches('!');
        not ^= (word.len() - bare.len()) % 2 == 1;
        let test = match bare {
            "" => continue,
            "or" | "||" => {
                all.push(std::mem::take(&mut alternative));
                continue;
            }
            "{" => {
                let inner = words.by_ref().take_while(|word| *word != "}");
                test(&inner.cloned().collect::<Vec<_>>())
            }
            name => union(name, named)?,
        };
        add(&mut alternative, test, not)?;
        terms += 1;
        not = negated;
    }
    // The opposite of several tests is not one alternative.
    if negated && terms > 1 {
        return None;
    }
    all.push(alternative);
    Some(all)
}

/// Returns the one test that a named ACL amounts to. `None`: a route cannot express it.
fn union(name: &str, named: &AclTable) -> Option<AclTest> {
    match name {
        "TRUE" => return Some(AclTest::Always),
        "FALSE" => return None,
        name if !named.contains_key(name) => {
            return conditions::predefined(name).map(AclTest::Match);
        }
        _ => {}
    }
    let mut tests = named.get(name)?.iter().cloned();
    let first = tests.next()?;
    tests.try_fold(first, |all, next| match (all, next) {
        (AclTest::Hosts(one), AclTest::Hosts(other)) => Some(AclTest::Hosts([one, other].concat())),
        (AclTest::Paths(one), AclTest::Paths(other)) => Some(AclTest::Paths([one, other].concat())),
        (AclTest::Sni(one), AclTest::Sni(other)) => Some(AclTest::Sni([one, other].concat())),
        (AclTest::Upgrade, AclTest::Upgrade) => Some(AclTest::Upgrade),
        (AclTest::Match(one), AclTest::Match(other)) => one.or(other).map(AclTest::Match),
        (AclTest::Sources(one), AclTest::Sources(other)) => {
            Some(AclTest::Sources([one, other].concat()))
        }
        _ => None,
    })
}

/// Adds a test to an alternative. `None`: the tests cannot be combined.
fn add(to: &mut AclMatch, test: AclTest, negated: bool) -> Option<()> {
    match test {
        AclTest::Tls(wanted) => to.tls = Some(wanted != negated),
        AclTest::Match(test) => {
            let value = test.toml(negated)?;
            return to.conditions.add(test.kind, &test.name, value).then_some(());
        }
        _ if negated => return None,
        AclTest::Hosts(hosts) if to.hosts.is_empty() => to.hosts = hosts,
        AclTest::Paths(paths) if to.paths.is_empty() => to.paths = paths,
        AclTest::Sni(names) if to.sni.is_empty() => to.sni = names,
        AclTest::Upgrade => to.upgrade = true,
        AclTest::Sources(networks) => {
            return to.conditions.add("client", "", array(&networks)).then_some(());
        }
        AclTest::Always => {}
        _ => return None,
    }
    Some(())
}

/// The test of an ACL without its name: `hdr(host) -i chat.example.com`.
pub(super) fn test(words: &[String]) -> AclTest {
    let Some((criterion, rest)) = words.split_first() else { return AclTest::Other };
    let (mut method, mut any_case) = ("", false);
    let original = criterion.as_str();
    let mut values = Vec::new();
    let mut rest = rest.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        match word {
            "-i" if values.is_empty() => any_case = true,
            "-n" if values.is_empty() => {}
            "--" if values.is_empty() => {}
            "-m" if values.is_empty() => method = rest.next().unwrap_or(""),
            "-f" | "-M" | "-u" if values.is_empty() => return AclTest::Other,
            value => values.push(value.to_owned()),
        }
    }
    let criterion = criterion.to_ascii_lowercase();
    let (fetch, converters) =
        criterion.split_once("),").map_or((criterion.as_str(), ""), |(fetch, rest)| (fetch, rest));
    let fetch = fetch.trim_end_matches(')');
    let (fetch, converters) = match fetch.split_once(',') {
        Some((fetch, more)) if converters.is_empty() => (fetch, more),
        _ => (fetch, converters),
    };
    match (fetch, converters) {
        ("ssl_fc", "") => return AclTest::Tls(true),
        ("ssl_fc", "not") => return AclTest::Tls(false),
        ("always_true", _) => return AclTest::Always,
        ("src", "") => return sources(values),
        (rand, "") if rand.starts_with("rand(") => {
            let range = rand[5..].parse().unwrap_or(0);
            return match &values[..] {
                [less, most] if less == "lt" => random(most, range),
                _ => AclTest::Other,
            };
        }
        _ => {}
    }
    let (name, suffix) = split_suffix(fetch);
    let given = method;
    let method = if given.is_empty() { suffix } else { given };
    match name {
        "hdr(host" | "req.hdr(host" | "req.fhdr(host" | "ssl_fc_sni" | "base_dom(host" => {
            hosts(method, &values).map_or(AclTest::Other, AclTest::Hosts)
        }
        "hdr(upgrade" | "req.hdr(upgrade" | "hdr(connection" | "req.hdr(connection"
        | "hdr_cnt(upgrade" => AclTest::Upgrade,
        "path" | "url" => paths(method, values).map_or(AclTest::Other, AclTest::Paths),
        "req_ssl_sni" | "req.ssl_sni" => {
            hosts(method, &values).map_or(AclTest::Other, AclTest::Sni)
        }
        _ => match original.strip_prefix("http_auth(").and_then(|list| list.strip_suffix(')')) {
            Some(list) => AclTest::Users(list.to_owned()),
            None => conditions::condition(original, given, &values, any_case)
                .map_or(AclTest::Other, AclTest::Match),
        },
    }
}

/// Networks of clients.
fn sources(values: Vec<String>) -> AclTest {
    let valid = |value: &String| {
        value.parse::<ipnet::IpNet>().is_ok() || value.parse::<std::net::IpAddr>().is_ok()
    };
    match !values.is_empty() && values.iter().all(valid) {
        true => AclTest::Sources(values),
        false => AclTest::Other,
    }
}

/// `rand(RANGE) lt MOST`.
fn random(most: &str, range: u32) -> AclTest {
    match most.parse::<u32>() {
        Ok(most) if most < range && range <= 65_535 => AclTest::Random(most, range),
        _ => AclTest::Other,
    }
}

/// A fetch without the method at its end: `path_beg` is `path` by `beg`, `hdr_end(host` is `hdr(host`.
fn split_suffix(fetch: &str) -> (&str, &str) {
    const METHODS: [&str; 6] = ["beg", "end", "dir", "dom", "reg", "sub"];
    for method in METHODS {
        if fetch == format!("hdr_{method}(host") {
            return ("hdr(host", method);
        }
        if let Some(name) = fetch.strip_suffix(method).and_then(|name| name.strip_suffix('_')) {
            return (name, method);
        }
    }
    (fetch, "")
}

/// Hosts in the form of a route's `host`.
fn hosts(method: &str, values: &[String]) -> Option<Vec<String>> {
    let plain = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
    };
    let mut hosts = Vec::new();
    for value in values {
        let value = value.to_ascii_lowercase();
        let bare = value.split(':').next().unwrap_or(&value);
        match method {
            "" | "str" if plain(bare) => hosts.push(bare.to_owned()),
            "end" if plain(bare) && bare.starts_with('.') => hosts.push(format!("*{bare}")),
            "dom" if plain(bare) => hosts.extend([bare.to_owned(), format!("*.{bare}")]),
            _ => return None,
        }
    }
    (!hosts.is_empty()).then_some(hosts)
}

/// Path prefixes.
fn paths(method: &str, values: Vec<String>) -> Option<Vec<String>> {
    let plain = |path: &String| {
        path.starts_with('/')
            && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#*;\\%".contains(&byte))
    };
    let paths: Vec<String> = match method {
        "" | "str" | "beg" => values,
        "dir" => values.iter().map(|value| format!("/{}", value.trim_matches('/'))).collect(),
        "reg" => {
            values.iter().map(|value| regex_prefixes(value)).collect::<Option<Vec<_>>>()?.concat()
        }
        _ => return None,
    };
    (!paths.is_empty() && paths.iter().all(plain)).then_some(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn tests_are_hosts_and_paths() {
        let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        for (text, expected) in [
            ("hdr(host) -i Chat.example.com:443", AclTest::Hosts(strings(&["chat.example.com"]))),
            ("req.hdr(Host),lower a.test b.test", AclTest::Hosts(strings(&["a.test", "b.test"]))),
            ("hdr_end(host) -i .example.com", AclTest::Hosts(strings(&["*.example.com"]))),
            ("hdr(host) -m end .x.test", AclTest::Hosts(strings(&["*.x.test"]))),
            ("path_beg -i /socket.io /ws", AclTest::Paths(strings(&["/socket.io", "/ws"]))),
            ("path -m beg /api", AclTest::Paths(strings(&["/api"]))),
            ("path_reg ^/(a|b)/", AclTest::Paths(strings(&["/a/", "/b/"]))),
            ("req_ssl_sni -i db.test", AclTest::Sni(strings(&["db.test"]))),
            ("req.ssl_sni -m end .db.test", AclTest::Sni(strings(&["*.db.test"]))),
            ("ssl_fc", AclTest::Tls(true)),
            ("hdr(Upgrade) -i WebSocket", AclTest::Upgrade),
            ("src 10.0.0.0/8 ::1", AclTest::Sources(strings(&["10.0.0.0/8", "::1"]))),
            ("src -f /etc/networks", AclTest::Other),
            ("rand(100) lt 5", AclTest::Random(5, 100)),
            ("hdr_beg(host) -i ws.", AclTest::Other),
            ("path_end .php", AclTest::Other),
            ("path_beg -f /etc/paths", AclTest::Other),
        ] {
            assert_eq!(test(&words(text)), expected, "{text}");
        }
    }

    fn names(kind: &str) -> &'static str {
        match kind {
            "header" => "X-Beta",
            "cookie" => "old",
            _ => "",
        }
    }

    #[test]
    fn conditions_are_alternatives() {
        let mut named = AclTable::new();
        named.insert("is_chat".into(), vec![test(&words("hdr(host) chat.test"))]);
        named.insert(
            "is_ws".into(),
            vec![test(&words("path_beg /ws")), test(&words("path_beg /live"))],
        );
        let read = |text: &str| alternatives(&words(text), &named);
        let both = read("if is_chat is_ws").unwrap();
        assert_eq!((both[0].hosts.len(), both[0].paths.len()), (1, 2));
        let either = read("if is_chat or { path_beg /x }").unwrap();
        assert_eq!((either.len(), either[1].paths.len()), (2, 1));
        assert_eq!(read("if !{ ssl_fc }").unwrap()[0].tls, Some(false));
        assert_eq!(read("if ! { ssl_fc }").unwrap()[0].tls, Some(false));
        assert_eq!(read("unless { ssl_fc }").unwrap()[0].tls, Some(false));
        // Methods, fields and networks are conditions of `match`, alone or with a path.
        let all = "if METH_POST { hdr(X-Beta) -m found } !{ req.cook(old) -m found } { src 10.0.0.0/8 } is_ws";
        let [one] = &read(all).unwrap()[..] else { panic!("{all}") };
        assert_eq!(one.paths.len(), 2);
        for kind in ["method", "header", "cookie", "client"] {
            assert!(!one.conditions.clone().add(kind, names(kind), String::new()), "{kind}");
        }
        for text in [
            "if { hdr(a) 1 } { hdr(A) 2 }",
            "if !METH_POST",
            "if !{ src ::1 }",
            "if { http_auth(u) }",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(
            (read("if !is_chat"), read("if unknown"), read("unless is_chat is_ws")),
            (None, None, None)
        );
    }
}
