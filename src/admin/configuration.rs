//! A configuration as JSON, in the words of the file, every default filled in and without secrets:
//! keys and tokens are left out, certificates are their names.
//!
//! Each structure is taken apart whole, so that a new setting cannot be forgotten here. Times are
//! seconds.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{
    AccessLogConfig, Acme, Admin, AdminRemote, AdminSocket, Admission, BackendConfig,
    BackendSource, BackendTls, Balance, Certificate, CertificateSource, ClientAuth, Config, Cookie,
    Dns, DrainConfig, ErrorPageEntry, ErrorPages, HealthConfig, HostPattern, HttpSource, Limits,
    ListenerConfig, Outlier, PassthroughConfig, PoolConfig, ProbeConfig, ProxyIn, ProxyOut, Rate,
    RebalanceConfig, Redirect, Reload, Reuse, RouteConfig, SameSite, SessionsConfig, SetOn,
    SharedKeys, Sticky, Timeouts, TlsConfig, UnknownSni, Upgrade, url_without_secrets,
};

/// The whole of it.
pub(super) fn shown(config: &Config) -> Value {
    let Config {
        listeners,
        routes,
        pools,
        cookie_keys,
        ticket_keys,
        trusted_proxies,
        forwarded,
        sessions: SessionsConfig { max, max_sid_bytes },
        access_log,
        redact,
        drain: drained,
        reload: Reload { watch, interval, max_disconnects },
        upgrade: Upgrade { drain: handed, ready },
        error_pages: pages,
        admin: operators,
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
        "sessions": { "max": max, "max_sid_bytes": max_sid_bytes },
        "access_log": match access_log {
            AccessLogConfig::Off => json!("off"),
            AccessLogConfig::Stdout => json!("stdout"),
            AccessLogConfig::File(path) => json!({ "file": path.display().to_string() }),
        },
        "redact": redact,
        "drain": drain(drained),
        "reload": {
            "watch": watch, "interval": seconds(interval), "max_disconnects": max_disconnects,
        },
        "upgrade": { "drain": drain(handed), "ready": seconds(ready) },
        "error_pages": pages.as_deref().map(error_pages),
        "admin": admin(operators),
        "watched": watched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
    })
}

fn shared_keys(keys: &SharedKeys) -> Value {
    match keys {
        SharedKeys::Given(keys) => json!({ "given": keys.len() }),
        SharedKeys::Made => json!("made at start"),
    }
}

fn admin(admin: &Admin) -> Value {
    let Admin { metrics, socket, remote } = admin;
    json!({
        "metrics": metrics,
        "socket": match socket {
            AdminSocket::Usual => json!(true),
            AdminSocket::At(path) => json!(path.display().to_string()),
            AdminSocket::Off => json!(false),
        },
        // Never its token.
        "listen": remote.as_ref().map(|AdminRemote { address, token: _ }| address),
    })
}

