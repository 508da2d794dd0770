//! The overlay as JSON, for the next process at an upgrade.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DiscoveredBackends, Origins, Overlay, RequestedDrain};
use crate::{
    api::{BackendOrigin, BackendTarget},
    config::{Address, BackendConfig, DrainConfig},
};

/// [`Overlay`] in the form in which it is sent.
#[derive(Debug, Default, Deserialize, Serialize)]
struct OverlayRecord {
    found: Vec<(String, Vec<OverlayBackend>, Option<String>)>,
    added: Vec<(String, Vec<OverlayBackend>)>,
    /// By pool and backend.
    weights: Vec<(String, String, u32)>,
    /// Target, then deadline and spread.
    drains: Vec<(BackendTarget, Option<(Duration, Duration)>)>,
    /// By pool, name and address. Older versions do not send it.
    #[serde(default)]
    origins: Vec<((String, String, String), BackendOrigin)>,
}

/// A backend of an [`OverlayRecord`].
#[derive(Debug, Deserialize, Serialize)]
struct OverlayBackend {
    name: String,
    host: String,
    port: u16,
    weight: u32,
    /// Earlier versions have no backups.
    #[serde(default)]
    backup: bool,
}

impl Overlay {
    /// Exports the overlay. `remaining` returns what remains of the time of a drain.
    pub(in crate::control) fn export(
        &self,
        remaining: impl Fn(&BackendTarget, DrainConfig) -> DrainConfig,
    ) -> Value {
        let all = |list: &[BackendConfig]| list.iter().map(OverlayBackend::of).collect();
        let discovered = self.discovered.iter();
        let drains = self.drains.iter().map(|drain| {
            let terms = drain.terms.map(|terms| remaining(&drain.target, terms));
            let terms = terms.map(|terms| (terms.within, terms.spread));
            (drain.target.clone(), terms)
        });
        let weights = self.weights.iter();
        let record = OverlayRecord {
            found: discovered
                .map(|(pool, found)| (pool.clone(), all(&found.backends), found.error.clone()))
                .collect(),
            added: self.added.iter().map(|(pool, added)| (pool.clone(), all(added))).collect(),
            weights: weights.map(|((pool, name), w)| (pool.clone(), name.clone(), *w)).collect(),
            drains: drains.collect(),
            origins: self.origins.0.iter().map(|(key, origin)| (key.clone(), *origin)).collect(),
        };
        serde_json::to_value(record).unwrap_or_default()
    }

    /// Imports the overlay of the previous process.
    ///
    /// # Errors
    /// `value` is not an exported overlay.
    pub(in crate::control) fn import(value: Value) -> Result<Self, serde_json::Error> {
        let record: OverlayRecord = serde_json::from_value(value)?;
        let all = |list: Vec<OverlayBackend>| list.into_iter().map(BackendConfig::from).collect();
        let drains = record.drains.into_iter().map(|(target, terms)| {
            let terms = terms.map(|(within, spread)| DrainConfig { within, spread });
            RequestedDrain { target, terms }
        });
        let discovered = record.found.into_iter();
        let weights = record.weights.into_iter();
        Ok(Self {
            discovered: discovered
                .map(|(pool, list, error)| {
                    (pool, DiscoveredBackends { backends: all(list), error })
                })
                .collect(),
            added: record.added.into_iter().map(|(pool, list)| (pool, all(list))).collect(),
            weights: weights.map(|(pool, name, weight)| ((pool, name), weight)).collect(),
            drains: drains.collect(),
            origins: Origins(record.origins.into_iter().collect()),
        })
    }
}

impl OverlayBackend {
    fn of(backend: &BackendConfig) -> Self {
        let Address { host, port } = backend.address.clone();
        Self {
            name: backend.name.clone(),
            host,
            port,
            weight: backend.weight,
            backup: backend.backup,
        }
    }
}

impl From<OverlayBackend> for BackendConfig {
    fn from(backend: OverlayBackend) -> Self {
        let OverlayBackend { name, host, port, weight, backup } = backend;
        Self { name, address: Address { host, port }, weight, backup }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::NewBackend,
        config::{Config, PoolConfig},
        control::discovery::error::SourceError,
    };

    #[test]
    fn an_imported_overlay_equals_the_exported_one() {
        let config = Config::new(Vec::new(), PoolConfig::new("chat", Vec::new()));
        let mut overlay = Overlay::default();
        let found = BackendConfig {
            name: "a".to_owned(),
            address: "10.0.0.1:80".parse().unwrap(),
            weight: 3,
            backup: true,
        };
        overlay.record_answer("chat".to_owned(), Ok(vec![found]));
        overlay.record_answer("chat".to_owned(), Err(SourceError::Empty));
        let new = NewBackend {
            address: "[::1]:81".to_owned(),
            name: None,
            weight: Some(2),
            backup: true,
        };
        overlay.add(&config, "chat", &new).unwrap();
        overlay.set_weight(&overlay.effective(&config), "chat", "[::1]:81", 9).unwrap();
        let what = BackendTarget { pool: Some("chat".to_owned()), backend: None };
        let terms = DrainConfig::within(Duration::from_millis(1500));
        overlay.drain(&config, what, Some(terms)).unwrap();
        let text = overlay.export(|_, terms| terms).to_string();
        let after = Overlay::import(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(format!("{after:?}"), format!("{overlay:?}"));
        assert!(Overlay::import(Value::Null).is_err());
    }
}
