//! What is in force beyond the file: what the pools' sources have found, and what operators ordered.
//!
//! Owns these layers and how they lie upon a checked configuration. Everything here lives until the
//! process ends; a reload keeps what still has a pool to belong to. Pure: nothing here looks at live
//! backends.

mod carry;
mod origins;

use std::collections::HashMap;

use self::origins::Origins;
use super::{CommandError, discovery::error::SourceError};
use crate::{
    api::{BackendOrigin, BackendTarget, NewBackend},
    config::{self, BackendConfig, Config, DrainConfig, HEAVIEST, MOST_BACKENDS, valid_name},
};

/// The layers upon a configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    /// By pool.
    found: HashMap<String, DiscoveredBackends>,
    /// Backends added by order, by pool.
    added: HashMap<String, Vec<BackendConfig>>,
    /// Weights given by order, by pool and backend.
    weights: HashMap<(String, String), u32>,
    /// Drains by order; no two cover the same.
    drains: Vec<OrderedDrain>,
    /// Who named each live backend.
    origins: Origins,
}

/// What a pool's source has found.
#[derive(Clone, Debug, Default)]
struct DiscoveredBackends {
    /// The last good answer.
    backends: Vec<BackendConfig>,
    /// Why the newest one was no good.
    error: Option<String>,
}

/// A drain by order.
#[derive(Clone, Debug)]
pub(super) struct OrderedDrain {
    what: BackendTarget,
    /// `None`: nothing is closed, however long it takes.
    pub(super) terms: Option<DrainConfig>,
}

/// What a reload does to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OverlayChange {
    /// What was ordered about: `pool/backend`, or something wider.
    pub(super) name: String,
    /// In a few words.
    pub(super) words: &'static str,
    /// Whether it stays.
    pub(super) kept: bool,
}

impl Overlay {
    /// The configuration that is in force where `file_config` is what the file says.
    pub(super) fn over(&self, file_config: &Config) -> Config {
        let mut config = file_config.clone();
        for pool in &mut config.pools {
            if pool.source.is_some()
                && let Some(found) = self.found.get(&pool.name)
            {
                extend(&mut pool.backends, &found.backends);
            }
            if let Some(added) = self.added.get(&pool.name) {
                extend(&mut pool.backends, added);
            }
            for backend in &mut pool.backends {
                let key = (pool.name.clone(), backend.name.clone());
                backend.weight = self.weights.get(&key).copied().unwrap_or(backend.weight);
            }
        }
        config
    }

    /// Forgets what `file_config` has no place for any more: orders for pools that are gone, and backends
    /// that it names itself.
    pub(super) fn settle(&mut self, file_config: &Config) {
        let pool = |name: &str| file_config.pools.iter().find(|pool| pool.name == name);
        self.found.retain(|name, _| pool(name).is_some_and(|pool| pool.source.is_some()));
        self.added.retain(|name, added| {
            let Some(pool) = pool(name) else { return false };
            added.retain(|new| !pool.backends.iter().any(|backend| collides(backend, new)));
            !added.is_empty()
        });
        self.weights.retain(|(name, _), _| pool(name).is_some());
        self.drains
            .retain(|ordered| ordered.what.pool.as_deref().is_none_or(|name| pool(name).is_some()));
    }

    /// Takes a source's answer. Whether it is another one than before.
    pub(super) fn found(
        &mut self,
        pool: String,
        outcome: Result<Vec<BackendConfig>, SourceError>,
    ) -> bool {
        let found = self.found.entry(pool).or_default();
        match outcome {
            Ok(backends) => {
                found.error = None;
                let new = found.backends != backends;
                found.backends = backends;
                new
            }
            Err(error) => {
                found.error = Some(error.to_string());
                false
            }
        }
    }

    /// The last good answer of a pool's source.
    pub(super) fn last_good(&self, pool: &str) -> &[BackendConfig] {
        self.found.get(pool).map_or(&[], |found| &found.backends)
    }

