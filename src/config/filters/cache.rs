//! `cache` of a route, and `[cache]`.

use std::{path::PathBuf, time::Duration};

use crate::config::{
    CacheConfig, CacheDiskConfig, CacheStoreConfig, InvalidValue,
    fault::quoted,
    file::{TomlTable, TomlValue},
    reader::SHORTEST,
    schema,
};

/// Largest stored response.
const LARGEST_ENTRY: usize = 1 << 30;

/// Longest lifetime that a setting gives.
const LONGEST_LIFETIME: Duration = Duration::from_secs(400 * 86_400);

/// Largest store.
const LARGEST_STORE: usize = 1 << 40;

/// Reads `true`, or a table.
pub(super) fn cache(value: &TomlValue<'_>) -> Option<CacheConfig> {
    if let Some(on) = value.switch() {
        return on.then(CacheConfig::default);
    }
    let wanted = "true, false or a table such as `{ lifetime = \"1m\" }`";
    let table = value.table(&schema::ROUTE_CACHE, wanted)?;
    let default = CacheConfig::default();
    let time =
        |key| table.value(key).and_then(|value| value.duration_within(SHORTEST..=LONGEST_LIFETIME));
    let max_entry = table.value("max_entry").and_then(|value| value.size(1..=LARGEST_ENTRY));
    Some(CacheConfig {
        lifetime: time("lifetime"),
        heuristic: table.value("heuristic").and_then(|value| value.percent(0)).unwrap_or(0),
        stale_if_error: time("stale_if_error"),
        max_entry: max_entry.map_or(default.max_entry, |size| size as u64),
        store_cookies: table.boolean("store_cookies", default.store_cookies),
        client_directives: table.boolean("client_directives", default.client_directives),
    })
}

/// Reads `[cache]`.
pub(in crate::config) fn store(top: &TomlTable<'_>) -> CacheStoreConfig {
    let default = CacheStoreConfig::default();
    let Some(value) = top.value("cache") else { return default };
    let Some(table) = value.table(&schema::CACHE, "a table, `[cache]`") else { return default };
    let memory = table.value("memory").and_then(|value| value.size((1 << 20)..=LARGEST_STORE));
    CacheStoreConfig {
        memory: memory.map_or(default.memory, |size| size as u64),
        disk: table.value("disk").and_then(|value| disk(&value)),
    }
}

fn disk(value: &TomlValue<'_>) -> Option<CacheDiskConfig> {
    let wanted = "a table such as `{ path = \"/var/cache/moorline\", max = \"10GiB\" }`";
    let table = value.table(&schema::CACHE_DISK, wanted)?;
    let path =
        table.need("path", "`path = \"/var/cache/moorline\"`").and_then(|path| folder(&path));
    let max = table.need("max", "`max = \"10GiB\"`");
    let max = max.and_then(|max| max.size((1 << 20)..=LARGEST_STORE));
    Some(CacheDiskConfig { path: path?, max: max? as u64 })
}

/// Reads the path of a folder, which may be missing.
fn folder(value: &TomlValue<'_>) -> Option<PathBuf> {
    let typed = value.string()?;
    let path = value.resolve(typed);
    if typed.is_empty() || path.metadata().is_ok_and(|found| !found.is_dir()) {
        let wrong = InvalidValue::new(format!("{} is not a folder", quoted(typed)));
        value.fault(
            wrong.help("name a folder for stored responses; it is created if it is missing"),
        );
        return None;
    }
    Some(std::path::absolute(&path).unwrap_or(path))
}
