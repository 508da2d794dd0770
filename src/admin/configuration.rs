//! The effective configuration as JSON, with the names of the configuration file and with all defaults.
//! Secrets are left out: keys and tokens are omitted, certificates are shown by their names.
//!
//! Every struct is destructured completely, so that a new setting cannot be forgotten here. Durations
//! are in seconds.

mod conditions;
mod filters;
mod pools;

use std::time::Duration;

use serde_json::{Value, json};

use self::pools::pool;

use crate::config::{
    AccessLogConfig, Acme, Admin, AdminRemote, AdminSocket, CacheDiskConfig, CacheStoreConfig,
    Certificate, CertificateSource, ClientAuth, Config, DrainConfig, ErrorPageEntry, ErrorPages,
    HostPattern, ListenerConfig, MirrorConfig, PassthroughConfig, ProcessLimits, ProxyIn, Redirect,
    RedirectConfig, Reload, RespondConfig, RouteConfig, RouteTimeouts, RouteTo, SessionsConfig,
    SharedKeys, SplitPool, TlsConfig, UnknownSni, Upgrade, url_without_secrets,
};

/// Returns the whole configuration as JSON.
pub(super) fn to_json(config: &Config) -> Value {
    let Config {
        listeners,
        routes,
        pools,
        cookie_keys,
        ticket_keys,
        trusted_proxies,
        forwarded,
        sessions: SessionsConfig { max, max_sid_bytes },
        cache: CacheStoreConfig { memory, disk },
        limits: ProcessLimits { connections, handshakes },
        access_log,
        redact,
        drain: shutdown_drain,
        reload: Reload { watch, interval, max_disconnects },
        upgrade: Upgrade { drain: upgrade_drain, ready },
        error_pages: pages,
        admin: endpoints,
        places: _,
        watched,
    } = config;
    json!({
        "listeners": listeners.iter().map(listener).collect::<Vec<_>>(),
        "routes": routes.iter().map(route).collect::<Vec<_>>(),
        "pools": pools.iter().map(pool).collect::<Vec<_>>(),
        "cookie_keys": shared_keys(cookie_keys),
        "ticket_keys": shared_keys(ticket_keys),
        "trusted_proxies": trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "forwarded": forwarded.name(),
        "cache": { "memory": memory, "disk": disk.as_ref().map(cache_disk) },
        "sessions": { "max": max, "max_sid_bytes": max_sid_bytes },
        "limits": { "connections": connections, "handshakes": handshakes },
        "access_log": match access_log {
            AccessLogConfig::Off => json!("off"),
            AccessLogConfig::Stdout => json!("stdout"),
            AccessLogConfig::File(path) => json!({ "file": path.display().to_string() }),
        },
        "redact": redact,
        "drain": drain(shutdown_drain),
        "reload": {
            "watch": watch, "interval": seconds(interval), "max_disconnects": max_disconnects,
        },
        "upgrade": { "drain": drain(upgrade_drain), "ready": seconds(ready) },
        "error_pages": pages.as_deref().map(error_pages),
        "admin": admin(endpoints),
        "watched": watched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
    })
}

fn cache_disk(disk: &CacheDiskConfig) -> Value {
    let CacheDiskConfig { path, max } = disk;
    json!({ "path": path.display().to_string(), "max": max })
}

fn shared_keys(keys: &SharedKeys) -> Value {
    match keys {
        SharedKeys::Configured(keys) => json!({ "given": keys.len() }),
        SharedKeys::Generated => json!("made at start"),
    }
}

fn admin(admin: &Admin) -> Value {
    let Admin { metrics, socket, remote } = admin;
    json!({
        "metrics": metrics,
        "socket": match socket {
            AdminSocket::Default => json!(true),
            AdminSocket::At(path) => json!(path.display().to_string()),
            AdminSocket::Off => json!(false),
        },
        // The token is a secret.
        "listen": remote.as_ref().map(|AdminRemote { address, token: _ }| address),
    })
}