    /// Why a source's newest answer was of no use.
    pub(super) fn source_error(&self, pool: &str) -> Option<&str> {
        self.found.get(pool)?.error.as_deref()
    }

    /// Adds a backend to a pool of the effective configuration; its name.
    ///
    /// # Errors
    /// There is no such pool, it has such a backend already, or the order makes no sense.
    pub(super) fn add(
        &mut self,
        config: &Config,
        pool: &str,
        new: &NewBackend,
    ) -> Result<String, CommandError> {
        let pool = named(config, pool)?;
        let invalid = |wrong: config::check::InvalidValue| CommandError::Invalid(wrong.to_string());
        let address: config::Address = new.address.parse().map_err(invalid)?;
        if address.literal().is_some_and(|address| config.admin.is_at(address)) {
            let wrong = format!("{address} is where operators are served");
            return Err(CommandError::Invalid(wrong));
        }
        if let Some(listener) = config.listeners.iter().find(|own| own.is_at(&address)) {
            let wrong = format!("{address} is an address of listener {}", listener.name);
            return Err(CommandError::Invalid(wrong));
        }
        let name = new.name.clone().unwrap_or_else(|| new.address.clone());
        valid_name(&name).map_err(invalid)?;
        let weight = weight(new.weight.unwrap_or(1))?;
        let new = BackendConfig { name, address, weight };
        if let Some(known) = pool.backends.iter().find(|known| collides(known, &new)) {
            let (pool, known, address) = (&pool.name, &known.name, &known.address);
            return Err(CommandError::Conflict(format!(
                "pool {pool} has the backend {known} ({address}) already"
            )));
        }
        if pool.backends.len() >= MOST_BACKENDS {
            return Err(CommandError::Conflict(format!(
                "a pool has at most {MOST_BACKENDS} backends"
            )));
        }
        self.added.entry(pool.name.clone()).or_default().push(new.clone());
        Ok(new.name)
    }

    /// Takes an added backend out again.
    ///
    /// # Errors
    /// There is no such backend, or it is not one that was added by order.
    pub(super) fn remove(
        &mut self,
        file_config: &Config,
        config: &Config,
        pool: &str,
        backend: &str,
    ) -> Result<(), CommandError> {
        let is_it = |known: &BackendConfig| known.name == backend;
        if !self.added.get(pool).is_some_and(|added| added.iter().any(is_it)) {
            let known = member(config, pool, backend)?;
            let whose = match self.origin(pool, backend, &known.address) {
                BackendOrigin::Discovered => "the pool's source",
                BackendOrigin::Configured | BackendOrigin::Added => "the configuration",
            };
            return Err(CommandError::Conflict(format!(
                "{pool}/{backend} comes from {whose}; only what was added here can be removed \
                 here, anything can be drained"
            )));
        }
        if let Some(added) = self.added.get_mut(pool) {
            added.retain(|known| known.name != backend);
        }
        // The pool's source may name the backend too: it stays, with what was ordered for it.
        if self
            .over(file_config)
            .pools
            .iter()
            .any(|p| p.name == pool && p.backends.iter().any(is_it))
        {
            return Ok(());
        }
        self.weights.remove(&(pool.to_owned(), backend.to_owned()));
        let own = BackendTarget { pool: Some(pool.to_owned()), backend: Some(backend.to_owned()) };
        self.drains.retain(|ordered| ordered.what != own);
        Ok(())
    }

    /// Gives a backend another weight.
    ///
    /// # Errors
    /// There is no such backend, or no such weight.
    pub(super) fn set_weight(
        &mut self,
        config: &Config,
        pool: &str,
        backend: &str,
        weight: u32,
    ) -> Result<(), CommandError> {
        member(config, pool, backend)?;
        let weight = self::weight(weight)?;
        self.weights.insert((pool.to_owned(), backend.to_owned()), weight);
        Ok(())
    }

