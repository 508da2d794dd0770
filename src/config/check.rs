//! From a configuration file to a [`Config`], or every fault at once.
//!
//! Two steps: [`load`] reads the main file, [`ConfigSource::check`] validates it and yields a [`Config`].
//! `check`, `run` and a reload all use these, so that they accept the same files.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    str,
    time::Duration,
};

use super::{
    AccessLogConfig, Config, Content, Forwarded, ProcessLimits, Reading, Reload, SessionsConfig,
    SharedKeys, ValuePlaces, admin, backends, bytes,
    defaults::PROCESS_DRAIN,
    drain, error_pages,
    fault::quoted,
    file::{File, TomlTable, TomlValue},
    folders, includes,
    listeners::{self, AddressClaims},
    networks, pools, routes, schema, secrets,
};
pub use super::{
    fault::{Fault, Faults, InvalidValue},
    schema::{DefaultValue, SECTIONS, SchemaKey, Section, ValueKind, json_schema, reference_page},
};

/// Maximum of `sessions.max`. A session id takes about 125 bytes.
const MOST_SESSIONS: usize = 100_000_000;

/// Maximum of `reload.max_disconnects`, more than the sessions of a process.
const MOST_DISCONNECTS: u64 = 1_000_000_000;

/// Maximum of `limits.connections`, more than the descriptors of a process.
const MOST_CLIENTS: usize = 100_000_000;

/// Maximum of `limits.handshakes`.
const MOST_HANDSHAKES: usize = 1_000_000;

/// Minimum of `reload.interval`.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Bounds of the length of a session id. Engine.IO ids have 20 characters.
const SID_BYTES: std::ops::RangeInclusive<usize> = 20..=4096;

/// The main file of a configuration: loaded, not checked yet.
pub struct ConfigSource {
    path: PathBuf,
    bytes: Result<Vec<u8>, InvalidValue>,
}

/// A configuration that was loaded and checked.
#[derive(Debug)]
pub struct CheckedConfig {
    /// The configuration, or every fault.
    pub outcome: Result<Config, Faults>,
    /// The main file, the included files and the files that they name, with absolute paths.
    pub readings: Vec<Reading>,
}

/// Loads the main file of a configuration. [`ConfigSource::check`] loads the files that it names.
pub fn load(path: &Path) -> ConfigSource {
    ConfigSource { path: path.to_owned(), bytes: bytes::read(path) }
}

/// Loads and checks a configuration file.
///
/// # Errors
///
/// Every fault, in the order of files and lines. A fault without a line if the main file cannot be read.
pub fn file(path: &Path) -> Result<Config, Faults> {
    load(path).check().outcome
}

/// Checks the text of a configuration. Relative paths start at the folder of `path`, which is not read.
///
/// # Errors
///
/// Every fault, in the order of files and lines.
pub fn text(text: &str, path: &Path) -> Result<Config, Faults> {
    check_text(text, path).0
}

impl ConfigSource {
    /// Checks the configuration. Loads the files that it includes or names, since only the check finds them.
    pub fn check(self) -> CheckedConfig {
        let Self { path, bytes } = self;
        let content = bytes.as_deref().map_or(Content::Unreadable, Content::of);
        let own = Reading { path: absolute(&path), content };
        let (outcome, named) = match bytes {
            Ok(bytes) => check_bytes(&bytes, &path),
            Err(wrong) => {
                let wrong = match &wrong.help {
                    None => wrong.help("give the path of a Moorline configuration file"),
                    Some(_) => wrong,
                };
                (Err(Faults(vec![Fault::of_file(&path, wrong)])), Vec::new())
            }
        };
        let named = named.into_iter().map(|named| Reading { path: absolute(&named.path), ..named });
        CheckedConfig { outcome, readings: std::iter::once(own).chain(named).collect() }
    }
}

fn check_bytes(bytes: &[u8], path: &Path) -> (Result<Config, Faults>, Vec<Reading>) {
    match str::from_utf8(bytes) {
        Ok(text) => check_text(text, path),
        Err(_) => (Err(Faults(vec![includes::not_utf8(path, bytes)])), Vec::new()),
    }
}

fn check_text(text: &str, path: &Path) -> (Result<Config, Faults>, Vec<Reading>) {
    let (outcome, named) = File::walk(path, text, &schema::TOP, config);
    let outcome =
        outcome.map(|(config, places)| Config { places, watched: watched(path, &named), ..config });
    (outcome, named)
}