fn listener(listener: &ListenerConfig) -> Value {
    let ListenerConfig {
        name,
        bind,
        protocol,
        pool,
        passthrough: rules,
        proxy_protocol,
        connections_per_address,
        connection_rate,
        redirect,
        handshake_timeout,
        header_timeout,
        keep_alive,
        header,
    } = listener;
    json!({
        "name": name,
        "bind": bind,
        "protocol": protocol.name(),
        "pool": pool,
        "passthrough": rules.iter().map(passthrough).collect::<Vec<_>>(),
        "proxy_protocol": proxy_protocol.as_ref().map(proxy_in),
        "connections_per_address": connections_per_address,
        "connection_rate": connection_rate.map(|(rate, _)| filters::per(rate)),
        "connection_burst": connection_rate.map(|(_, burst)| burst),
        "tls": protocol.tls().map(tls),
        "redirect": redirect.map(|Redirect::Https { port }| match port {
            Some(port) => format!("https:{port}"),
            None => "https".to_owned(),
        }),
        "handshake_timeout": seconds(handshake_timeout),
        "header_timeout": seconds(header_timeout),
        "keep_alive": seconds(keep_alive),
        "header_size": header.size,
        "header_fields": header.fields,
    })
}

fn passthrough(rule: &PassthroughConfig) -> Value {
    let PassthroughConfig { sni, alpn, pool } = rule;
    json!({ "sni": sni.iter().map(host).collect::<Vec<_>>(), "alpn": alpn, "pool": pool })
}

