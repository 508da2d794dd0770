//! The backends of a pool: inline, in a list file with one address per line, or from a source.

use std::{collections::HashMap, ops::Range};

use toml::de::DeValue;

use super::{
    self as config, Address, Admin, BackendConfig, ListenerConfig,
    fault::{Fault, InvalidValue, SourceText, quoted},
    file::{TomlTable, TomlValue},
    names::{self, Unique},
    schema, sources,
};

/// Maximum number of backends of a pool.
pub(crate) const MOST: usize = 65_536;

/// Largest weight.
pub(crate) const HEAVIEST: u32 = 65_535;

/// Addresses of this process, which no backend may have.
pub(super) struct OwnAddresses<'a> {
    pub(super) admin: &'a Admin,
    pub(super) listeners: &'a [ListenerConfig],
}

/// Reads an array of addresses and tables, or the table of a source.
pub(super) fn all(
    value: &TomlValue<'_>,
    own: &OwnAddresses<'_>,
) -> (Vec<BackendConfig>, Option<config::BackendSource>) {
    if let Some(elements) = value.elements() {
        return (inline(value, elements, own), None);
    }
    let wanted = "an array of addresses, or a table such as `{ file = \"backends.txt\" }`";
    let table = value.table(&schema::BACKEND_SOURCE, wanted);
    table.map(|table| brought(&table, own)).unwrap_or_default()
}

/// Reads a source: exactly one kind, with the keys of that kind only.
fn brought(
    table: &TomlTable<'_>,
    own: &OwnAddresses<'_>,
) -> (Vec<BackendConfig>, Option<config::BackendSource>) {
    let kinds = ["file", "dns", "srv", "http"];
    let mut named = kinds.iter().filter_map(|kind| table.value(kind));
    let Some(first) = named.next() else {
        // An unknown key is probably the misspelt source, and is reported itself.
        if !table.has_unknown_keys() {
            let wrong = InvalidValue::new("this table names no source of backends")
                .help("add `file`, `dns`, `srv` or `http`, for example `file = \"backends.txt\"`");
            table.file().missing(table.at(), wrong);
        }
        return Default::default();
    };
    for second in named {
        let message = format!("`backends` already has the source `{}`", first.key);
        second
            .fault(InvalidValue::new(message).help("a pool has one source: remove one of the two"));
    }
    let is_name = matches!(first.key, "dns" | "srv");
    if !is_name {
        table.refuse(&["resolver", "min_ttl", "max_ttl"], |key| {
            InvalidValue::new(format!("`{key}` is used with `dns` and `srv` only"))
                .help("remove it")
        });
    }
    if first.key != "http" {
        table.refuse(&["interval", "timeout"], |key| {
            InvalidValue::new(format!("`{key}` is used with `http` only")).help("remove it")
        });
    }
    match first.key {
        "file" => (from_file(&first, own).unwrap_or_default(), None),
        "dns" => (Vec::new(), sources::dns(table, &first)),
        "srv" => (Vec::new(), sources::srv(table, &first)),
        _ => (Vec::new(), sources::http(table, &first)),
    }
}

fn from_file(named: &TomlValue<'_>, own: &OwnAddresses<'_>) -> Option<Vec<BackendConfig>> {
    let path = named.resolve(named.string()?);
    let bytes = named.checked(named.read(&path))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        InvalidValue::new(format!("{} is not UTF-8 text", quoted(&path.to_string_lossy())))
            .help("the file has one address per line, for example 10.0.0.11:3000")
    });
    let text = named.checked(text)?;
    Some(listed(&SourceText::new(&path, &text), own, |fault| {
        named.file.elsewhere(&named.at(), fault);
    }))
}

/// Names and addresses of the backends of a pool so far.
struct Taken<'a> {
    own: &'a OwnAddresses<'a>,
    names: Unique<String>,
    addresses: Unique<Address>,
}

impl<'a> Taken<'a> {
    fn new(own: &'a OwnAddresses<'a>) -> Self {
        Self { own, names: Unique::new(), addresses: Unique::new() }
    }

    /// Takes the name and the address of a backend at this offset.
    ///
    /// # Errors
    /// One of them is taken. `place` is the place of an offset in words.
    fn take(
        &mut self,
        backend: &BackendConfig,
        at: usize,
        place: impl Fn(usize) -> String,
    ) -> Result<(), InvalidValue> {
        if backend.address.literal().is_some_and(|address| self.own.admin.is_at(address)) {
            let message = format!("{} is an address of `admin`", backend.address);
            return Err(InvalidValue::new(message)
                .help("remove it: clients must not reach the admin endpoints through a pool"));
        }
        if backend.address.unix_path().is_some_and(|path| self.own.admin.is_at_path(path)) {
            let wrong = InvalidValue::new(format!("{} is the socket of `admin`", backend.address));
            return Err(
                wrong.help("remove it: clients must not reach the admin endpoints through a pool")
            );
        }
        if let Some(listener) = self.own.listeners.iter().find(|own| own.is_at(&backend.address)) {
            let name = quoted(&listener.name);
            let wrong =
                InvalidValue::new(format!("{} is an address of listener {name}", backend.address));
            return Err(wrong.help(
                "the proxy would send requests to itself: write the address of the application",
            ));
        }
        let twice = |message: String, first: usize| {
            let help = format!("remove one of the two; the first is {}", place(first));
            InvalidValue::new(message).help(help)
        };
        self.addresses.add(backend.address.clone(), at).map_err(|first| {
            twice(format!("this pool already has the address {}", backend.address), first)
        })?;
        self.names.add(backend.name.clone(), at).map_err(|first| {
            let name = quoted(&backend.name);
            twice(format!("this pool already has a backend named {name}"), first)
        })
    }
}