/// The paths of a configuration's files, absolute, each once.
fn watched(path: &Path, named: &[Reading]) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    std::iter::once(path)
        .chain(named.iter().map(|named| named.path.as_path()))
        .map(absolute)
        .filter(|path| seen.insert(path.clone()))
        .collect()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn config(top: &TomlTable<'_>) -> Config {
    let mut claims = AddressClaims::default();
    let trusted_proxies: Vec<ipnet::IpNet> =
        top.value("trusted_proxies").map(|value| networks::all(&value)).unwrap_or_default();
    let listeners = listeners::all(top, &mut claims, &trusted_proxies);
    let routes = routes::all(top, &listeners);
    let admin = top.value("admin").and_then(|value| admin::admin(&value, &mut claims));
    let admin = admin.unwrap_or_default();
    let pools =
        pools::all(top, &backends::OwnAddresses { admin: &admin, listeners: &listeners }, &routes);
    let (access_log, redact) =
        top.value("access_log").and_then(|value| access_log(&value)).unwrap_or_default();
    Config {
        listeners,
        routes,
        pools,
        cookie_keys: top
            .value("cookie_key")
            .and_then(|value| secrets::cookie_keys(&value))
            .unwrap_or(SharedKeys::Generated),
        ticket_keys: top
            .value("ticket_keys")
            .and_then(|value| secrets::ticket_keys(&value))
            .unwrap_or(SharedKeys::Generated),
        trusted_proxies,
        forwarded: top
            .value("forwarded")
            .and_then(|value| {
                value.choice(&[Forwarded::Pass, Forwarded::Always].map(|f| (f.name(), f)))
            })
            .unwrap_or_default(),
        sessions: top.value("sessions").and_then(|value| sessions(&value)).unwrap_or_default(),
        cache: super::filters::cache::store(top),
        limits: top.value("limits").and_then(|value| limits(&value)).unwrap_or_default(),
        access_log,
        redact,
        drain: drain::drain(top, PROCESS_DRAIN),
        reload: top.value("reload").and_then(|value| reload(&value)).unwrap_or_default(),
        upgrade: top.value("upgrade").and_then(|value| drain::upgrade(&value)).unwrap_or_default(),
        error_pages: top.value("error_pages").and_then(|value| error_pages::error_pages(&value)),
        admin,
        places: ValuePlaces::default(),
        watched: Vec::new(),
    }
}

fn reload(value: &TomlValue<'_>) -> Option<Reload> {
    let table = value.table(&schema::RELOAD, "a table, `[reload]`")?;
    let default = Reload::default();
    let most = table.value("max_disconnects").and_then(|value| value.integer(0..=MOST_DISCONNECTS));
    let interval = table.value("interval").and_then(|value| value.duration(SHORTEST_INTERVAL));
    Some(Reload {
        watch: table.boolean("watch", default.watch),
        interval: interval.unwrap_or(default.interval),
        max_disconnects: most,
    })
}

fn sessions(value: &TomlValue<'_>) -> Option<SessionsConfig> {
    let table = value.table(&schema::SESSIONS, "a table, `[sessions]`")?;
    let default = SessionsConfig::default();
    Some(SessionsConfig {
        max: table.integer("max", 1..=MOST_SESSIONS, default.max),
        max_sid_bytes: table
            .value("max_sid_bytes")
            .and_then(|value| value.size(SID_BYTES))
            .unwrap_or(default.max_sid_bytes),
    })
}

fn limits(value: &TomlValue<'_>) -> Option<ProcessLimits> {
    let table = value.table(&schema::PROCESS_LIMITS, "a table, `[limits]`")?;
    let limit = |key, most| table.value(key).and_then(|value| value.integer(1..=most));
    Some(ProcessLimits {
        connections: limit("connections", MOST_CLIENTS),
        handshakes: limit("handshakes", MOST_HANDSHAKES),
    })
}

/// Reads the destination of the access log, and `redact`.
fn access_log(value: &TomlValue<'_>) -> Option<(AccessLogConfig, Vec<String>)> {
    if value.node.get_ref().is_str() {
        let choices = [("stdout", AccessLogConfig::Stdout), ("off", AccessLogConfig::Off)];
        return Some((value.choice(&choices)?, Vec::new()));
    }
    let table = value.table(
        &schema::ACCESS_LOG,
        "\"stdout\", \"off\" or a table such as `{ file = \"access.log\" }`",
    )?;
    let redact = table.value("redact").map(|value| value.strings(redacted));
    let (file, redact) = match (table.value("file"), redact) {
        (Some(file), redact) => (file, redact.unwrap_or_default()),
        (None, Some(redact)) => return Some((AccessLogConfig::Stdout, redact)),
        (None, None) => (table.need("file", "`file = \"access.log\"`")?, Vec::new()),
    };
    let path = file.resolve(file.string()?);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    // A missing folder is created when the log is opened.
    if let Some(folder) = folder
        && let Err(why) = folders::can_be_used(folder)
    {
        let shown = folder.display();
        let wrong = InvalidValue::new(format!(
            "the folder {} of the access log {why}",
            quoted(&shown.to_string())
        ));
        file.fault(wrong.help(match folder.exists() && !folder.is_dir() {
            true => "name a file in a folder".to_owned(),
            false => format!("run as root: {}", folders::command(folder)),
        }));
        return None;
    }
    if path.is_dir() {
        let wrong = InvalidValue::new("the access log is a folder");
        file.fault(wrong.help("add a file name, for example `file = \"logs/access.log\"`"));
        return None;
    }
    Some((AccessLogConfig::File(std::path::absolute(&path).unwrap_or(path)), redact))
}

/// Parses a part of a parameter's name, or `!` and a whole name.
fn redacted(typed: &str) -> Result<String, InvalidValue> {
    let name = typed.strip_prefix('!').unwrap_or(typed);
    let is_separator = |byte: u8| !byte.is_ascii_graphic() || b"!&=%;?#".contains(&byte);
    if name.is_empty() || name.bytes().any(is_separator) {
        let shown = quoted(typed);
        let wrong = InvalidValue::new(format!("{shown} is not a part of a parameter's name"));
        return Err(wrong.help("write \"ticket\" to hide values, \"!sort_key\" to log them"));
    }
    Ok(typed.to_owned())
}