    /// Orders a drain.
    ///
    /// # Errors
    /// There is nothing of that name, or it drains already.
    pub(super) fn drain(
        &mut self,
        config: &Config,
        what: BackendTarget,
        terms: Option<DrainConfig>,
    ) -> Result<(), CommandError> {
        exists(config, &what)?;
        if let Some(known) = self.drains.iter().find(|known| covers(&known.what, &what)) {
            let known = spoken(&known.what);
            return Err(CommandError::Conflict(format!(
                "{known} drains already; undrain it first"
            )));
        }
        // A wider order takes the place of the narrower ones.
        self.drains.retain(|known| !covers(&what, &known.what));
        self.drains.push(OrderedDrain { what, terms });
        Ok(())
    }

    /// Ends ordered drains.
    ///
    /// # Errors
    /// There is nothing of that name, it does not drain, or only as a part of something wider.
    pub(super) fn undrain(
        &mut self,
        config: &Config,
        what: &BackendTarget,
    ) -> Result<(), CommandError> {
        // An order is taken back also where its backend is gone for now.
        let before = self.drains.len();
        self.drains.retain(|known| !covers(what, &known.what));
        if self.drains.len() < before {
            return Ok(());
        }
        exists(config, what)?;
        Err(CommandError::Conflict(
            match self.drains.iter().find(|known| covers(&known.what, what)) {
                Some(wider) => {
                    let wider = spoken(&wider.what);
                    format!("{} drains as a part of {wider}; undrain that", spoken(what))
                }
                None => format!("{} does not drain", spoken(what)),
            },
        ))
    }

    /// The drain that covers a backend.
    pub(super) fn drain_of(&self, pool: &str, backend: &str) -> Option<&OrderedDrain> {
        let own = BackendTarget { pool: Some(pool.to_owned()), backend: Some(backend.to_owned()) };
        self.drain_over(&own)
    }

    /// The drain that covers a target.
    pub(super) fn drain_over(&self, what: &BackendTarget) -> Option<&OrderedDrain> {
        self.drains.iter().find(|known| covers(&known.what, what))
    }

    /// Whether everything is ordered to drain.
    pub(super) fn drains_all(&self) -> bool {
        self.drains.iter().any(|known| known.what.pool.is_none())
    }

    /// What would become of the orders if this were what the file says.
    pub(super) fn overlay_change(&self, file_config: &Config) -> Vec<OverlayChange> {
        let mut after = self.clone();
        after.settle(file_config);
        let mut overlay_changes = Vec::new();
        let mut tell = |name, kept, stays, goes| {
            overlay_changes.push(OverlayChange {
                name,
                words: if kept { stays } else { goes },
                kept,
            });
        };
        for (pool, added) in &self.added {
            let goes = match file_config.pools.iter().any(|known| known.name == *pool) {
                true => "was added by order; the file names it now",
                false => "was added by order; its pool goes",
            };
            for backend in added {
                let kept = after.added.get(pool).is_some_and(|list| list.contains(backend));
                let name = format!("{pool}/{}", backend.name);
                tell(name, kept, "added by order, until restart", goes);
            }
        }
        let goes = "its pool goes";
        for key in self.weights.keys() {
            let name = format!("{}/{}", key.0, key.1);
            let kept = after.weights.contains_key(key);
            tell(name, kept, "weight by order, until restart", goes);
        }
        for OrderedDrain { what, .. } in &self.drains {
            let kept = after.drains.iter().any(|known| known.what == *what);
            tell(spoken(what), kept, "drains by order, until restart", goes);
        }
        overlay_changes.sort_by(|one, other| one.name.cmp(&other.name));
        overlay_changes
    }
}

/// What a target is called.
pub(super) fn spoken(what: &BackendTarget) -> String {
    match (&what.pool, &what.backend) {
        (None, _) => "everything".to_owned(),
        (Some(pool), None) => format!("pool {pool}"),
        (Some(pool), Some(backend)) => format!("{pool}/{backend}"),
    }
}