fn listener(listener: &ListenerConfig) -> Value {
    let ListenerConfig {
        name,
        bind,
        protocol,
        pool,
        passthrough: passed,
        proxy_protocol,
        connections_per_address,
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
        "passthrough": passed.iter().map(passthrough).collect::<Vec<_>>(),
        "proxy_protocol": proxy_protocol.as_ref().map(proxy_in),
        "connections_per_address": connections_per_address,
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

fn proxy_in(terms: &ProxyIn) -> Value {
    let ProxyIn { required, from } = terms;
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
        client_auth: clients,
        key_log,
    } = tls;
    json!({
        "certificates": match certificates {
            CertificateSource::Given(chains) => json!(chains.iter().map(certificate).collect::<Vec<_>>()),
            CertificateSource::Acme(terms) => acme(terms),
        },
        "unknown_sni": match unknown_sni {
            UnknownSni::Default => "default",
            UnknownSni::Refuse => "refuse",
        },
        "min_version": min_version.to_string(),
        "cipher_suites": cipher_suites.iter().map(|suite| suite.as_str()).collect::<Vec<_>>(),
        "curves": curves.iter().map(|curve| curve.as_str()).collect::<Vec<_>>(),
        "alpn": alpn,
        "client_auth": clients.as_ref().map(client_auth),
        "key_log": key_log.as_ref().map(|path| path.display().to_string()),
    })
}

fn certificate(certificate: &Certificate) -> Value {
    let Certificate { names, key } = certificate;
    json!({ "names": names, "ocsp": key.ocsp.is_some() })
}

fn acme(terms: &Acme) -> Value {
    let Acme { directory, email, domains, storage, ca } = terms;
    json!({ "acme": {
        "directory": url_without_secrets(directory),
        "email": email,
        "domains": domains,
        "storage": storage.display().to_string(),
        "ca": ca.as_ref().map(Vec::len),
    } })
}

fn client_auth(terms: &ClientAuth) -> Value {
    let ClientAuth { ca, crl, required } = terms;
    json!({
        "mode": if *required { "required" } else { "optional" },
        "ca": ca.len(),
        "crl": crl.len(),
    })
}

fn backend_tls(terms: &BackendTls) -> Value {
    let BackendTls { ca, name, alpn, client_cert, verify } = terms;
    json!({
        "ca": ca.as_ref().map(Vec::len),
        "name": name,
        "alpn": alpn,
        "client_cert": client_cert.as_ref().map(certificate),
        "verify": verify,
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
    let RouteConfig { host: covered, path, pool, listeners, error_pages: pages } = route;
    json!({
        "host": host(covered),
        "path": path,
        "pool": pool,
        "listeners": listeners,
        "error_pages": pages.as_deref().map(error_pages),
    })
}

fn error_pages(pages: &ErrorPages) -> Value {
    let shown = pages.entries().iter().map(|ErrorPageEntry { covers, file, page: _ }| {
        (covers.name(), json!(file.display().to_string()))
    });
    Value::Object(shown.collect())
}

fn timeouts(timeouts: &Timeouts) -> Value {
    let Timeouts { connect, response_header, body_idle, stream_idle, tunnel_idle, half_closed } =
        timeouts;
    json!({
        "connect": seconds(connect),
        "response_header": seconds(response_header),
        "body_idle": seconds(body_idle),
        "stream_idle": stream_idle.as_ref().map(seconds),
        "tunnel_idle": tunnel_idle.as_ref().map(seconds),
        "half_closed": seconds(half_closed),
    })
}

fn pool(pool: &PoolConfig) -> Value {
    let PoolConfig {
        name,
        backends,
        source: found_by,
        balance,
        health: probed,
        sticky: kept,
        timeouts: deadlines,
        reuse: Reuse { max_idle, max_total, idle_timeout },
        drain: drained,
        slow_start,
        outlier: left_out,
        healthy_minimum,
        limits: Limits { connections, pending },
        admission: admitted,
        rebalance,
        max_connection_age,
        on_down,
        tls: secured,
        proxy_protocol,
        response_header,
        long_polls,
    } = pool;
    json!({
        "name": name,
        "backends": backends.iter().map(backend).collect::<Vec<_>>(),
        "source": found_by.as_ref().map(source),
        "balance": match balance {
            Balance::LeastSessions => "least-sessions",
            Balance::RoundRobin => "round-robin",
            Balance::P2c => "p2c",
            Balance::SourceHash => "source-hash",
        },
        "health": health(probed),
        "sticky": sticky(kept),
        "timeouts": timeouts(deadlines),
        "reuse": {
            "max_idle": max_idle,
            "max_total": max_total,
            "idle_timeout": seconds(idle_timeout),
        },
        "drain": drain(drained),
        "slow_start": seconds(slow_start),
        "outlier": left_out.as_ref().map(outlier),
        "healthy_minimum": healthy_minimum,
        "limits": {
            "connections": connections,
            "pending": pending,
            "header_size": response_header.size,
            "header_fields": response_header.fields,
        },
        "long_polls": long_polls,
        "admission": admitted.as_ref().map(admission),
        "rebalance": rebalance.as_ref().map(|RebalanceConfig { rate: of }| json!({ "rate": rate(*of) })),
        "max_connection_age": max_connection_age.as_ref().map(seconds),
        "on_down": match on_down {
            None => json!("keep"),
            Some(spread) => json!({ "close": seconds(spread) }),
        },
        "tls": secured.as_ref().map(backend_tls),
        "proxy_protocol": proxy_protocol.map(|version| match version {
            ProxyOut::V1 => json!({ "version": "v1" }),
            ProxyOut::V2(tlvs) => {
                json!({ "version": "v2", "tlvs": tlvs.names().collect::<Vec<_>>() })
            }
        }),
    })
}

fn backend(backend: &BackendConfig) -> Value {
    let BackendConfig { name, address, weight } = backend;
    json!({ "name": name, "address": address.to_string(), "weight": weight })
}

fn source(source: &BackendSource) -> Value {
    match source {
        BackendSource::Dns(records) => dns("dns", records, Some(records.port)),
        BackendSource::Srv(records) => dns("srv", records, None),
        BackendSource::Http(HttpSource { url, interval, timeout }) => json!({
            "http": url_without_secrets(url),
            "interval": seconds(interval),
            "timeout": seconds(timeout),
        }),
    }
}

fn dns(kind: &str, records: &Dns, with_port: Option<u16>) -> Value {
    let Dns { name, port: _, resolver, min_ttl, max_ttl } = records;
    json!({
        kind: with_port.map_or_else(|| name.clone(), |port| format!("{name}:{port}")),
        "resolver": resolver,
        "min_ttl": seconds(min_ttl),
        "max_ttl": seconds(max_ttl),
    })
}

fn health(health: &HealthConfig) -> Value {
    let HealthConfig { probe, interval, timeout, rise, fall } = health;
    let (kind, path, host, status) = match probe {
        ProbeConfig::Off => ("off", None, None, None),
        ProbeConfig::Tcp => ("tcp", None, None, None),
        ProbeConfig::Http { path, host, status } => {
            ("http", Some(path), host.as_ref(), Some(status))
        }
        ProbeConfig::EngineIo { path, host } => ("engine.io", Some(path), host.as_ref(), None),
        ProbeConfig::WebSocket { path, host } => ("websocket", Some(path), host.as_ref(), None),
    };
    json!({
        "probe": kind,
        "path": path,
        "host": host,
        "status": status.map(|(from, to)| format!("{from}-{to}")),
        "interval": seconds(interval),
        "timeout": seconds(timeout),
        "rise": rise,
        "fall": fall,
    })
}

fn sticky(sticky: &Sticky) -> Value {
    let Sticky { engine_io, owner_search, cookie: set, memory } = sticky;
    json!({
        "engine_io": engine_io,
        "owner_search": owner_search,
        "cookie": set.as_ref().map(cookie),
        "memory": seconds(memory),
    })
}

fn cookie(cookie: &Cookie) -> Value {
    let Cookie { name, same_site, secure, http_only, partitioned, lifetime, set_on } = cookie;
    json!({
        "name": name,
        "same_site": same_site.map(|same_site| match same_site {
            SameSite::Strict => "strict",
            SameSite::Lax => "lax",
            SameSite::None => "none",
        }),
        "secure": secure,
        "http_only": http_only,
        "partitioned": partitioned,
        "lifetime": lifetime.as_ref().map(seconds),
        "set_on": match set_on {
            SetOn::Handshake => "handshake",
            SetOn::Always => "always",
        },
    })
}

fn outlier(outlier: &Outlier) -> Value {
    let Outlier {
        consecutive,
        error_rate,
        min_requests,
        interval,
        ejection,
        max_ejection,
        max_ejected,
    } = outlier;
    json!({
        "consecutive": consecutive,
        "error_rate": error_rate,
        "min_requests": min_requests,
        "interval": seconds(interval),
        "ejection": seconds(ejection),
        "max_ejection": seconds(max_ejection),
        "max_ejected": max_ejected,
    })
}

fn admission(admission: &Admission) -> Value {
    let Admission { rate: of, queue, deadline } = admission;
    json!({ "rate": rate(*of), "queue": queue, "deadline": seconds(deadline) })
}

fn rate(rate: Rate) -> Value {
    let Rate { times, per } = rate;
    json!({ "times": times, "per": seconds(&per) })
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
    fn everything_is_there_but_secrets() {
        let text = "listeners.a.bind = \"[::1]:0\"\npools.b.backends = [\"a:1\", \"b:1\"]\n";
        let mut config = check::text(text, Path::new("m.toml")).unwrap();
        config.cookie_keys = SharedKeys::Given(vec![b"a key that nobody may see".to_vec()]);
        let address = "127.0.0.1:1".parse().unwrap();
        let token = "a token that nobody may see".to_owned();
        config.admin.remote = Some(AdminRemote { address, token });
        let value = shown(&config);
        let text = value.to_string();
        assert!(!text.contains("nobody may see"), "{text}");
        assert_eq!(value["cookie_keys"]["given"], 1);
        assert_eq!(value["admin"]["listen"], "127.0.0.1:1");
        assert_eq!(value["pools"][0]["backends"][1]["address"], "b:1");
        assert_eq!(value["listeners"][0]["bind"][0], "[::1]:0");
    }

    #[test]
    fn a_url_without_its_secrets() {
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