fn inline<'t>(
    value: &TomlValue<'t>,
    elements: impl Iterator<Item = TomlValue<'t>>,
    own: &OwnAddresses<'_>,
) -> Vec<BackendConfig> {
    let mut taken = Taken::new(own);
    let mut backends = Vec::new();
    let mut count = 0;
    for element in elements {
        count += 1;
        let Some(backend) = one(&element) else { continue };
        let at = element.at().start;
        let place = |first| value.file.place(first, at);
        if element.checked(taken.take(&backend, at, place)).is_some() {
            backends.push(backend);
        }
    }
    if count == 0 {
        value.fault(
            InvalidValue::new("this pool has no backend")
                .help("write at least one address: `backends = [\"10.0.0.11:3000\"]`"),
        );
    }
    if count > MOST {
        value.fault(too_many());
    }
    if !backends.is_empty() && backends.iter().all(|backend| backend.backup) {
        let wrong = InvalidValue::new("every backend of this pool is a backup");
        value.fault(wrong.help("remove `backup` from at least one of them"));
    }
    backends
}

fn too_many() -> InvalidValue {
    InvalidValue::new(format!("a pool has at most {MOST} backends"))
        .help("split them into several pools")
}

/// Reads one backend: an address or a table.
fn one(value: &TomlValue<'_>) -> Option<BackendConfig> {
    match value.node.get_ref() {
        DeValue::String(_) => {
            let address: Address = value.parsed(str::parse)?;
            Some(BackendConfig {
                name: value.string()?.to_owned(),
                address,
                weight: 1,
                backup: false,
            })
        }
        DeValue::Table(_) => {
            let table = value.table(&schema::BACKEND, "a table")?;
            described(&table)
        }
        _ => {
            let wanted =
                "an address or a table such as `{ address = \"10.0.0.11:3000\", weight = 2 }`";
            value.wrong_type_with_help(wanted, || {
                value.typed_number().map(|port| format!("write \"127.0.0.1:{port}\""))
            });
            None
        }
    }
}

fn described(table: &TomlTable<'_>) -> Option<BackendConfig> {
    let address = table.need("address", "`address = \"10.0.0.11:3000\"`");
    let typed = address.and_then(|value| value.string().map(str::to_owned));
    let address: Option<Address> =
        typed.as_ref().and(address).and_then(|value| value.parsed(str::parse));
    let weight = table.integer("weight", 1..=HEAVIEST, 1);
    let name = match table.value("name") {
        Some(value) => value.parsed(|name| names::valid(name).map(|()| name.to_owned())),
        None => typed,
    };
    let backup = table.boolean("backup", false);
    Some(BackendConfig { name: name?, address: address?, weight, backup })
}

/// Reads a backend list: an address per line, followed by `name=…`, `weight=…` and `backup`; `#` starts a comment.
fn listed(
    source: &SourceText<'_>,
    own: &OwnAddresses<'_>,
    mut report: impl FnMut(Fault),
) -> Vec<BackendConfig> {
    let mut taken = Taken::new(own);
    let mut backends = Vec::new();
    for (start, line) in source.lines() {
        let words = words(line);
        let Some((address, settings)) = words.split_first() else { continue };
        let place = |word: &Word<'_>| start + word.at.start..start + word.at.end;
        if let Some(wrong) = foreign_line(&words) {
            report(source.fault(&place(address), wrong));
            continue;
        }
        let parsed = address.text.parse::<Address>();
        let mut backend = match parsed {
            Ok(parsed) => BackendConfig {
                name: address.text.to_owned(),
                address: parsed,
                weight: 1,
                backup: false,
            },
            Err(wrong) => {
                report(source.fault(&place(address), wrong));
                continue;
            }
        };
        let mut given = HashMap::new();
        for word in settings {
            if let Err(wrong) = set(&mut backend, word.text, &mut given) {
                report(source.fault(&place(word), wrong));
            }
        }
        let line = |first| format!("on line {}", source.line(first));
        match taken.take(&backend, start, line) {
            Ok(()) => backends.push(backend),
            Err(wrong) => report(source.fault(&place(address), wrong)),
        }
    }
    if backends.len() > MOST {
        report(Fault::of_file(source.path(), too_many()));
    }
    backends
}