/// Whether everything in `narrow` is in `wide`.
pub(super) fn covers(wide: &BackendTarget, narrow: &BackendTarget) -> bool {
    let within = |wide: &Option<String>, narrow: &Option<String>| wide.is_none() || wide == narrow;
    within(&wide.pool, &narrow.pool) && within(&wide.backend, &narrow.backend)
}

/// Whether a target names something of this configuration.
pub(super) fn exists(config: &Config, what: &BackendTarget) -> Result<(), CommandError> {
    match (&what.pool, &what.backend) {
        (None, None) => Ok(()),
        (None, Some(_)) => {
            Err(CommandError::Invalid("a backend is named by its pool too".to_owned()))
        }
        (Some(pool), None) => named(config, pool).map(|_| ()),
        (Some(pool), Some(backend)) => member(config, pool, backend).map(|_| ()),
    }
}

/// Most backends that a message names.
const MOST_NAMES: usize = 10;

fn named<'c>(config: &'c Config, pool: &str) -> Result<&'c config::PoolConfig, CommandError> {
    let known = config.pools.iter().find(|known| known.name == pool);
    known.ok_or_else(|| {
        let names: Vec<&str> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
        CommandError::NotFound(format!("there is no pool {pool}; there are: {}", names.join(", ")))
    })
}

/// A backend of the effective configuration.
pub(super) fn member<'c>(
    config: &'c Config,
    pool: &str,
    backend: &str,
) -> Result<&'c BackendConfig, CommandError> {
    let members = &named(config, pool)?.backends;
    let known = members.iter().find(|known| known.name == backend);
    known.ok_or_else(|| {
        let mut names: Vec<&str> =
            members.iter().map(|m| m.name.as_str()).take(MOST_NAMES).collect();
        if members.len() > MOST_NAMES {
            names.push("…");
        }
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        CommandError::NotFound(format!("pool {pool} has no backend {backend}; it has: {names}"))
    })
}

fn weight(weight: u32) -> Result<u32, CommandError> {
    match (1..=HEAVIEST).contains(&weight) {
        true => Ok(weight),
        false => Err(CommandError::Invalid(format!("a weight is from 1 to {HEAVIEST}"))),
    }
}

/// Appends those that are not there yet.
fn extend(backends: &mut Vec<BackendConfig>, more: &[BackendConfig]) {
    for new in more {
        if !backends.iter().any(|known| collides(known, new)) {
            backends.push(new.clone());
        }
    }
}

