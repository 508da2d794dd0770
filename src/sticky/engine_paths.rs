//! The places where backends serve Engine.IO.
//!
//! Any request can have the query of an Engine.IO request. What Engine.IO is exempt from, or a session allows, must therefore
//! depend on where the request goes: to a path whose backend has opened a session there, or to a usual path of Engine.IO
//! directly below the path of the route. A place is a route, a pool and a path in normal form.
//!
//! Places are learned from the open packets of backends, which clients cannot forge, and forgotten with the process.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use arc_swap::ArcSwap;

use crate::config::path;

/// Maximum number of places; further ones are not learned.
const MOST: usize = 4096;

/// Usual last segments of the paths of Engine.IO.
const USUAL: [&str; 2] = ["socket.io", "engine.io"];

/// The learned places.
#[derive(Debug, Default)]
pub(crate) struct EnginePaths {
    learned: ArcSwap<HashSet<u64>>,
    hasher: RandomState,
}

/// The place that a request goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EnginePlace {
    /// Identifies the place within this process.
    pub(crate) number: u64,
    /// Whether Engine.IO is served there.
    pub(crate) serves: bool,
}

impl EnginePaths {
    /// The place of a request with this path, as sent. `route` names the route, with its path.
    pub(crate) fn place(&self, route: &str, pool: &str, path: &str) -> EnginePlace {
        let normal = path::normal(path);
        let normal = normal.trim_end_matches('/');
        let number = self.hasher.hash_one((route, pool, normal));
        let serves = is_usual(route, normal) || self.learned.load().contains(&number);
        EnginePlace { number, serves }
    }

    /// Learns that a backend has opened a session there.
    pub(crate) fn learn(&self, place: EnginePlace) {
        if place.serves || self.learned.load().len() >= MOST {
            return;
        }
        self.learned.rcu(|learned| {
            let mut learned = HashSet::clone(learned);
            learned.insert(place.number);
            Arc::new(learned)
        });
    }
}

/// Whether the path is a usual one for the route.
fn is_usual(route: &str, normal: &str) -> bool {
    let path = route.find('/').map_or("", |at| &route[at..]);
    // Conditions and listeners follow.
    let below = path.split(' ').next().unwrap_or_default().trim_end_matches('/');
    let usual = |last: &str| USUAL.contains(&last);
    match normal.rsplit_once('/') {
        Some((before, last)) => usual(last) && (before == below || normal == below),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_paths_are_directly_below_the_route() {
        for (route, path, expected) in [
            ("/", "/socket.io/", true),
            ("/", "/socket.io", true),
            ("", "/engine.io/", true),
            ("chat.example.com/", "//socket.io/", true),
            ("chat.example.com/app", "/app/socket.io/", true),
            ("/ on web", "/socket.io/", true),
            ("/app (method GET) on web", "/app/socket.io/", true),
            ("/socket.io", "/socket.io/", true),
            ("/app/socket.io/", "/app/socket.io", true),
            ("/", "/app/socket.io/", false),
            ("/", "/api/users.php/socket.io/", false),
            ("/app", "/socket.io/", false),
            ("/", "/socket.io/x", false),
            ("/", "/", false),
        ] {
            let serves = EnginePaths::default().place(route, "app", path).serves;
            assert_eq!(serves, expected, "{route} {path}");
        }
    }

    #[test]
    fn other_places_are_learned_one_by_one() {
        let paths = EnginePaths::default();
        let place = |pool, path| paths.place("/", pool, path);
        let realtime = place("app", "/realtime/");
        assert!(!realtime.serves);
        paths.learn(realtime);
        assert!(place("app", "/realtime").serves && place("app", "//realtime/").serves);
        assert_eq!(place("app", "/realtime").number, realtime.number);
        assert!(!place("app", "/realtime/x").serves && !place("other", "/realtime").serves);
    }
}