/// Recognizes a line of another proxy's configuration: `server ADDRESS;` or `server NAME ADDRESS check`.
fn foreign_line(words: &[Word<'_>]) -> Option<InvalidValue> {
    let [keyword, rest @ ..] = words else { return None };
    let is_server = matches!(keyword.text, "server" | "backend" | "upstream" | "to");
    let mut found = rest.iter().map(|word| word.text.trim_end_matches(';'));
    let address = found.find(|text| text.parse::<Address>().is_ok()).filter(|_| is_server)?;
    Some(
        InvalidValue::new(format!("unexpected word {} before the address", quoted(keyword.text)))
            .help(format!("write the address alone: {address}")),
    )
}

/// Applies one `key=value`, or `backup`. `given` has the keys of the line so far.
fn set<'l>(
    backend: &mut BackendConfig,
    word: &'l str,
    given: &mut HashMap<&'l str, ()>,
) -> Result<(), InvalidValue> {
    let unknown = || {
        InvalidValue::new(format!("unknown setting {}", quoted(word)))
            .help("only `name=…`, `weight=…` and `backup` can follow an address")
    };
    if word == "backup" {
        backend.backup = true;
        return Ok(());
    }
    let (key, value) = word.split_once('=').ok_or_else(unknown)?;
    match key {
        "name" => {
            names::valid(value)?;
            value.clone_into(&mut backend.name);
        }
        "weight" => {
            let weight = value.parse().ok().filter(|weight| (1..=HEAVIEST).contains(weight));
            backend.weight = weight.ok_or_else(|| {
                InvalidValue::new(format!("`weight` must be from 1 to {HEAVIEST}"))
                    .help("write for example `weight=2`")
            })?;
        }
        _ => return Err(unknown()),
    }
    match given.insert(key, ()) {
        Some(()) => {
            Err(InvalidValue::new(format!("`{key}` is given twice")).help("remove one of the two"))
        }
        None => Ok(()),
    }
}

/// A word of a line with its byte range.
#[derive(Debug, PartialEq)]
struct Word<'l> {
    at: Range<usize>,
    text: &'l str,
}

/// The words of a line up to a comment. A `#` within a word does not start a comment.
fn words(line: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut from = 0;
    for part in line.split(|c: char| c.is_whitespace()) {
        if part.starts_with('#') {
            break;
        }
        if !part.is_empty() {
            words.push(Word { at: from..from + part.len(), text: part });
        }
        // One whitespace character follows each part, of one to three bytes.
        let end = from + part.len();
        from = end + line[end..].chars().next().map_or(0, char::len_utf8);
    }
    words
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Admin, OwnAddresses, SourceText, listed, words};

    fn list(text: &str) -> (Vec<String>, String) {
        let mut faults = String::new();
        let source = SourceText::new(Path::new("backends.txt"), text);
        let own = OwnAddresses { admin: &Admin::default(), listeners: &[] };
        let backends = listed(&source, &own, |fault| faults += &fault.to_string());
        let shown = |b: &super::BackendConfig| format!("{} {} {}", b.name, b.address, b.weight);
        (backends.iter().map(shown).collect(), faults)
    }

    #[test]
    fn a_list_has_one_address_per_line() {
        let (backends, faults) = list(
            "\u{feff}# the blue ones\r\n10.0.0.1:3000\r\n\r\n  10.0.0.2:3000\tname=b weight=3 # big\n\
             [::1]:3000 #\nnode-3:80 name=a#b",
        );
        assert_eq!(faults, "");
        assert_eq!(
            backends,
            [
                "10.0.0.1:3000 10.0.0.1:3000 1",
                "b 10.0.0.2:3000 3",
                "[::1]:3000 [::1]:3000 1",
                "a#b node-3:80 1"
            ]
        );
        assert_eq!(list("# none today\n"), (Vec::new(), String::new()));
    }

    #[test]
    fn every_fault_of_a_list_has_its_place() {
        let (_, faults) = list(
            "10.0.0.1\n10.0.0.2:80 wieght=2\n10.0.0.2:80\n10.0.0.3:80 weight=0\n\
             10.0.0.4:80 name=x\n10.0.0.5:80 name=x\n10.0.0.6:80 name=a name=b\n",
        );
        for part in [
            "`10.0.0.1` has no port\n --> backends.txt:1:1\n",
            "unknown setting `wieght=2`\n --> backends.txt:2:13\n",
            "already has the address 10.0.0.2:80\n --> backends.txt:3:1\n",
            "from 1 to 65535\n --> backends.txt:4:13\n",
            "already has a backend named `x`\n --> backends.txt:6:1\n",
            "`name` is given twice\n --> backends.txt:7:20\n",
        ] {
            assert!(faults.contains(part), "{part} in:\n{faults}");
        }
    }

    #[test]
    fn lines_of_other_proxies_get_the_address_alone() {
        for line in ["server 10.0.0.1:80;", "server web1 10.0.0.1:80 check", "to 10.0.0.1:80"] {
            let (backends, faults) = list(line);
            assert!(backends.is_empty(), "{line}");
            assert!(faults.contains("write the address alone: 10.0.0.1:80\n"), "{faults}");
        }
    }

    #[test]
    fn words_have_their_place_after_any_whitespace() {
        let places: Vec<_> = words(" a\u{a0}bc\u{2003}d").into_iter().map(|w| w.at).collect();
        assert_eq!(places, [1..2, 4..6, 9..10]);
    }
}
