//! Pools as JSON.

use serde_json::{Value, json};

use super::{certificate, drain, seconds};
use crate::config::{
    Admission, BackendConfig, BackendSource, BackendTls, Balance, Cookie, Dns, HealthConfig,
    HttpSource, Limits, Outlier, PoolConfig, ProbeConfig, ProxyOut, Rate, RebalanceConfig, Reuse,
    SameSite, SetOn, Sticky, Timeouts, url_without_secrets,
};

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

pub(super) fn pool(pool: &PoolConfig) -> Value {
    let PoolConfig {
        name,
        backends,
        source: discovery,
        balance,
        health: health_check,
        sticky: affinity,
        timeouts: deadlines,
        reuse: Reuse { max_idle, max_total, idle_timeout },
        drain: backend_drain,
        slow_start,
        outlier: ejections,
        healthy_minimum,
        limits: Limits { connections, pending },
        admission: admissions,
        rebalance,
        max_connection_age,
        on_down,
        tls: backend_encryption,
        proxy_protocol,
        response_header,
        long_polls,
    } = pool;
    json!({
        "name": name,
        "backends": backends.iter().map(backend).collect::<Vec<_>>(),
        "source": discovery.as_ref().map(source),
        "balance": match balance {
            Balance::LeastSessions => "least-sessions",
            Balance::RoundRobin => "round-robin",
            Balance::P2c => "p2c",
            Balance::SourceHash => "source-hash",
        },
        "health": health(health_check),
        "sticky": sticky(affinity),
        "timeouts": timeouts(deadlines),
        "reuse": {
            "max_idle": max_idle,
            "max_total": max_total,
            "idle_timeout": seconds(idle_timeout),
        },
        "drain": drain(backend_drain),
        "slow_start": seconds(slow_start),
        "outlier": ejections.as_ref().map(outlier),
        "healthy_minimum": healthy_minimum,
        "limits": {
            "connections": connections,
            "pending": pending,
            "header_size": response_header.size,
            "header_fields": response_header.fields,
        },
        "long_polls": long_polls,
        "admission": admissions.as_ref().map(admission),
        "rebalance": rebalance.as_ref().map(|RebalanceConfig { rate: limit }| json!({ "rate": rate(*limit) })),
        "max_connection_age": max_connection_age.as_ref().map(seconds),
        "on_down": match on_down {
            None => json!("keep"),
            Some(spread) => json!({ "close": seconds(spread) }),
        },
        "tls": backend_encryption.as_ref().map(backend_tls),
        "proxy_protocol": proxy_protocol.map(|version| match version {
            ProxyOut::V1 => json!({ "version": "v1" }),
            ProxyOut::V2(tlvs) => {
                json!({ "version": "v2", "tlvs": tlvs.names().collect::<Vec<_>>() })
            }
        }),
    })
}

fn backend(backend: &BackendConfig) -> Value {
    let BackendConfig { name, address, weight, backup } = backend;
    json!({ "name": name, "address": address.to_string(), "weight": weight, "backup": backup })
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
    let Sticky { engine_io, owner_search, cookie: affinity_cookie, memory } = sticky;
    json!({
        "engine_io": engine_io,
        "owner_search": owner_search,
        "cookie": affinity_cookie.as_ref().map(cookie),
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
    let Admission { rate: limit, queue, deadline } = admission;
    json!({ "rate": rate(*limit), "queue": queue, "deadline": seconds(deadline) })
}

fn rate(rate: Rate) -> Value {
    let Rate { times, per } = rate;
    json!({ "times": times, "per": seconds(&per) })
}

fn backend_tls(tls: &BackendTls) -> Value {
    let BackendTls { ca, name, alpn, client_cert, verify } = tls;
    json!({
        "ca": ca.as_ref().map(Vec::len),
        "name": name,
        "alpn": alpn,
        "client_cert": client_cert.as_ref().map(certificate),
        "verify": verify,
    })
}
