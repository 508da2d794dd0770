//! The layers as they go to the next process at a binary upgrade.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DiscoveredBackends, OrderedDrain, Origins, Overlay};
use crate::{
    api::{BackendOrigin, BackendTarget},
    config::{Address, BackendConfig, DrainConfig},
};

/// [`Overlay`], flat.
#[derive(Debug, Default, Deserialize, Serialize)]
struct OverlayRecord {
    found: Vec<(String, Vec<CarriedBackend>, Option<String>)>,
    added: Vec<(String, Vec<CarriedBackend>)>,
    /// By pool and backend.
    weights: Vec<(String, String, u32)>,
    /// What, and within which time and spread.
    drains: Vec<(BackendTarget, Option<(Duration, Duration)>)>,
    /// By pool, name and address; an older process sends none.
    #[serde(default)]
    origins: Vec<((String, String, String), BackendOrigin)>,
}

/// A backend.
#[derive(Debug, Deserialize, Serialize)]
struct CarriedBackend {
    name: String,
    host: String,
    port: u16,
    weight: u32,
}

impl Overlay {
    /// For the next process; `left` says how much of a drain's time there still is.
    pub(in crate::control) fn carry(
        &self,
        left: impl Fn(&BackendTarget, DrainConfig) -> DrainConfig,
    ) -> Value {
        let all = |list: &[BackendConfig]| list.iter().map(CarriedBackend::of).collect();
        let found = self.found.iter();
        let drains = self.drains.iter().map(|ordered| {
            let terms = ordered.terms.map(|terms| left(&ordered.what, terms));
            let terms = terms.map(|terms| (terms.within, terms.spread));
            (ordered.what.clone(), terms)
        });
        let weights = self.weights.iter();
        let layers = OverlayRecord {
            found: found
                .map(|(pool, found)| (pool.clone(), all(&found.backends), found.error.clone()))
                .collect(),
            added: self.added.iter().map(|(pool, added)| (pool.clone(), all(added))).collect(),
            weights: weights.map(|((pool, name), w)| (pool.clone(), name.clone(), *w)).collect(),
            drains: drains.collect(),
            origins: self.origins.0.iter().map(|(key, origin)| (key.clone(), *origin)).collect(),
        };
        serde_json::to_value(layers).unwrap_or_default()
    }

    /// From the process before.
    ///
    /// # Errors
    /// It is something else.
    pub(in crate::control) fn carried(value: Value) -> Result<Self, serde_json::Error> {
        let layers: OverlayRecord = serde_json::from_value(value)?;
        let all = |list: Vec<CarriedBackend>| list.into_iter().map(BackendConfig::from).collect();
        let drains = layers.drains.into_iter().map(|(what, terms)| {
            let terms = terms.map(|(within, spread)| DrainConfig { within, spread });
            OrderedDrain { what, terms }
        });
        let found = layers.found.into_iter();
        let weights = layers.weights.into_iter();
        Ok(Self {
            found: found
                .map(|(pool, list, error)| {
                    (pool, DiscoveredBackends { backends: all(list), error })
                })
                .collect(),
            added: layers.added.into_iter().map(|(pool, list)| (pool, all(list))).collect(),
            weights: weights.map(|(pool, name, weight)| ((pool, name), weight)).collect(),
            drains: drains.collect(),
            origins: Origins(layers.origins.into_iter().collect()),
        })
    }
}

impl CarriedBackend {
    fn of(backend: &BackendConfig) -> Self {
        let Address { host, port } = backend.address.clone();
        Self { name: backend.name.clone(), host, port, weight: backend.weight }
    }
}

impl From<CarriedBackend> for BackendConfig {
    fn from(carried: CarriedBackend) -> Self {
        let CarriedBackend { name, host, port, weight } = carried;
        Self { name, address: Address { host, port }, weight }
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
    fn every_layer_is_the_same_after_it() {
        let config = Config::new(Vec::new(), PoolConfig::new("chat", Vec::new()));
        let mut overlay = Overlay::default();
        let found = BackendConfig {
            name: "a".to_owned(),
            address: "10.0.0.1:80".parse().unwrap(),
            weight: 3,
        };
        overlay.found("chat".to_owned(), Ok(vec![found]));
        overlay.found("chat".to_owned(), Err(SourceError::Empty));
        let new = NewBackend { address: "[::1]:81".to_owned(), name: None, weight: Some(2) };
        overlay.add(&config, "chat", &new).unwrap();
        overlay.set_weight(&overlay.over(&config), "chat", "[::1]:81", 9).unwrap();
        let what = BackendTarget { pool: Some("chat".to_owned()), backend: None };
        let terms = DrainConfig::within(Duration::from_millis(1500));
        overlay.drain(&config, what, Some(terms)).unwrap();
        let text = overlay.carry(|_, terms| terms).to_string();
        let after = Overlay::carried(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(format!("{after:?}"), format!("{overlay:?}"));
        assert!(Overlay::carried(Value::Null).is_err());
    }
}