fn collides(one: &BackendConfig, other: &BackendConfig) -> bool {
    one.name == other.name || one.address == other.address
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::{BackendSource, Dns, PoolConfig},
        upstream::Backend as Live,
    };

    fn backend(address: &str) -> BackendConfig {
        BackendConfig { name: address.to_owned(), address: address.parse().unwrap(), weight: 1 }
    }

    fn config(pools: &[(&str, &[&str])]) -> Config {
        let mut config = Config::new(Vec::new(), PoolConfig::new("x", Vec::new()));
        let pool = |(name, list): &(&str, &[&str])| {
            PoolConfig::new(*name, list.iter().map(|address| backend(address)).collect())
        };
        config.pools = pools.iter().map(pool).collect();
        config
    }

    fn target(pool: Option<&str>, backend: Option<&str>) -> BackendTarget {
        BackendTarget { pool: pool.map(str::to_owned), backend: backend.map(str::to_owned) }
    }

    fn new(address: &str) -> NewBackend {
        NewBackend { address: address.to_owned(), name: None, weight: None }
    }

    fn names(config: &Config) -> Vec<&str> {
        config.pools[0].backends.iter().map(|backend| backend.name.as_str()).collect()
    }

    #[test]
    fn layers_lie_upon_the_file_and_the_file_comes_first() {
        let mut file_config = config(&[("chat", &["10.0.0.1:80"])]);
        file_config.pools[0].source = Some(BackendSource::Dns(Dns {
            name: "chat.test".to_owned(),
            port: 80,
            resolver: None,
            min_ttl: Duration::ZERO,
            max_ttl: Duration::ZERO,
        }));
        let mut overlay = Overlay::default();
        let found = vec![backend("10.0.0.1:80"), backend("10.0.0.2:80")];
        assert!(overlay.found("chat".to_owned(), Ok(found.clone())));
        assert!(!overlay.found("chat".to_owned(), Ok(found)));
        overlay.add(&overlay.over(&file_config), "chat", &new("10.0.0.3:80")).unwrap();
        overlay.set_weight(&overlay.over(&file_config), "chat", "10.0.0.2:80", 7).unwrap();
        let effective = overlay.over(&file_config);
        assert_eq!(names(&effective), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
        assert_eq!(effective.pools[0].backends[1].weight, 7);
        let expected = [BackendOrigin::Configured, BackendOrigin::Discovered, BackendOrigin::Added];
        assert_eq!(origins(&mut overlay, &file_config), expected);
    }

    /// The origins of the first pool's backends in force.
    fn origins(overlay: &mut Overlay, file_config: &Config) -> Vec<BackendOrigin> {
        let pool = overlay.over(file_config).pools.remove(0);
        let live = pool.backends.iter().map(|b| Live::new(&pool.name, b, &pool.reuse));
        let live: Vec<_> = live.collect();
        overlay.note_origins(file_config, live.iter().map(AsRef::as_ref));
        let origin = |b: &BackendConfig| overlay.origin(&pool.name, &b.name, &b.address);
        pool.backends.iter().map(origin).collect()
    }

    #[test]
    fn a_failed_source_keeps_what_it_found() {
        let mut overlay = Overlay::default();
        overlay.found("chat".to_owned(), Ok(vec![backend("10.0.0.2:80")]));
        assert!(!overlay.found("chat".to_owned(), Err(SourceError::Empty)));
        assert_eq!(overlay.source_error("chat"), Some("the answer contains no backend"));
        assert_eq!(overlay.found["chat"].backends.len(), 1);
    }

    #[test]
    fn orders_that_make_no_sense_are_refused() {
        let file_config = config(&[("chat", &["10.0.0.1:80"])]);
        let mut overlay = Overlay::default();
        let is = |result: Result<String, CommandError>, wanted: fn(String) -> CommandError| {
            let denied = result.unwrap_err();
            assert_eq!(denied, wanted(denied.to_string()));
        };
        is(overlay.add(&file_config, "chta", &new("10.0.0.2:80")), CommandError::NotFound);
        is(overlay.add(&file_config, "chat", &new("10.0.0.1:80")), CommandError::Conflict);
        is(overlay.add(&file_config, "chat", &new("10.0.0.2")), CommandError::Invalid);
        let heavy = NewBackend { weight: Some(0), ..new("10.0.0.2:80") };
        is(overlay.add(&file_config, "chat", &heavy), CommandError::Invalid);
        let mut own = file_config.clone();
        own.admin.metrics = "127.0.0.1:9090".parse().ok();
        is(overlay.add(&own, "chat", &new("127.0.0.1:9090")), CommandError::Invalid);
        let unit = |result: Result<(), CommandError>| result.map(|()| String::new());
        is(
            unit(overlay.remove(&file_config, &file_config, "chat", "10.0.0.1:80")),
            CommandError::Conflict,
        );
        is(
            unit(overlay.remove(&file_config, &file_config, "chat", "10.0.0.9:80")),
            CommandError::NotFound,
        );
        is(
            unit(overlay.set_weight(&file_config, "chat", "10.0.0.1:80", 70_000)),
            CommandError::Invalid,
        );
        is(
            unit(overlay.drain(&file_config, target(Some("chat"), Some("x")), None)),
            CommandError::NotFound,
        );
        is(unit(overlay.drain(&file_config, target(None, Some("x")), None)), CommandError::Invalid);
        is(
            unit(overlay.undrain(&file_config, &target(Some("chat"), None))),
            CommandError::Conflict,
        );
        is(
            unit(overlay.undrain(&file_config, &target(Some("chat"), Some("x")))),
            CommandError::NotFound,
        );
    }

    #[test]
    fn a_second_drain_is_refused_and_a_wider_one_takes_its_place() {
        let file_config = config(&[("chat", &["10.0.0.1:80", "10.0.0.2:80"])]);
        let one = || target(Some("chat"), Some("10.0.0.1:80"));
        let pool = || target(Some("chat"), None);
        let mut overlay = Overlay::default();
        overlay.drain(&file_config, one(), None).unwrap();
        assert!(matches!(overlay.drain(&file_config, one(), None), Err(CommandError::Conflict(_))));
        assert!(overlay.drain_of("chat", "10.0.0.2:80").is_none());
        let terms = DrainConfig::within(Duration::from_secs(10));
        overlay.drain(&file_config, pool(), Some(terms)).unwrap();
        assert_eq!(overlay.drain_of("chat", "10.0.0.1:80").unwrap().terms, Some(terms));
        let narrower = overlay.undrain(&file_config, &one()).unwrap_err();
        assert!(narrower.to_string().contains("as a part of pool chat"), "{narrower}");
        overlay.drain(&file_config, target(None, None), None).unwrap();
        assert!(overlay.drains_all());
        overlay.undrain(&file_config, &target(None, None)).unwrap();
        assert!(overlay.drain_of("chat", "10.0.0.1:80").is_none());
    }

    #[test]
    fn orders_about_backends_that_are_gone_are_taken_back() {
        let (with, without) = (config(&[("chat", &["10.0.0.1:80"])]), config(&[("chat", &[])]));
        let mut overlay = Overlay::default();
        let one = target(Some("chat"), Some("10.0.0.1:80"));
        overlay.drain(&with, one.clone(), None).unwrap();
        overlay.undrain(&without, &one).unwrap();
        // One that a source has found since shadows it.
        overlay.add(&without, "chat", &new("10.0.0.9:80")).unwrap();
        let shadowed = config(&[("chat", &["10.0.0.1:80"])]);
        overlay.remove(&shadowed, &shadowed, "chat", "10.0.0.9:80").unwrap();
        assert_eq!(names(&overlay.over(&shadowed)), ["10.0.0.1:80"]);
    }

    #[test]
    fn a_reload_keeps_what_still_has_a_place() {
        let file_config = config(&[("chat", &["10.0.0.1:80"]), ("old", &["10.0.1.1:80"])]);
        let mut overlay = Overlay::default();
        for (pool, address) in
            [("chat", "10.0.0.2:80"), ("chat", "10.0.0.3:80"), ("old", "10.0.1.2:80")]
        {
            overlay.add(&file_config, pool, &new(address)).unwrap();
        }
        overlay.drain(&file_config, target(Some("old"), None), None).unwrap();
        let next = config(&[("chat", &["10.0.0.1:80", "10.0.0.2:80"])]);
        let overlay_change = overlay.overlay_change(&next);
        let kept = |name: &str| {
            overlay_change.iter().find(|overlay_change| overlay_change.name == name).unwrap().kept
        };
        assert!(!kept("chat/10.0.0.2:80") && kept("chat/10.0.0.3:80") && !kept("pool old"));
        overlay.settle(&next);
        assert_eq!(names(&overlay.over(&next)), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
        let expected = [BackendOrigin::Configured, BackendOrigin::Configured, BackendOrigin::Added];
        assert_eq!(origins(&mut overlay, &next), expected);
    }
}
