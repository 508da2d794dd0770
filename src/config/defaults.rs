//! Every default, in one place. A test compares them with the reference page.

use std::{net::SocketAddr, time::Duration};

use super::{
    AccessLogConfig, Admin, BackendConfig, Balance, CacheStoreConfig, CertificateSource, Config,
    Cookie, DrainConfig, Forwarded, HeaderLimits, HealthConfig, HostPattern, Limits,
    ListenerConfig, ListenerProtocol, Outlier, PoolConfig, ProbeConfig, ProcessLimits, Reload,
    Reuse, RouteConfig, SessionsConfig, SetOn, SharedKeys, Sticky, Timeouts, TlsConfig, TlsVersion,
    UnknownSni, Upgrade, ValuePlaces, sticky,
};

/// How long a stopping process waits for open connections.
pub(super) const PROCESS_DRAIN: DrainConfig = DrainConfig::within(Duration::from_secs(30));

/// How long a removed backend keeps its sessions.
const POOL_DRAIN: DrainConfig = DrainConfig::within(Duration::from_secs(300));

/// Time over which `on_down = "close"` closes tunnels, so that their clients do not reconnect all at once.
pub(super) const ON_DOWN_SPREAD: Duration = Duration::from_secs(10);

/// Default of `admission.queue`: new sessions of ten seconds at 100 per second.
pub(super) const ADMISSION_QUEUE: usize = 1000;

/// Default of `admission.deadline`: half of the time that a Socket.IO client waits.
pub(super) const ADMISSION_DEADLINE: Duration = Duration::from_secs(10);

/// Limits of a request header. For comparison: Node has 16 KiB and 2000 fields, nginx 32 KiB.
pub(super) const REQUEST_HEADER: HeaderLimits = HeaderLimits { size: 64 << 10, fields: 100 };

/// Limits of a response header. Some applications send 100 KB.
pub(super) const RESPONSE_HEADER: HeaderLimits = HeaderLimits { size: 128 << 10, fields: 500 };

/// Minimum and maximum time between two DNS lookups.
pub(super) const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Time between requests for a list of backends.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Time limit of its response.
pub(super) const POLL_TIMEOUT: Duration = Duration::from_secs(2);

impl Default for Reload {
    fn default() -> Self {
        Self { watch: true, interval: Duration::from_secs(60), max_disconnects: None }
    }
}

impl Default for Upgrade {
    fn default() -> Self {
        Self {
            drain: DrainConfig::within(Duration::from_secs(3600)),
            ready: Duration::from_secs(30),
        }
    }
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            consecutive: 5,
            error_rate: 50,
            min_requests: 100,
            interval: Duration::from_secs(10),
            ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejected: 50,
        }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            probe: ProbeConfig::Tcp,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}

impl Sticky {
    /// The defaults for the pool of this name.
    pub fn of(pool: &str) -> Self {
        Self {
            engine_io: true,
            owner_search: 64,
            cookie: Some(Cookie::of(pool)),
            memory: Duration::from_secs(120),
        }
    }
}

impl Cookie {
    /// The defaults for the pool of this name.
    pub fn of(pool: &str) -> Self {
        Self {
            name: sticky::default_name(pool),
            same_site: None,
            secure: None,
            http_only: true,
            partitioned: false,
            lifetime: None,
            set_on: SetOn::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            response_header: Duration::from_secs(60),
            body_idle: Duration::from_secs(60),
            stream_idle: None,
            tunnel_idle: None,
            half_closed: Duration::from_secs(60),
        }
    }
}

impl Default for Reuse {
    /// The idle timeout is shorter than the shortest unannounced limit of common servers: gunicorn closes
    /// idle connections after 2 s, Node and uvicorn after 5 s.
    fn default() -> Self {
        Self { max_idle: 256, max_total: None, idle_timeout: Duration::from_millis(1500) }
    }
}

impl Default for SessionsConfig {
    fn default() -> Self {
        Self { max: 1_000_000, max_sid_bytes: 128 }
    }
}

impl TlsConfig {
    /// Settings with these certificates and every default.
    pub fn new(certificates: CertificateSource) -> Self {
        Self {
            certificates,
            unknown_sni: UnknownSni::default(),
            min_version: TlsVersion::default(),
            cipher_suites: Vec::new(),
            curves: Vec::new(),
            alpn: Vec::new(),
            client_auth: None,
            key_log: None,
        }
    }
}

impl PoolConfig {
    /// A pool of these backends with every default.
    pub fn new(name: impl Into<String>, backends: Vec<BackendConfig>) -> Self {
        let name = name.into();
        Self {
            sticky: Sticky::of(&name),
            name,
            backends,
            source: None,
            balance: Balance::default(),
            health: HealthConfig::default(),
            timeouts: Timeouts::default(),
            reuse: Reuse::default(),
            drain: POOL_DRAIN,
            slow_start: Duration::ZERO,
            outlier: None,
            healthy_minimum: 0,
            limits: Limits::default(),
            admission: None,
            rebalance: None,
            max_connection_age: None,
            on_down: None,
            tls: None,
            proxy_protocol: None,
            response_header: RESPONSE_HEADER,
            long_polls: Vec::new(),
        }
    }
}

impl ListenerConfig {
    /// A listener with every default.
    pub fn new(name: impl Into<String>, bind: Vec<SocketAddr>, protocol: ListenerProtocol) -> Self {
        Self {
            name: name.into(),
            bind,
            protocol,
            pool: None,
            passthrough: Vec::new(),
            proxy_protocol: None,
            connections_per_address: None,
            connection_rate: None,
            redirect: None,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(60),
            // Longer than the 60 s of the balancers in front, which must be the first to close.
            keep_alive: Duration::from_secs(75),
            header: REQUEST_HEADER,
        }
    }
}

impl Config {
    /// One pool behind these listeners for every host and path, with every default.
    pub fn new(listeners: Vec<ListenerConfig>, pool: PoolConfig) -> Self {
        Self {
            listeners,
            routes: vec![RouteConfig::to_pool(HostPattern::Any, "/", &*pool.name)],
            pools: vec![pool],
            cookie_keys: SharedKeys::Generated,
            ticket_keys: SharedKeys::Generated,
            trusted_proxies: Vec::new(),
            forwarded: Forwarded::default(),
            sessions: SessionsConfig::default(),
            cache: CacheStoreConfig::default(),
            limits: ProcessLimits::default(),
            access_log: AccessLogConfig::default(),
            redact: Vec::new(),
            drain: PROCESS_DRAIN,
            reload: Reload::default(),
            upgrade: Upgrade::default(),
            error_pages: None,
            admin: Admin::default(),
            places: ValuePlaces::default(),
            watched: Vec::new(),
        }
    }
}
