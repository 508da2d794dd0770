//! Each key of a configuration file sets its field.

use std::{env, num::NonZeroU32, path::PathBuf, time::Duration};

use moorline::config::{
    AccessLogConfig, AdminRemote, AdminSocket, Admission, BackendConfig, BackendSource, Balance,
    CertificateSource, Config, Dns, DrainConfig, HeaderLimits, HostPattern, HttpSource, Limits,
    Outlier, ProbeConfig, ProcessLimits, ProxyIn, ProxyOut, Rate, RebalanceConfig, Redirect,
    Reload, SameSite, SetOn, SharedKeys, TlsVersion, Tlv, UnknownSni, Upgrade,
};

use crate::config::good;

#[test]
fn the_smallest_file_gets_every_default() {
    let config = good("minimal.toml");
    let [listener] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    let pool = moorline::config::PoolConfig::new(
        "app",
        vec![BackendConfig {
            name: "127.0.0.1:3000".to_owned(),
            address: "127.0.0.1:3000".parse().unwrap(),
            weight: 1,
            backup: false,
        }],
    );
    let mut expected = Config::new(vec![listener.clone()], pool);
    expected.watched = vec![env::current_dir().unwrap().join("tests/config/good/minimal.toml")];
    assert_eq!(listener.bind, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(config, expected);
}

#[test]
fn every_key_reaches_its_field() {
    let config = good("everything.toml");
    assert_eq!(config.trusted_proxies.len(), 3);
    let (minute, seconds) = (Duration::from_secs(60), Duration::from_secs);
    assert_eq!(config.drain, DrainConfig { within: minute, spread: seconds(10) });
    assert_eq!(
        config.reload,
        Reload { watch: false, interval: Duration::from_secs(5), max_disconnects: Some(3) }
    );
    assert_eq!(config.upgrade, Upgrade { drain: DrainConfig::within(120 * minute), ready: minute });
    let socket = env::current_dir().unwrap().join("tests/config/good/moorline.sock");
    let address = "127.0.0.1:9101".parse().unwrap();
    assert_eq!(config.admin.metrics, "127.0.0.1:9100".parse().ok());
    assert_eq!(config.admin.socket, AdminSocket::At(socket));
    let token = "a-token-of-the-tests".to_owned();
    assert!(config.admin.remote == Some(AdminRemote { address, token }));
    assert_eq!(config.access_log, AccessLogConfig::Stdout);
    assert_eq!(config.redact, ["ticket", "!sort_key"]);
    let text = b"a key of the tests, worth nothing at all".to_vec();
    assert!(config.cookie_keys == SharedKeys::Configured(vec![text.clone()]));
    assert!(config.ticket_keys == SharedKeys::Configured(vec![text]));
    let limits = ProcessLimits { connections: Some(50_000), handshakes: Some(2000) };
    assert_eq!(config.limits, limits);
    assert_eq!((config.sessions.max, config.sessions.max_sid_bytes), (500_000, 1024));

    let [plain, secure, ..] = &config.listeners[..] else { panic!("{:?}", config.listeners) };
    assert_eq!((plain.name.as_str(), plain.bind.len()), ("plain", 4));
    assert_eq!(plain.redirect, Some(Redirect::Https { port: Some(8443) }));
    assert_eq!(plain.header_timeout, Duration::from_secs(30));
    assert_eq!(plain.keep_alive, Duration::from_secs(90));
    assert_eq!(plain.header, HeaderLimits { size: 32 << 10, fields: 200 });
    // Longer than the 60 s of common load balancers, so that they close first.
    assert_eq!(secure.keep_alive, Duration::from_secs(75));
    assert_eq!(plain.connections_per_address, NonZeroU32::new(100));
    assert_eq!(secure.connections_per_address, None);
    let rate = Rate { times: 20, per: Duration::from_secs(1) };
    assert_eq!((plain.connection_rate, secure.connection_rate), (Some((rate, 50)), None));
    assert_eq!(secure.handshake_timeout, Duration::from_secs(5));
    let Some(tls) = secure.protocol.tls() else { panic!("{secure:?}") };
    let CertificateSource::Configured(certificates) = &tls.certificates else { panic!("{tls:?}") };
    assert_eq!(certificates[0].names, ["localhost", "*.example.test"]);
    assert_eq!(certificates[1].names, ["other.test"]);

    let hosts: Vec<&HostPattern> = config.routes.iter().map(|route| &route.host).collect();
    let exact = HostPattern::Exact("chat.example.com".to_owned());
    let wildcard = HostPattern::Wildcard("example.com".to_owned());
    assert_eq!(hosts[..3], [&exact, &wildcard, &HostPattern::Any]);
    let conditions = config.routes.iter().map(|route| route.conditions.to_string());
    assert!(conditions.max().unwrap().starts_with("method GET|HEAD, header X-Version = 2.*"));
    assert_eq!(config.routes[0].path, "/chat/");
    let pages = config.routes[0].error_pages.as_deref().unwrap();
    assert!(pages.page(404).is_some() && pages.page(503).is_some() && pages.page(400).is_none());
    assert!(config.error_pages.as_deref().unwrap().page(400).is_some());
    assert_eq!((config.routes[1].path.as_str(), config.routes[1].pool()), ("/", Some("list")));
}

#[test]
fn every_key_of_layer_4_reaches_its_field() {
    let config = good("everything.toml");
    let listener = |name: &str| config.listeners.iter().find(|l| l.name == name).unwrap();
    let (plain, secure, redis) = (listener("plain"), listener("secure"), listener("redis"));
    let (classic, mixed) = (listener("classic"), listener("mixed"));
    let from = |terms: &Option<ProxyIn>| terms.clone().map(|terms| (terms.required, terms.from));
    let one = vec!["10.0.0.9/32".parse().unwrap()];
    assert_eq!(from(&plain.proxy_protocol), Some((false, one)));
    assert_eq!(from(&secure.proxy_protocol), Some((true, config.trusted_proxies.clone())));
    let [rule] = &secure.passthrough[..] else { panic!("{:?}", secure.passthrough) };
    let name = "db.example.com".to_owned();
    assert_eq!(rule.sni, [HostPattern::Exact(name.clone()), HostPattern::Wildcard(name)]);
    assert_eq!((&rule.alpn[..], rule.pool.as_str()), (&["h2".to_owned()][..], "off"));
    let kinds = [redis, classic, mixed].map(|l| (l.protocol.name(), l.pool.as_deref().unwrap()));
    assert_eq!(kinds, [("tcp", "off"), ("tls", "list"), ("tls-passthrough", "list")]);
}

#[test]
fn every_key_of_tls_reaches_its_field() {
    let config = good("everything.toml");
    let tls = |name: &str| {
        let listener = config.listeners.iter().find(|listener| listener.name == name).unwrap();
        listener.protocol.tls().unwrap()
    };
    let (secure, classic) = (tls("secure"), tls("classic"));
    let CertificateSource::Configured(chains) = &secure.certificates else { panic!("{secure:?}") };
    assert_eq!(
        chains.iter().map(|c| c.key.ocsp.is_some()).collect::<Vec<_>>(),
        [false, false, true]
    );
    assert_eq!((secure.min_version, secure.unknown_sni), (TlsVersion::V1_3, UnknownSni::Refuse));
    assert_eq!((secure.cipher_suites.len(), secure.curves.len()), (1, 2));
    let clients = secure.client_auth.as_ref().unwrap();
    assert_eq!((clients.ca.len(), clients.crl.len(), clients.required), (1, 1, false));
    assert_eq!(secure.key_log, Some(PathBuf::from("tests/config/good/keys.log")));
    assert_eq!(classic.alpn, ["h2", "http/1.1"]);
    let CertificateSource::Acme(acme) = &classic.certificates else { panic!("{classic:?}") };
    assert_eq!(
        (acme.directory.as_str(), acme.email.as_deref()),
        ("https://ca.test/dir", Some("ops@example.com"))
    );
    assert_eq!((&acme.domains[..], acme.ca.is_some()), (&["a.example.com".to_owned()][..], true));
    let beside = std::path::absolute("tests/config/good/certificates").unwrap();
    assert_eq!(acme.storage, beside);

    let [chat, list, ..] = &config.pools[..] else { panic!("{:?}", config.pools) };
    let to = chat.tls.as_ref().unwrap();
    assert_eq!(
        (to.ca.as_ref().map(Vec::len), to.name.as_deref()),
        (Some(1), Some("chat.internal"))
    );
    assert_eq!((&to.alpn[..], to.verify), (&["http/1.1".to_owned()][..], true));
    assert_eq!(to.client_cert.as_ref().unwrap().names, ["localhost", "*.example.test"]);
    assert_eq!(list.tls.as_ref().map(|tls| tls.verify), Some(false));
    let tlvs = [Tlv::Ssl, Tlv::Crc32c].into_iter().collect();
    assert_eq!((chat.proxy_protocol, list.proxy_protocol), (Some(ProxyOut::V2(tlvs)), None));
}

#[test]
fn every_key_of_a_pool_reaches_its_field() {
    let config = good("everything.toml");
    let [chat, list, off, ..] = &config.pools[..] else { panic!("{:?}", config.pools) };
    let shown: Vec<String> =
        chat.backends.iter().map(|b| format!("{} {} {}", b.name, b.address, b.weight)).collect();
    assert_eq!(
        shown,
        [
            "10.0.0.1:3000 10.0.0.1:3000 1",
            "[2001:db8::1]:3000 [2001:db8::1]:3000 1",
            "named node.example.com:3000 7",
            "unix:/run/chat.sock unix:/run/chat.sock 1"
        ]
    );
    let backups: Vec<bool> = chat.backends.iter().map(|backend| backend.backup).collect();
    assert_eq!(backups, [false, false, false, true]);
    assert_eq!((chat.balance, chat.drain.within), (Balance::P2c, Duration::ZERO));
    assert_eq!(
        chat.health.probe,
        ProbeConfig::Http {
            path: "/healthz?full".to_owned(),
            host: Some("chat.example.com".to_owned()),
            status: (200, 204)
        }
    );
    let health = &chat.health;
    assert_eq!((health.interval.as_millis(), health.timeout.as_millis()), (500, 400));
    assert_eq!((health.rise, health.fall), (1, 5));
    assert_eq!((chat.sticky.engine_io, chat.sticky.owner_search), (true, 3));
    assert_eq!(chat.sticky.memory, Duration::from_secs(30));
    let cookie = chat.sticky.cookie.as_ref().unwrap();
    assert_eq!((cookie.name.as_str(), cookie.same_site), ("__Secure-lb", Some(SameSite::None)));
    assert_eq!((cookie.secure, cookie.http_only, cookie.partitioned), (Some(true), false, true));
    assert_eq!(cookie.lifetime, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!(cookie.set_on, SetOn::Always);
    let timeouts = &chat.timeouts;
    assert_eq!((timeouts.connect.as_secs(), timeouts.response_header.as_secs()), (1, 120));
    assert_eq!(timeouts.body_idle.as_secs(), 180);
    assert_eq!(timeouts.stream_idle, Some(Duration::from_secs(600)));
    assert_eq!(timeouts.tunnel_idle, Some(Duration::from_secs(3600)));
    assert_eq!(timeouts.half_closed, Duration::from_secs(30));
    assert_eq!(chat.long_polls, ["/events", "/wait/"]);
    assert_eq!((list.timeouts.stream_idle, list.timeouts.half_closed.as_secs()), (None, 60));
    assert_eq!((chat.reuse.max_idle, chat.reuse.max_total), (0, Some(9)));
    assert_eq!(chat.reuse.idle_timeout, Duration::from_secs(1));

    assert_eq!((list.backends.len(), list.balance), (2, Balance::SourceHash));
    assert_eq!((list.backends[1].name.as_str(), list.backends[1].weight), ("second", 4));
    // Without `timeout`, a shorter interval limits the timeout.
    assert_eq!(list.health.timeout, list.health.interval);
    assert_eq!((list.sticky.engine_io, list.sticky.owner_search), (true, 0));
    assert_eq!(list.sticky.cookie, None);
    assert_eq!((off.balance, &off.health.probe), (Balance::RoundRobin, &ProbeConfig::Off));
    assert!(!off.sticky.engine_io && off.sticky.cookie.is_none());
}

#[test]
fn every_resilience_key_reaches_its_field() {
    let config = good("everything.toml");
    let chat = &config.pools[0];
    let seconds = Duration::from_secs;
    let rate = |times, per| Rate { times, per: seconds(per) };
    assert_eq!((chat.slow_start, chat.healthy_minimum), (seconds(30), 30));
    assert_eq!(
        chat.outlier,
        Some(Outlier {
            consecutive: 3,
            error_rate: 20,
            min_requests: 10,
            interval: seconds(5),
            ejection: seconds(10),
            max_ejection: seconds(60),
            max_ejected: 30,
        })
    );
    assert_eq!(chat.limits, Limits { connections: Some(1000), pending: Some(0) });
    assert_eq!(chat.response_header, HeaderLimits { size: 1 << 20, fields: 1000 });
    let admission = Admission { rate: rate(100, 1), queue: 50, deadline: seconds(5) };
    assert_eq!(chat.admission, Some(admission));
    assert_eq!(chat.rebalance, Some(RebalanceConfig { rate: rate(3000, 60) }));
    assert_eq!(chat.max_connection_age, Some(seconds(6 * 3600)));
    assert_eq!(chat.on_down, Some(seconds(20)));

    let pool = |name: &str| config.pools.iter().find(|pool| pool.name == name).unwrap();
    let admission = Admission { rate: rate(2, 3600), queue: 1000, deadline: seconds(10) };
    assert_eq!(pool("srv").admission, Some(admission));
    assert_eq!(pool("http").outlier, Some(Outlier::default()));
    assert_eq!(pool("dns").drain, DrainConfig::within(seconds(600)));
    assert_eq!(pool("off").sticky.memory, Duration::ZERO);
}

#[test]
fn every_source_and_probe_reaches_its_field() {
    let config = good("everything.toml");
    let [.., dns, srv, http] = &config.pools[..] else { panic!("{:?}", config.pools) };
    let seconds = Duration::from_secs;
    let named = |name: &str, port, resolver: &str, min_ttl, max_ttl| {
        let resolver = resolver.parse().ok();
        Dns { name: name.to_owned(), port, resolver, min_ttl, max_ttl }
    };
    let half = Duration::from_millis(500);
    let chat = named("chat.internal", 3000, "127.0.0.1:5353", half, seconds(60));
    assert_eq!(dns.source, Some(BackendSource::Dns(chat)));
    // Without `max_ttl`, a longer `min_ttl` raises it.
    let records = named("_chat._tcp.internal", 0, "[::1]:53", seconds(600), seconds(600));
    assert_eq!(srv.source, Some(BackendSource::Srv(records)));
    let url = "http://127.0.0.1:8500/v1/health/service/chat?passing".to_owned();
    let list = HttpSource { url, interval: seconds(30), timeout: seconds(3) };
    assert_eq!(http.source, Some(BackendSource::Http(list)));
    assert!([dns, srv, http].iter().all(|pool| pool.backends.is_empty()));

    let host = || Some("chat.internal".to_owned());
    let text = str::to_owned;
    assert_eq!(dns.health.probe, ProbeConfig::EngineIo { path: text("/chat/"), host: host() });
    assert_eq!(
        srv.health.probe,
        ProbeConfig::WebSocket { path: text("/cable?probe"), host: host() }
    );
    assert_eq!(http.health.probe, ProbeConfig::EngineIo { path: text("/socket.io/"), host: None });
}