fn proxy_in(proxy_in: &ProxyIn) -> Value {
    let ProxyIn { required, from } = proxy_in;
    json!({
        "mode": if *required { "required" } else { "optional" },
        "from": from.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn tls(tls: &TlsConfig) -> Value {
    let TlsConfig {
        certificates,
        unknown_sni,
        min_version,
        cipher_suites,
        curves,
        alpn,
        client_auth: authentication,
        key_log,
    } = tls;
    json!({
        "certificates": match certificates {
            CertificateSource::Configured(chains) => json!(chains.iter().map(certificate).collect::<Vec<_>>()),
            CertificateSource::Acme(settings) => acme(settings),
        },
        "unknown_sni": match unknown_sni {
            UnknownSni::Default => "default",
            UnknownSni::Refuse => "refuse",
        },
        "min_version": min_version.to_string(),
        "cipher_suites": cipher_suites.iter().map(|suite| suite.as_str()).collect::<Vec<_>>(),
        "curves": curves.iter().map(|curve| curve.as_str()).collect::<Vec<_>>(),
        "alpn": alpn,
        "client_auth": authentication.as_ref().map(client_auth),
        "key_log": key_log.as_ref().map(|path| path.display().to_string()),
    })
}

fn certificate(certificate: &Certificate) -> Value {
    let Certificate { names, key } = certificate;
    json!({ "names": names, "ocsp": key.ocsp.is_some() })
}

fn acme(acme: &Acme) -> Value {
    let Acme { directory, email, domains, storage, ca } = acme;
    json!({ "acme": {
        "directory": url_without_secrets(directory),
        "email": email,
        "domains": domains,
        "storage": storage.display().to_string(),
        "ca": ca.as_ref().map(Vec::len),
    } })
}

fn client_auth(client_auth: &ClientAuth) -> Value {
    let ClientAuth { ca, crl, required } = client_auth;
    json!({
        "mode": if *required { "required" } else { "optional" },
        "ca": ca.len(),
        "crl": crl.len(),
    })
}

fn host(host: &HostPattern) -> Option<String> {
    match host {
        HostPattern::Any => None,
        HostPattern::Exact(name) => Some(name.clone()),
        HostPattern::Wildcard(suffix) => Some(format!("*.{suffix}")),
    }
}

fn route(route: &RouteConfig) -> Value {
    let RouteConfig {
        host: pattern,
        path,
        conditions,
        target,
        listeners,
        mirror,
        timeouts,
        error_pages: pages,
        filters,
        written: _,
    } = route;
    let (redirect, respond) = match target {
        RouteTo::Pool(_) | RouteTo::Split(_) | RouteTo::Files(_) => (None, None),
        RouteTo::Redirect(RedirectConfig { to, status }) => {
            (Some(json!({ "to": to.source(), "status": status })), None)
        }
        RouteTo::Respond(RespondConfig { status, body, content_type }) => {
            let body = body.source();
            (None, Some(json!({ "status": status, "body": body, "type": content_type })))
        }
    };
    json!({
        "host": host(pattern),
        "path": path,
        "match": conditions::json(conditions),
        "pool": route.pool(),
        "split": split(target),
        "mirror": mirror.as_ref().map(copies),
        "redirect": redirect,
        "respond": respond,
        "files": match target {
            RouteTo::Files(files) => Some(filters::files(files)),
            _ => None,
        },
        "listeners": listeners,
        "timeouts": route_timeouts(timeouts),
        "error_pages": pages.as_deref().map(error_pages),
        "filters": filters::json(filters),
    })
}

/// Returns the time limits of a route, without those of the pool.
fn route_timeouts(timeouts: &RouteTimeouts) -> Value {
    let RouteTimeouts { response_header, body_idle, stream_idle, tunnel_idle } = timeouts;
    let set = [
        ("response_header", response_header),
        ("body_idle", body_idle),
        ("stream_idle", stream_idle),
        ("tunnel_idle", tunnel_idle),
    ];
    let set = set.into_iter().filter_map(|(key, limit)| Some((key, seconds(limit.as_ref()?))));
    Value::Object(set.map(|(key, limit)| (key.to_owned(), json!(limit))).collect())
}

fn copies(mirror: &MirrorConfig) -> Value {
    let MirrorConfig { pool, share, max_body, max_in_flight } = mirror;
    json!({ "pool": pool, "share": share, "max_body": max_body, "max_in_flight": max_in_flight })
}

/// Returns the pools of a split; `None` if the route has none.
fn split(target: &RouteTo) -> Option<Vec<Value>> {
    let RouteTo::Split(parts) = target else { return None };
    let part = |SplitPool { pool, weight, headers, cookies }: &SplitPool| {
        json!({
            "pool": pool,
            "weight": weight,
            "header": conditions::texts(headers),
            "cookie": conditions::texts(cookies),
        })
    };
    Some(parts.iter().map(part).collect())
}

fn error_pages(pages: &ErrorPages) -> Value {
    let entries = pages.entries().iter().map(|ErrorPageEntry { covers, file, page: _ }| {
        (covers.name(), json!(file.display().to_string()))
    });
    Value::Object(entries.collect())
}

fn drain(drain: &DrainConfig) -> Value {
    let DrainConfig { within, spread } = drain;
    json!({ "within": seconds(within), "spread": seconds(spread) })
}

fn seconds(duration: &Duration) -> f64 {
    duration.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::check;

    #[test]
    fn json_has_all_settings_but_no_secrets() {
        let text = "listeners.a.bind = \"[::1]:0\"\npools.b.backends = [\"a:1\", \"b:1\"]\n";
        let mut config = check::text(text, Path::new("m.toml")).unwrap();
        config.cookie_keys = SharedKeys::Configured(vec![b"a secret key".to_vec()]);
        let address = "127.0.0.1:1".parse().unwrap();
        let token = "a secret token".to_owned();
        config.admin.remote = Some(AdminRemote { address, token });
        let value = to_json(&config);
        let text = value.to_string();
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(value["cookie_keys"]["given"], 1);
        assert_eq!(value["admin"]["listen"], "127.0.0.1:1");
        assert_eq!(value["pools"][0]["backends"][1]["address"], "b:1");
        assert_eq!(value["listeners"][0]["bind"][0], "[::1]:0");
    }

    #[test]
    fn urls_are_shown_without_secrets() {
        let cases = [
            ("http://10.0.0.1:8500/v1/list", "http://10.0.0.1:8500/v1/list"),
            ("https://me:secret@host/x?token=secret", "https://host/x?-"),
            ("not a url", "-"),
        ];
        for (url, expected) in cases {
            assert_eq!(url_without_secrets(url), expected);
        }
    }
}
